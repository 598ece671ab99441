"""nanoGPT's network as transformers' GPT-2: the same function of weights that lie otherwise.

The names are GPT-2's already. GPT-2 keeps four matrices of each block transposed, and has biases
everywhere: those that a nanoGPT lacks are zeros, which stay frozen.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor
from transformers import GPT2LMHeadModel

from bayesgen.data.tokenizers import TiktokenTokenizer, fast_tokenizer
from bayesgen.draws import Draws
from bayesgen.errors import UserError
from bayesgen.models import FunctionalModel
from bayesgen.models.hf_interface import HuggingFaceTokenizer
from bayesgen.models.networks import gpt2_config

END_OF_TEXT = 50256
"""Among GPT-2's byte pairs."""
TRANSPOSED = ("attn.c_attn.weight", "attn.c_proj.weight", "mlp.c_fc.weight", "mlp.c_proj.weight")


def as_gpt2(model: FunctionalModel, posterior: Draws) -> tuple[FunctionalModel, Draws]:
    """A nanoGPT and its draws with GPT-2 as the network; the draws are then in memory.

    Raises:
        UserError: the network has adapters.
    """
    own: Any = model.module
    if hasattr(own, "peft_config"):
        raise UserError(
            "adapters in a nanoGPT cannot be exported; sample them on a Hugging Face model, or"
            " choose other `parameters`"
        )
    end = END_OF_TEXT if isinstance(model.tokenizer, TiktokenTokenizer) else None
    config = gpt2_config(
        own.config,
        vocab_size=own.config.vocab_size,
        activation_function="gelu",  # nanoGPT's is exact, GPT-2's an approximation
        bos_token_id=end,
        eos_token_id=end,
    )
    source = dict(own.named_parameters())
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        network = GPT2LMHeadModel(config)
        for name, parameter in network.named_parameters():
            parameter.zero_()
            if name in source:
                parameter.copy_(_laid_out(name, source[name]))
    tokenizer = None
    if model.tokenizer is not None:
        tokenizer = HuggingFaceTokenizer(fast_tokenizer(model.tokenizer))
        tokenizer.tokenizer.model_max_length = model.block_size
    same = FunctionalModel(
        network,
        parameters=lambda name, _: name in model.layout.names,
        tokenizer=tokenizer,
        block_size=model.block_size,
        info=replace(model.info, family="huggingface"),
    ).to(model.device)
    rows = []
    for theta in posterior:
        views = model.layout.views(theta)
        rows.append(same.layout.ravel({name: _laid_out(name, v) for name, v in views.items()}))
    return same, Draws.from_draws(torch.stack(rows), same.layout)


def _laid_out(name: str, tensor: Tensor) -> Tensor:
    return tensor.T if name.endswith(TRANSPOSED) else tensor
