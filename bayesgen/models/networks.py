"""Networks that are made anew, written in the forms that `load_model` takes, or made another's.

New ones have random weights: nanoGPT's own network, and the shapes of GPT-2 and Llama, which are
transformers' and need the extra `hf` (`pip install 'bayesgen[hf]'`).
"""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from bayesgen.config.jobs import BaselineSettings
from bayesgen.data.tokenizers import TiktokenTokenizer, Tokenizer, fast_tokenizer
from bayesgen.errors import UserError
from bayesgen.models.functional import FunctionalModel
from bayesgen.models.hf_interface import HuggingFaceTokenizer, quiet
from bayesgen.models.nanogpt import GPT, GPTConfig, write_checkpoint
from bayesgen.parameters import Layout
from bayesgen.runs.files import atomic_write

WEIGHTS = "model.safetensors"
END_OF_TEXT = 50256  # among GPT-2's byte pairs
TRANSPOSED = ("attn.c_attn.weight", "attn.c_proj.weight", "mlp.c_fc.weight", "mlp.c_proj.weight")
"""Matrices that GPT-2 keeps the other way round than nanoGPT."""


@dataclass(frozen=True)
class Network:
    """A network in training with its tokenizer: nanoGPT's; written as its checkpoint, one file."""

    module: Any
    tokenizer: Any

    def logits(self, input_ids: Tensor) -> Tensor:
        """Logits [B, T, V] of the token after each of `input_ids` [B, T]."""
        logits: Tensor = self.module(input_ids)
        return logits

    def write(self, path: Path, optimizer: Mapping[str, Any], record: Mapping[str, Any]) -> None:
        """Leave at `path` what `load_model` takes: the new state, or the old one if it is killed;
        with the optimizer's state dict, where the format keeps one, and `record`: `iter_num`,
        `best_val_loss` and `config`, plain data."""
        write_checkpoint(path, self.module, self.tokenizer, optimizer=optimizer, **record)


class HuggingFace(Network):
    """A causal language model of transformers; written as a folder, with its fast tokenizer."""

    def logits(self, input_ids: Tensor) -> Tensor:
        logits: Tensor = self.module(input_ids=input_ids, use_cache=False).logits
        return logits

    def write(self, path: Path, optimizer: Mapping[str, Any], record: Mapping[str, Any]) -> None:
        """See `Network`; `record` goes to training.json. Over a model of another shape the old
        weights go first, so that no file is ever beside weights that it does not describe."""
        with tempfile.TemporaryDirectory() as staging:
            save_pretrained(self.module, self.tokenizer, staging)
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
    """A network of `settings.architecture` over the ids of `tokenizer`, its weights random."""
    if settings.n_embd % settings.n_head:
        raise UserError(
            f"`n_head={settings.n_head}` does not divide `n_embd={settings.n_embd}`: every head"
            " takes an equal share of the width"
        )
    if settings.architecture == "nanogpt":
        names = {f.name for f in fields(GPTConfig)} - {"vocab_size"}
        shape = {name: getattr(settings, name) for name in names}
        return Network(GPT(GPTConfig(vocab_size=tokenizer.vocab_size, **shape)), tokenizer)
    try:
        from transformers import AutoModelForCausalLM
    except ImportError as error:
        raise UserError(
            f"`architecture={settings.architecture}` needs transformers; pip install"
            " 'bayesgen[hf]', or take nanogpt"
        ) from error
    fast = fast_tokenizer(tokenizer)
    ends = {"bos_token_id": fast.bos_token_id, "eos_token_id": fast.eos_token_id}
    make: Any = _gpt2_config if settings.architecture == "gpt2" else _llama_config
    config = make(settings, vocab_size=len(fast), **ends)
    return HuggingFace(AutoModelForCausalLM.from_config(config), fast)


def _gpt2_config(shape: BaselineSettings | GPTConfig, **others: Any) -> Any:
    """GPT-2's configuration for a network of this shape."""
    from transformers import GPT2Config

    return GPT2Config(
        n_layer=shape.n_layer,
        n_head=shape.n_head,
        n_embd=shape.n_embd,
        n_positions=shape.block_size,
        resid_pdrop=shape.dropout,
        embd_pdrop=shape.dropout,
        attn_pdrop=shape.dropout,
        **others,
    )


def _llama_config(settings: BaselineSettings, **others: Any) -> Any:
    """Llama's shape; the head shares the embedding's weight, so that a small model is small."""
    from transformers import LlamaConfig

    each = settings.n_embd // settings.n_head
    if each % 2:
        raise UserError(
            f"`n_head={settings.n_head}` leaves each head {each} of the width {settings.n_embd}: a"
            " llama turns them in pairs and needs an even number"
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
        **others,
    )


def as_gpt2(
    model: FunctionalModel, posterior: Iterable[Tensor]
) -> tuple[Any, Layout, Iterator[Tensor]]:
    """The network of a nanoGPT as transformers' GPT-2, the same function; and its draws, in a
    layout with the same names. What GPT-2 has and a nanoGPT may lack, biases, are frozen zeros."""
    from transformers import GPT2LMHeadModel

    own: Any = model.module
    if hasattr(own, "peft_config"):
        raise UserError(
            "adapters in a nanoGPT cannot be exported; sample them on a Hugging Face model, or"
            " choose other `parameters`"
        )
    end = END_OF_TEXT if isinstance(model.tokenizer, TiktokenTokenizer) else None
    config = _gpt2_config(
        own.config,
        vocab_size=own.config.vocab_size,
        activation_function="gelu",  # nanoGPT's is exact, GPT-2's an approximation
        bos_token_id=end,
        eos_token_id=end,
    )
    with torch.random.fork_rng(devices=[]):
        network = GPT2LMHeadModel(config).requires_grad_(False).to(model.device)
    zeros = {name: torch.zeros_like(weight) for name, weight in network.named_parameters()}
    network.load_state_dict(zeros | _laid_out(own.state_dict()))
    layout = Layout.of((name, network.get_parameter(name)) for name in model.layout.names)
    views = map(model.layout.views, posterior)
    return network, layout, (layout.ravel(_laid_out(tensors)) for tensors in views)


def _laid_out(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: t.T if name.endswith(TRANSPOSED) else t for name, t in tensors.items()}


def save_model(model: FunctionalModel, theta: Tensor, path: Path) -> Path:
    """Write `model` with the weights `theta` [P] in the place of the folder `path`; a nanoGPT to
    the file `path`.pt. Returns which it is, for `load_model`."""
    flat = model.bind()
    flat.theta.copy_(theta)
    if isinstance(flat.module, GPT):
        assert model.tokenizer is not None
        file = path.with_suffix(".pt")
        write_checkpoint(file, flat.module.cpu(), model.tokenizer)
        return file
    own = model.tokenizer.tokenizer if isinstance(model.tokenizer, HuggingFaceTokenizer) else None
    staging = path.with_name(f"{path.name}.unfinished")
    shutil.rmtree(staging, ignore_errors=True)
    save_pretrained(flat.module, own, staging)
    shutil.rmtree(path, ignore_errors=True)
    staging.replace(path)
    return path


def save_pretrained(module: Any, tokenizer: Any, folder: str | Path) -> None:
    """Write a model of transformers, with its tokenizer if it has one."""
    with quiet():
        module.save_pretrained(folder)
        if tokenizer is not None:
            tokenizer.save_pretrained(folder)
