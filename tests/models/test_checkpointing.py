"""Activations that are computed again: the same gradient, from less memory."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks

from bayesgen.errors import UserError
from bayesgen.inference.log_posterior import LogPosterior, chunks
from bayesgen.models import FunctionalModel, Lora
from bayesgen.models.checkpointing import checkpoint_blocks, refuse_idle
from bayesgen.models.lora import add_adapters
from bayesgen.models.nanogpt import GPT
from bayesgen.parameters import stacks
from bayesgen.priors import normal
from tests.models.zoo import (
    ARCHITECTURES,
    ENCODER,
    GROUPED,
    LABELS,
    SPECIAL,
    VOCABULARY,
    Architecture,
    Specimen,
    Zoo,
)

CLASSIFIER = "sequence-classification"
SHARED = Architecture(
    "ALBERT", "AlbertForSequenceClassification", CLASSIFIER,
    ENCODER | {"num_labels": LABELS, "embedding_size": 8},
)  # fmt: skip
DOCUMENTS = Architecture(
    "Longformer", "LongformerForSequenceClassification", CLASSIFIER,
    ENCODER | SPECIAL | {"attention_window": 4, "num_labels": LABELS},
)  # fmt: skip
CACHING = (
    Architecture(
        "GPT-2", "GPT2ForSequenceClassification", CLASSIFIER,
        {"vocab_size": VOCABULARY, "n_positions": 32, "n_embd": 16, "n_layer": 2, "n_head": 2,
         "num_labels": LABELS, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2},
    ),
    Architecture(
        "Llama", "LlamaForSequenceClassification", CLASSIFIER, GROUPED | {"num_labels": LABELS}
    ),
)  # fmt: skip
"""Decoders that keep keys and values unless they are told not to."""
CROSS = Architecture(
    "BART", "BartForConditionalGeneration", "seq2seq-lm",
    SPECIAL
    | {"vocab_size": VOCABULARY, "d_model": 16, "encoder_layers": 2, "decoder_layers": 2,
       "encoder_attention_heads": 2, "decoder_attention_heads": 2, "encoder_ffn_dim": 32,
       "decoder_ffn_dim": 32, "max_position_embeddings": 32, "decoder_start_token_id": 2},
)  # fmt: skip
OTHERS = (SHARED, DOCUMENTS, *CACHING, CROSS)
NAMED = {str(a): a for a in (*ARCHITECTURES, *OTHERS)}
CHOSEN = [NAMED[name] for name in (f"BERT-{CLASSIFIER}", "GPT-2-causal-lm", str(DOCUMENTS))]
SUBSETS = ("all", "head", "lora", "layers=-1:")


@pytest.fixture(scope="module")
def zoo(tmp_path_factory: pytest.TempPathFactory) -> Zoo:
    return Zoo(tmp_path_factory.mktemp("zoo"))


def loaded(specimen: Specimen, parameters: str) -> FunctionalModel:
    options = {"lora": Lora(r=2)} if parameters == "lora" else {}
    return specimen.load(parameters=parameters, **options)


def nanogpt(tiny_gpt: FunctionalModel, parameters: str) -> FunctionalModel:
    if parameters == "lora":
        add_adapters(tiny_gpt.module, Lora(r=2, targets=("c_attn",)).config(tiny_gpt.module))
    return FunctionalModel(tiny_gpt.module, parameters=parameters)


def gradients(
    model: FunctionalModel, batch: dict[str, Tensor], **options: Any
) -> list[tuple[Tensor, Tensor]]:
    """ℓ and its gradient [P] near the start, without and with checkpointing."""
    noise = torch.randn(model.layout.size, generator=torch.Generator().manual_seed(2))
    phi = chunks(model.theta + 0.05 * noise)
    found = []
    for checkpointing in (False, True):
        target = LogPosterior(
            model, normal(model.layout.size, 0.2), 100, checkpointing=checkpointing, **options
        )
        pieces, (value, _) = torch.func.grad_and_value(target, has_aux=True)(phi, batch)
        found.append((value, torch.cat(pieces)))
    return found


def assert_equal(found: list[tuple[Tensor, Tensor]]) -> None:
    (value, gradient), (value_again, gradient_again) = found
    assert gradient.any()
    assert torch.equal(value, value_again)
    assert torch.equal(gradient, gradient_again)


WAYS: tuple[dict[str, Any], ...] = ({}, {"precision": "bf16", "accumulation": 2})


@pytest.mark.parametrize("options", WAYS, ids=str)
@pytest.mark.parametrize("parameters", SUBSETS)
@pytest.mark.parametrize("architecture", CHOSEN, ids=str)
def test_the_gradient_is_the_same_to_the_bit(
    architecture: Architecture, parameters: str, options: dict[str, Any], zoo: Zoo
) -> None:
    specimen = zoo[architecture]
    assert_equal(gradients(loaded(specimen, parameters), specimen.batch(), **options))


@pytest.mark.parametrize("options", WAYS, ids=str)
@pytest.mark.parametrize("parameters", SUBSETS)
def test_that_of_a_nanogpt_too(
    parameters: str,
    options: dict[str, Any],
    tiny_gpt: FunctionalModel,
    tiny_batch: dict[str, Tensor],
) -> None:
    assert_equal(gradients(nanogpt(tiny_gpt, parameters), tiny_batch, **options))


@pytest.mark.parametrize("architecture", NAMED.values(), ids=str)
def test_every_architecture_keeps_its_gradient(architecture: Architecture, zoo: Zoo) -> None:
    """To rounding: what several blocks use is summed in another order."""
    specimen = zoo[architecture]
    (value, gradient), (again, gradient_again) = gradients(specimen.load(), specimen.batch())
    assert torch.equal(value, again)
    torch.testing.assert_close(gradient, gradient_again, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("architecture", [CHOSEN[0], DOCUMENTS], ids=str)
def test_the_gradient_of_every_row_is_the_same(architecture: Architecture, zoo: Zoo) -> None:
    specimen = zoo[architecture]
    model = specimen.load()
    found = []
    for checkpointing in (False, True):
        target = LogPosterior(
            model, normal(model.layout.size, 0.2), 100, checkpointing=checkpointing
        )
        jacobian, _ = torch.func.jacrev(target.per_sequence, has_aux=True)(
            chunks(model.theta), specimen.batch()
        )
        found.append(torch.cat(jacobian, 1))
    assert found[0].any()
    assert torch.equal(*found)


# -- what is computed again, and what it saves ----------------------------------------------------


def passes(model: FunctionalModel, batch: dict[str, Tensor]) -> list[int]:
    """How often each block runs for one gradient."""
    prior = normal(model.layout.size, 0.2)
    target = LogPosterior(model, prior, 100, checkpointing=True)
    (blocks,) = stacks(target.flat.module).values()
    counts = [0] * len(blocks)

    def count(index: int) -> None:
        counts[index] += 1

    for i, block in enumerate(blocks):
        first = next(block.children())
        first.register_forward_pre_hook(lambda module, inputs, i=i: count(i))
    target.log_likelihood_grad(model.theta, batch)
    return counts


@pytest.mark.parametrize(
    ("parameters", "expected"),
    [("all", [2, 2]), ("lora", [2, 2]), ("layers=0", [2, 2]), ("layers=-1:", [1, 2]),
     ("head", [1, 1])],
)  # fmt: skip
def test_blocks_run_again_where_a_gradient_flows(
    parameters: str, expected: list[int], zoo: Zoo
) -> None:
    specimen = zoo[CHOSEN[0]]
    assert passes(loaded(specimen, parameters), specimen.batch()) == expected


def kept(module: nn.Module, batch: dict[str, Tensor]) -> int:
    """Bytes that the forward pass keeps for the backward pass, beside the weights."""
    weights = {p.untyped_storage().data_ptr() for p in module.parameters()}
    storages: dict[int, int] = {}

    def note(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            storages[storage.data_ptr()] = storage.nbytes()
        return tensor

    with saved_tensors_hooks(note, lambda tensor: tensor):
        logits = module(**batch).logits
    assert logits.requires_grad
    return sum(storages.values())


@pytest.mark.parametrize("architecture", CHOSEN, ids=str)
def test_a_fraction_of_the_activations_is_kept(architecture: Architecture, zoo: Zoo) -> None:
    specimen = zoo[architecture]
    plain, again = (
        kept(specimen.load().bind(checkpointing=on).module, specimen.batch())
        for on in (False, True)
    )
    assert again < 0.5 * plain


def test_the_loaded_model_is_left_alone(zoo: Zoo) -> None:
    model = zoo[CACHING[0]].load()
    bound = model.bind(checkpointing=True).module
    assert not bound.training
    assert not bound.config.use_cache
    assert model.module.config.use_cache
    assert not any("forward" in vars(child) for child in model.module.modules())


# -- blocks of all kinds ---------------------------------------------------------------------------


class Odd(nn.Module):
    """A block that takes and gives tensors in containers, by position and by keyword."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(4, 4))

    def forward(
        self, pair: dict[str, Any], *, context: tuple[Tensor, str | None], flag: bool
    ) -> tuple[dict[str, Any], list[Any]]:
        assert flag
        assert context[1] == "kept"
        mixed = torch.tanh(pair["x"] @ self.weight + context[0])
        return {"x": mixed, "mask": pair["mask"]}, [mixed.mean(), None, 3]


