"""Networks that are made anew or written, in the forms that `load_model` takes.

New ones have random weights: nanoGPT's own network, and the shapes of GPT-2 and Llama, which are
transformers' and need the extra `hf` (`pip install 'bayesgen[hf]'`).
"""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from torch import Tensor, nn

from bayesgen.config import BaselineSettings
from bayesgen.data.tokenizers import Tokenizer, fast_tokenizer
from bayesgen.errors import UserError
from bayesgen.models.functional import FunctionalModel
from bayesgen.models.hf_interface import HuggingFaceTokenizer, quiet
from bayesgen.models.nanogpt import GPT, GPTConfig, write_checkpoint
from bayesgen.runs import atomic_write

WEIGHTS = "model.safetensors"


class Network(Protocol):
    """A network in training."""

    @property
    def module(self) -> nn.Module:
        """What is optimised."""

    def logits(self, input_ids: Tensor) -> Tensor:
        """Logits [B, T, V] of the token after each of `input_ids` [B, T]."""

    def write(self, path: Path, optimizer: Mapping[str, Any], record: Mapping[str, Any]) -> None:
        """Leave at `path` what `load_model` takes: the new state, or the old one if it is killed.

        Args:
            optimizer: state dict, where the format keeps one.
            record: `iter_num`, `best_val_loss` and `config`, plain data.
        """


@dataclass(frozen=True)
class NanoGPT:
    """nanoGPT's network; written as its checkpoint, one file."""

    module: GPT
    tokenizer: Tokenizer

    def logits(self, input_ids: Tensor) -> Tensor:
        logits: Tensor = self.module(input_ids)
        return logits

    def write(self, path: Path, optimizer: Mapping[str, Any], record: Mapping[str, Any]) -> None:
        write_checkpoint(path, self.module, self.tokenizer, optimizer=optimizer, **record)


@dataclass(frozen=True)
class HuggingFace:
    """A causal language model of transformers; written as a folder, with its tokenizer.

    Attributes:
        tokenizer: a fast tokenizer.
    """

    module: Any
    tokenizer: Any

    def logits(self, input_ids: Tensor) -> Tensor:
        logits: Tensor = self.module(input_ids=input_ids, use_cache=False).logits
        return logits

    def write(self, path: Path, optimizer: Mapping[str, Any], record: Mapping[str, Any]) -> None:
        """See `Network`; `record` goes to training.json, and the optimizer's state nowhere.

        Over a model of another shape the old weights go first, so that no file is ever beside
        weights that it does not describe.
        """
        with tempfile.TemporaryDirectory() as staging, quiet():
            self.module.save_pretrained(staging)
            self.tokenizer.save_pretrained(staging)
            files = {file.name: file.read_bytes() for file in Path(staging).iterdir()}
        weights = files.pop(WEIGHTS)
        path.mkdir(parents=True, exist_ok=True)
        for name, data in files.items():
            if not (path / name).is_file() or (path / name).read_bytes() != data:
                (path / WEIGHTS).unlink(missing_ok=True)
                atomic_write(path / name, data)
        atomic_write(path / WEIGHTS, weights)
        atomic_write(path / "training.json", f"{json.dumps(record, indent=2)}\n".encode())


def new_network(settings: BaselineSettings, tokenizer: Tokenizer) -> Network:
    """A network of `settings.architecture` over the ids of `tokenizer`, its weights random.

    Raises:
        UserError: its width cannot be split as asked, or transformers is not installed.
    """
    if settings.n_embd % settings.n_head:
        raise UserError(
            f"`n_head={settings.n_head}` does not divide `n_embd={settings.n_embd}`: every head"
            " takes an equal share of the width"
        )
    if settings.architecture == "nanogpt":
        config = GPTConfig(
            block_size=settings.block_size,
            vocab_size=tokenizer.vocab_size,
            n_layer=settings.n_layer,
            n_head=settings.n_head,
            n_embd=settings.n_embd,
            dropout=settings.dropout,
            bias=settings.bias,
        )
        return NanoGPT(GPT(config), tokenizer)
    try:
        import transformers
    except ImportError as error:
        raise UserError(
            f"`architecture={settings.architecture}` needs transformers; pip install"
            " 'bayesgen[hf]', or take nanogpt"
        ) from error
    fast = fast_tokenizer(tokenizer)
    ends = {"bos_token_id": fast.bos_token_id, "eos_token_id": fast.eos_token_id}
    make = {"gpt2": _gpt2, "llama": _llama}[settings.architecture]
    module = transformers.AutoModelForCausalLM.from_config(
        make(settings, vocab_size=len(fast), **ends)
    )
    return HuggingFace(module, fast)


def _gpt2(settings: BaselineSettings, **shared: Any) -> Any:
    from transformers import GPT2Config

    return GPT2Config(
        n_layer=settings.n_layer,
        n_head=settings.n_head,
        n_embd=settings.n_embd,
        n_positions=settings.block_size,
        resid_pdrop=settings.dropout,
        embd_pdrop=settings.dropout,
        attn_pdrop=settings.dropout,
        **shared,
    )


def _llama(settings: BaselineSettings, **shared: Any) -> Any:
    """Llama's shape; the head shares the embedding's weight, so that a small model is small."""
    from transformers import LlamaConfig

    if settings.n_embd // settings.n_head % 2:
        raise UserError(
            f"`n_head={settings.n_head}` leaves each head {settings.n_embd // settings.n_head} of"
            f" the width {settings.n_embd}: a llama turns them in pairs and needs an even number"
        )
    return LlamaConfig(
        num_hidden_layers=settings.n_layer,
        num_attention_heads=settings.n_head,
        hidden_size=settings.n_embd,
        # the gated MLP has three matrices: 8/3 of the width make it as large as one of 4 with two
        intermediate_size=8 * -(-settings.n_embd // 3),
        max_position_embeddings=settings.block_size,
        attention_bias=settings.bias,
        mlp_bias=settings.bias,
        attention_dropout=settings.dropout,
        tie_word_embeddings=True,
        **shared,
    )


def save_model(model: FunctionalModel, theta: Tensor, path: Path) -> Path:
    """Write `model` with the weights `theta` [P]; what `load_model` takes.

    Args:
        path: a folder, which is replaced; of a nanoGPT checkpoint the file `path`.pt.

    Returns:
        The folder or file.
    """
    flat = model.bind()
    flat.theta.copy_(theta)
    if isinstance(flat.module, GPT):
        assert model.tokenizer is not None
        file = path.with_suffix(".pt")
        write_checkpoint(
            file, flat.module.cpu(), model.tokenizer,
            optimizer={}, iter_num=0, best_val_loss=0.0, config={},
        )  # fmt: skip
        return file
    staging = path.with_name(f"{path.name}.unfinished")
    shutil.rmtree(staging, ignore_errors=True)
    with quiet():
        network: Any = flat.module
        network.save_pretrained(staging)
        if isinstance(model.tokenizer, HuggingFaceTokenizer):
            model.tokenizer.tokenizer.save_pretrained(staging)
    shutil.rmtree(path, ignore_errors=True)
    staging.replace(path)
    return path
