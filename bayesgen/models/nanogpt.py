"""GPT as in nanoGPT: the network, and reading and writing its checkpoints.

Architecture and state-dict names follow nanoGPT (Karpathy, https://github.com/karpathy/nanoGPT), so
that a `ckpt.pt` of one loads in the other. Unlike nanoGPT's, the forward pass always returns the
logits of *every* position: a likelihood of the last position only is a different model.
"""

from __future__ import annotations

import io
import math
import zipfile
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bayesgen.data.tokenizers import TiktokenTokenizer, Tokenizer, read_meta, tokenizer_from_dict
from bayesgen.errors import UserError
from bayesgen.models.functional import Batch, Piece
from bayesgen.parameters import Layout
from bayesgen.runs.files import atomic_write, file_sha256

SUFFIXES = {".pt", ".pth", ".ckpt"}  # of checkpoints


@dataclass(frozen=True)
class GPTConfig:
    """nanoGPT's `model_args`."""

    block_size: int = 1024
    vocab_size: int = 50304
    n_layer: int = 12
    n_head: int = 12
    n_embd: int = 768
    dropout: float = 0.0
    bias: bool = True


@dataclass(frozen=True)
class KeyValues:
    """Keys and values [L, B, H, slots, d] of all layers, for tokens that are read in pieces.

    Attributes:
        start: slots that earlier pieces filled, where this one begins; 0 for the first.
        mask: [B, slots that are filled after this piece], whether a slot holds a token of the row.
            Beside it a piece after the first is one token long, so that nothing lies ahead of it.
    """

    keys: Tensor
    values: Tensor
    start: int
    mask: Tensor

    def attend(self, layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """Keep `k` and `v` [B, H, T, d], and let `q` attend to them and what was read before."""
        end = self.mask.shape[1]
        self.keys[layer][:, :, self.start : end] = k
        self.values[layer][:, :, self.start : end] = v
        if self.start == 0:
            return F.scaled_dot_product_attention(q, k, v, is_causal=True)
        keys, values = self.keys[layer][:, :, :end], self.values[layer][:, :, :end]
        scores = q @ keys.transpose(-1, -2) / math.sqrt(q.shape[-1])
        return scores.masked_fill(~self.mask[:, None, None], -torch.inf).softmax(-1) @ values


class CausalSelfAttention(nn.Module):
    def __init__(self, config: GPTConfig) -> None:
        super().__init__()
        if config.n_head < 1 or config.n_embd % config.n_head:
            raise ValueError(f"{config.n_embd} channels cannot be split into {config.n_head} heads")
        self.c_attn = nn.Linear(config.n_embd, 3 * config.n_embd, bias=config.bias)
        self.c_proj = nn.Linear(config.n_embd, config.n_embd, bias=config.bias)
        self.resid_dropout = nn.Dropout(config.dropout)
        self.n_head = config.n_head
        self.dropout = config.dropout

    def forward(self, x: Tensor, cache: KeyValues | None = None, layer: int = 0) -> Tensor:
        batch, length, width = x.shape
        q, k, v = (
            part.view(batch, length, self.n_head, width // self.n_head).transpose(1, 2)
            for part in self.c_attn(x).split(width, dim=2)
        )
        if cache is None:
            dropout = self.dropout if self.training else 0.0
            y = F.scaled_dot_product_attention(q, k, v, dropout_p=dropout, is_causal=True)
        else:
            y = cache.attend(layer, q, k, v)
        y = y.transpose(1, 2).reshape(batch, length, width)
        out: Tensor = self.resid_dropout(self.c_proj(y))
        return out


class Block(nn.Module):
    def __init__(self, config: GPTConfig) -> None:
        super().__init__()
        self.ln_1 = nn.LayerNorm(config.n_embd, bias=config.bias)
        self.attn = CausalSelfAttention(config)
        self.ln_2 = nn.LayerNorm(config.n_embd, bias=config.bias)
        self.mlp = nn.Sequential(
            OrderedDict(
                c_fc=nn.Linear(config.n_embd, 4 * config.n_embd, bias=config.bias),
                gelu=nn.GELU(),
                c_proj=nn.Linear(4 * config.n_embd, config.n_embd, bias=config.bias),
                dropout=nn.Dropout(config.dropout),
            )
        )

    def forward(self, x: Tensor, cache: KeyValues | None = None, layer: int = 0) -> Tensor:
        x = x + self.attn(self.ln_1(x), cache, layer)
        out: Tensor = x + self.mlp(self.ln_2(x))
        return out


class GPT(nn.Module):
    """A decoder-only transformer; the output head shares the token embedding's weight."""

    def __init__(self, config: GPTConfig) -> None:
        super().__init__()
        self.config = config
        self.transformer = nn.ModuleDict(
            {
                "wte": nn.Embedding(config.vocab_size, config.n_embd),
                "wpe": nn.Embedding(config.block_size, config.n_embd),
                "drop": nn.Dropout(config.dropout),
                "h": nn.ModuleList(Block(config) for _ in range(config.n_layer)),
                "ln_f": nn.LayerNorm(config.n_embd, bias=config.bias),
            }
        )
        self.lm_head = nn.Linear(config.n_embd, config.vocab_size, bias=False)
        self.transformer["wte"].weight = self.lm_head.weight
        for name, parameter in self.named_parameters():
            if parameter.dim() == 1:
                nn.init.constant_(parameter, float("ln_" in name and name.endswith("weight")))
            elif name.endswith("c_proj.weight"):
                # GPT-2: the residual stream is a sum of 2·n_layer such projections
                nn.init.normal_(parameter, std=0.02 / math.sqrt(2 * config.n_layer))
            else:
                nn.init.normal_(parameter, std=0.02)

    def forward(
        self, input_ids: Tensor, positions: Tensor | None = None, cache: KeyValues | None = None
    ) -> Tensor:
        """Logits [B, T, V] of the token after each of `input_ids` [B, T] at `positions` [B, T] (by
        default 0, 1, ...), after what `cache` holds."""
        length = input_ids.shape[1]
        if length > self.config.block_size:
            raise ValueError(f"{length} tokens exceed the block size {self.config.block_size}")
        net = self.transformer
        if positions is None:
            positions = torch.arange(length, device=input_ids.device)
        x = net["drop"](net["wte"](input_ids) + net["wpe"](positions))
        for layer, block in enumerate(net["h"].children()):
            x = block(x, cache, layer)
        logits: Tensor = self.lm_head(net["ln_f"](x))
        return logits


def call(apply: Callable[..., Any], batch: Batch) -> Tensor:
    """See `models.functional.Call`."""
    logits: Tensor = apply(batch["input_ids"])
    return logits


class GPTReader:
    """Reads texts through `KeyValues`; plain tensors, fit for vmap over draws."""

    stackable = True

    def __init__(self, config: GPTConfig) -> None:
        self.config = config

    def cache(self, texts: int, slots: int, device: torch.device) -> tuple[Tensor, Tensor]:
        c = self.config
        shape = (c.n_layer, texts, c.n_head, slots, c.n_embd // c.n_head)
        return torch.zeros(shape, device=device), torch.zeros(shape, device=device)

    def read(self, apply: Callable[..., Any], piece: Piece, cache: tuple[Tensor, Tensor]) -> Tensor:
        start = piece.mask.shape[1] - piece.input_ids.shape[1]
        past = KeyValues(*cache, start, piece.mask)
        logits: Tensor = apply(piece.input_ids, piece.positions, past)
        return logits


@dataclass(frozen=True)
class Checkpoint:
    """A nanoGPT checkpoint in memory; `raw` is what the file holds beside the weights (`optimizer`,
    `iter_num`, ...), and `sha256` its hash, None for an outline."""

    module: GPT
    tokenizer: Tokenizer | None
    raw: Mapping[str, Any]
    sha256: str | None


def read_checkpoint(path: Path, meta_path: Path | None = None, outline: bool = False) -> Checkpoint:
    """Read a nanoGPT `ckpt.pt` (or one of ours) into float32, without executing anything in it; as
    an `outline` on the device "meta", without its weights. UserError where it is none."""
    if not path.is_file():
        raise UserError(
            f"`model`: no checkpoint at '{path}'; train one with 'bayesgen baseline', or name one"
        )
    try:
        # mapped, where the format allows it: weights are in memory once, and not for an outline
        mapped = zipfile.is_zipfile(path)
        raw = torch.load(path, map_location="cpu", weights_only=True, mmap=mapped)
    except Exception as error:  # of a damaged pickle, nearly any
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise UserError(
            f"`model`: '{path}' cannot be read as a checkpoint, it is damaged, truncated or holds"
            f" more than tensors and plain data; copy or train it again ({reason})"
        ) from error
    if not isinstance(raw, dict) or not {"model", "model_args"} <= raw.keys():
        raise UserError(
            f"`model`: '{path}' is not a nanoGPT checkpoint (keys 'model' and 'model_args' missing)"
        )
    try:
        known = raw["model_args"].keys() & {field.name for field in fields(GPTConfig)}
        config = GPTConfig(**{name: raw["model_args"][name] for name in known})
        with torch.device("meta" if outline else "cpu"):
            module = GPT(config)
        state = {
            name.removeprefix("_orig_mod."): weight
            for name, weight in raw.pop("model").items()
            if not name.endswith(".attn.bias")  # the causal mask of older nanoGPT checkpoints
        }
        if not outline:  # copied, not assigned: tied weights stay tied and are float32
            module.load_state_dict(state)
    except (RuntimeError, TypeError, ValueError, AttributeError) as error:
        reason = " ".join(str(error).split())[:200]
        why = f"`model`: the weights in '{path}' do not fit a nanoGPT: {reason}"
        raise UserError(why) from error
    tokenizer = _tokenizer(path, meta_path, raw, config)
    if tokenizer is not None and tokenizer.vocab_size > config.vocab_size:
        raise UserError(
            f"META_PATH: the tokenizer of '{path}' has {tokenizer.vocab_size} tokens but the model"
            f" only {config.vocab_size}; give the meta.pkl that the model was trained with"
        )
    return Checkpoint(module, tokenizer, raw, None if outline else file_sha256(path))


def _tokenizer(
    path: Path, meta_path: Path | None, raw: Mapping[str, Any], config: GPTConfig
) -> Tokenizer | None:
    """The first of: `meta_path`, the one stored in the file (ours), `meta.pkl` beside the file, and
    GPT-2's BPE where the vocabulary has its size (50257, padded to 50304)."""
    if meta_path is None and isinstance(raw.get("tokenizer"), dict):
        return tokenizer_from_dict(raw["tokenizer"])
    meta = meta_path or path.parent / "meta.pkl"
    if meta_path is not None or meta.is_file():
        return read_meta(meta)
    return TiktokenTokenizer() if config.vocab_size in {50257, 50304} else None


def write_checkpoint(
    path: Path,
    module: GPT,
    tokenizer: Tokenizer,
    *,
    optimizer: Mapping[str, Any] | None = None,
    iter_num: int = 0,
    best_val_loss: float = 0.0,
    config: Mapping[str, Any] | None = None,
) -> None:
    """Write, atomically, a checkpoint that nanoGPT's `sample.py` and `train.py` read; what it holds
    beyond nanoGPT's keys, `tokenizer`, they ignore."""
    buffer = io.BytesIO()
    torch.save(
        {
            "model": module.state_dict(),
            "optimizer": dict(optimizer or {}),
            "model_args": asdict(module.config),
            "iter_num": iter_num,
            "best_val_loss": best_val_loss,
            "config": dict(config or {}),
            "tokenizer": tokenizer.to_dict(),
        },
        buffer,
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    atomic_write(path, buffer.getvalue())


def adam_second_moments(path: Path, layout: Layout) -> Tensor:
    """Adam's `exp_avg_sq` of a nanoGPT checkpoint, in the order of θ: [P]; UserError where it holds
    no optimizer state, or one of another kind."""
    checkpoint = read_checkpoint(path)
    # numbered group by group: those with two or more dimensions are decayed, and come first
    order = sorted(checkpoint.module.named_parameters(), key=lambda named: named[1].dim() < 2)
    try:
        states = (checkpoint.raw.get("optimizer") or {}).get("state", {})
        moments = {name: states[i]["exp_avg_sq"] for i, (name, _) in enumerate(order)}
        return torch.cat([moments[e.name].view(e.shape).flatten() for e in layout.entries])
    except (KeyError, RuntimeError, AttributeError, TypeError) as error:
        raise UserError(
            f"`preconditioner=adam`: '{path}' holds no moments; use `preconditioner=gradients`"
        ) from error