class OddNetwork(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.context = nn.Parameter(torch.randn(4))
        self.blocks = nn.ModuleList(Odd() for _ in range(3))

    def forward(self, x: Tensor) -> Tensor:
        state: dict[str, Any] = {"x": x, "mask": torch.ones(2, dtype=torch.bool)}
        total = torch.zeros(())
        for block in self.blocks:
            state, (mean, nothing, three) = block(state, context=(self.context, "kept"), flag=True)
            assert nothing is None
            assert state["mask"].dtype == torch.bool
            total = total + three * mean
        return state["x"] + total


def test_tensors_in_containers_keep_their_gradients() -> None:
    torch.manual_seed(0)
    network, x = OddNetwork(), torch.randn(5, 4)
    plain = torch.autograd.grad(network(x).square().sum(), list(network.parameters()))
    checkpoint_blocks(network)
    network(x).square().sum().backward()
    for parameter, expected in zip(network.parameters(), plain, strict=True):
        assert parameter.grad is not None
        torch.testing.assert_close(parameter.grad, expected)


class Box:
    def __init__(self, hidden: Tensor) -> None:
        self.hidden = hidden


class Boxing(nn.Linear):
    def forward(self, x: Tensor) -> Any:
        return Box(super().forward(x))


def test_an_output_that_could_hide_a_tensor_is_refused() -> None:
    network = nn.ModuleList([Boxing(2, 2), Boxing(2, 2)])
    outer = nn.ModuleDict({"blocks": network})
    checkpoint_blocks(outer)
    with pytest.raises(UserError, match=r"blocks \(Boxing\) return a Box"):
        network[0](torch.randn(1, 2))


def test_a_model_without_blocks_is_refused() -> None:
    model = FunctionalModel(nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2)))
    with pytest.raises(UserError, match="`gradient_checkpointing`: the model has no stack"):
        model.bind(checkpointing=True)


# -- where it would have no effect -----------------------------------------------------------------


@pytest.mark.parametrize("architecture", [*CHOSEN, CROSS, SHARED], ids=str)
@pytest.mark.parametrize("parameters", SUBSETS)
def test_it_is_refused_where_it_saves_nothing(
    architecture: Architecture, parameters: str, zoo: Zoo
) -> None:
    specimen = zoo[architecture]
    model = loaded(specimen, parameters)
    plain, again = (
        kept(model.bind(checkpointing=on).module, specimen.batch()) for on in (False, True)
    )
    if again < plain:
        refuse_idle(model.module, model.layout.names)
    else:
        with pytest.raises(UserError, match="`gradient_checkpointing` has no effect"):
            refuse_idle(model.module, model.layout.names)


def test_the_head_of_a_nanogpt_is_its_embedding(tiny_gpt: FunctionalModel) -> None:
    assert isinstance(tiny_gpt.module, GPT)
    refuse_idle(tiny_gpt.module, ["transformer.wte.weight"])
    with pytest.raises(UserError, match="no effect"):
        refuse_idle(tiny_gpt.module, ["transformer.ln_f.weight"])
