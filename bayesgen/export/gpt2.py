"""nanoGPT's network as transformers' GPT-2: the same function of weights that lie otherwise.

The names are GPT-2's already. GPT-2 keeps four matrices of each block transposed, and has biases
everywhere: those that a nanoGPT lacks are zeros, which stay frozen.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from transformers import GPT2Config, GPT2LMHeadModel

from bayesgen.data.tokenizers import TiktokenTokenizer, fast_tokenizer
from bayesgen.draws import Draws
from bayesgen.errors import UserError
from bayesgen.models import FunctionalModel
from bayesgen.models.hf_interface import HuggingFaceTokenizer

END_OF_TEXT = 50256
"""Among GPT-2's byte pairs."""
TRANSPOSED = ("attn.c_attn.weight", "attn.c_proj.weight", "mlp.c_fc.weight", "mlp.c_proj.weight")


def as_gpt2(model: FunctionalModel, posterior: Draws) -> tuple[FunctionalModel, Draws]:
    """A nanoGPT and its draws with GPT-2 as the network; the draws are then in memory.

    Raises:
        UserError: the network has adapters.
    """
    if hasattr(model.module, "peft_config"):
        raise UserError(
            "adapters in a nanoGPT cannot be exported; sample them on a Hugging Face model, or"
            " choose other `parameters`"
        )
    source = dict(model.module.named_parameters())
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        network = GPT2LMHeadModel(_config(model))
        for name, parameter in network.named_parameters():
            parameter.zero_()
            if name in source:
                parameter.copy_(_laid_out(name, source[name]))
    same = FunctionalModel(
        network,
        parameters=lambda name, _: name in model.layout.names,
        tokenizer=_tokenizer(model),
        block_size=model.block_size,
        info=dataclasses.replace(model.info, family="huggingface"),
    ).to(model.device)
    draws = torch.stack([same.layout.ravel(_all(model.layout.views(row))) for row in posterior])
    return same, Draws.from_draws(draws, same.layout)


def _all(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: _laid_out(name, tensor) for name, tensor in tensors.items()}


def _laid_out(name: str, tensor: Tensor) -> Tensor:
    return tensor.T if name.endswith(TRANSPOSED) else tensor


def _config(model: FunctionalModel) -> GPT2Config:
    own: Any = model.module.config
    end = END_OF_TEXT if isinstance(model.tokenizer, TiktokenTokenizer) else None
    return GPT2Config(
        vocab_size=own.vocab_size,
        n_positions=own.block_size,
        n_embd=own.n_embd,
        n_layer=own.n_layer,
        n_head=own.n_head,
        activation_function="gelu",  # nanoGPT's is exact, GPT-2's an approximation
        resid_pdrop=own.dropout,
        embd_pdrop=own.dropout,
        attn_pdrop=own.dropout,
        bos_token_id=end,
        eos_token_id=end,
    )


def _tokenizer(model: FunctionalModel) -> HuggingFaceTokenizer | None:
    if model.tokenizer is None:
        return None
    same = fast_tokenizer(model.tokenizer)
    same.model_max_length = model.block_size
    return HuggingFaceTokenizer(same)
