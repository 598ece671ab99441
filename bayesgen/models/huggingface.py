"""Any Hugging Face causal language model as a functional model.

Needs the extra `hf` (`pip install 'bayesgen[hf]'`).
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from typing import Any

import torch
from safetensors import SafetensorError

from bayesgen.errors import UserError
from bayesgen.models.functional import FunctionalModel, ModelInfo
from bayesgen.parameters import Subset


def load_causal_lm(name: str, parameters: Subset = "all") -> FunctionalModel:
    """Load `name`, a local folder or a hub name, through the Auto classes, in float32.

    transformers keeps a checkpoint's own dtype; what is sampled must be float32, because the noise
    of a small step vanishes in bfloat16.

    Raises:
        UserError: transformers is not installed, or nothing loadable is at `name`.
    """
    try:
        from transformers import AutoModelForCausalLM, AutoTokenizer
    except ImportError as error:
        raise UserError(
            "--model: a Hugging Face model needs transformers; pip install 'bayesgen[hf]'"
        ) from error
    try:
        module, loading = AutoModelForCausalLM.from_pretrained(
            name, dtype=torch.float32, output_loading_info=True
        )
    except (OSError, ValueError, KeyError, RuntimeError, SafetensorError) as error:
        first = " ".join(str(error).split())[:200]
        raise UserError(
            f"--model: '{name}' is no loadable causal language model: {first}"
        ) from error
    if loading["missing_keys"]:
        raise UserError(
            f"--model: '{name}' lacks weights of its own architecture, such as"
            f" '{min(loading['missing_keys'])}'; name a model trained as a causal language model"
        )
    try:
        tokenizer: Any = HuggingFaceTokenizer(AutoTokenizer.from_pretrained(name))
        # without tokenizer files transformers can make one that encodes every text as nothing
        tokenizer = tokenizer if len(tokenizer.encode("a")) else None
    except (OSError, ValueError, KeyError):
        tokenizer = None  # a model without a tokenizer still scores token ids
    rows = module.get_input_embeddings().weight.shape[0]
    if tokenizer is not None and tokenizer.vocab_size > rows:
        raise UserError(
            f"--model: the tokenizer in '{name}' has {tokenizer.vocab_size} tokens but the model"
            f" only {rows}; put the model's own tokenizer into the folder"
        )
    block_size = getattr(module.config, "max_position_embeddings", None)
    return FunctionalModel(
        module,
        lambda apply, batch: (
            apply(use_cache=False, **{k: v for k, v in batch.items() if k != "labels"}).logits
        ),
        parameters=parameters,
        tokenizer=tokenizer,
        block_size=block_size,
        info=ModelInfo(name, "huggingface", module.config.to_dict(), weights_sha256(module)),
        # a stateful model (Mamba, RWKV) keeps something else than keys and values
        reader=None if module._is_stateful else CausalReader(module.config),
    )


class CausalReader:
    """Reads texts through transformers' own cache.

    Texts of different lengths have a cache each: where a window or a bias counts slots, a gap
    between two tokens of a text would count, too.
    """

    stackable = False

    def __init__(self, config: Any) -> None:
        self.config = config

    def cache(self, texts: int, slots: int, device: torch.device) -> Any:
        return []

    def read(
        self,
        apply: Callable[..., Any],
        input_ids: torch.Tensor,
        positions: torch.Tensor,
        mask: torch.Tensor,
        cache: Any,
    ) -> torch.Tensor:
        from transformers import DynamicCache

        rows, length = input_ids.shape
        if not cache:
            groups = 1 if bool(mask.all()) else rows
            cache.extend(DynamicCache(config=self.config) for _ in range(groups))
        if len(cache) == 1:
            return _logits(apply, input_ids, positions, cache[0])
        each = []
        for row, own in enumerate(cache):
            new = int(mask[row, -length:].sum())
            piece = slice(row, row + 1), slice(0, new)
            logits = _logits(apply, input_ids[piece], positions[piece], own)
            each.append(torch.nn.functional.pad(logits, (0, 0, 0, length - new)))
        return torch.cat(each)


def _logits(
    apply: Callable[..., Any], input_ids: torch.Tensor, positions: torch.Tensor, cache: Any
) -> torch.Tensor:
    logits: torch.Tensor = apply(
        input_ids=input_ids, position_ids=positions, past_key_values=cache, use_cache=True
    ).logits
    return logits


def weights_sha256(module: torch.nn.Module) -> str:
    """Hash of all weights, frozen ones too: what a model is, wherever it was loaded from."""
    digest = hashlib.sha256()
    for parameter in module.parameters():
        digest.update(parameter.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()


class HuggingFaceTokenizer:
    """A transformers tokenizer behind the project's tokenizer protocol."""

    def __init__(self, tokenizer: Any) -> None:
        self.tokenizer = tokenizer
        self.name = str(tokenizer.name_or_path)
        self.vocab_size = len(tokenizer)

    def encode(self, text: str) -> Any:
        return self.tokenizer(text, add_special_tokens=False, return_tensors="np")["input_ids"][0]

    def decode(self, ids: Any) -> str:
        return str(self.tokenizer.decode(ids))

    def to_dict(self) -> dict[str, Any]:
        return {"kind": "huggingface", "name": self.name}
