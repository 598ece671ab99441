"""Networks that are made anew or written, in the forms that `load_model` takes.

New ones have random weights: nanoGPT's own network, and the shapes of GPT-2 and Llama, which are
transformers' and need the extra `hf` (`pip install 'bayesgen[hf]'`).
"""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from torch import Tensor

from bayesgen.config.jobs import BaselineSettings
from bayesgen.data.tokenizers import Tokenizer, fast_tokenizer
from bayesgen.errors import UserError
from bayesgen.models.functional import FunctionalModel
from bayesgen.models.hf_interface import HuggingFaceTokenizer, quiet
from bayesgen.models.nanogpt import GPT, GPTConfig, write_checkpoint
from bayesgen.runs.files import atomic_write

WEIGHTS = "model.safetensors"


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
            _save(self.module, self.tokenizer, staging)
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
    make: Any = gpt2_config if settings.architecture == "gpt2" else _llama_config
    config = make(settings, vocab_size=len(fast), **ends)
    return HuggingFace(AutoModelForCausalLM.from_config(config), fast)


def gpt2_config(shape: BaselineSettings | GPTConfig, **others: Any) -> Any:
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
    _save(flat.module, own, staging)
    shutil.rmtree(path, ignore_errors=True)
    staging.replace(path)
    return path


def _save(module: Any, tokenizer: Any, folder: str | Path) -> None:
    """Write a model of transformers, with its tokenizer if it has one."""
    with quiet():
        module.save_pretrained(folder)
        if tokenizer is not None:
            tokenizer.save_pretrained(folder)
