from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from bayesgen.models.functional import FunctionalModel, ModelInfo


class Encoder(nn.Module):
    """Takes keywords and returns a dictionary, as models of other libraries do."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(11, 6)
        self.dropout = nn.Dropout(0.5)
        self.head = nn.Linear(6, 3)

    def forward(self, *, tokens: Tensor, mask: Tensor) -> dict[str, Tensor]:
        pooled = (self.embed(tokens) * mask.unsqueeze(-1)).sum(1)
        return {"scores": self.head(self.dropout(pooled))}


def call_encoder(apply: Any, batch: Any) -> Tensor:
    scores: Tensor = apply(tokens=batch["input_ids"], mask=batch["mask"])["scores"]
    return scores


@pytest.fixture
def draws(tiny_gpt: FunctionalModel) -> Tensor:
    """[4, P], around the loaded weights."""
    noise = torch.randn(4, tiny_gpt.layout.size, generator=torch.Generator().manual_seed(2))
    return tiny_gpt.theta + 0.1 * noise


def test_the_function_at_the_loaded_weights_is_the_module(
    tiny_gpt: FunctionalModel, tiny_batch: dict[str, Tensor]
) -> None:
    logits = tiny_gpt(tiny_gpt.theta, tiny_batch)
    assert logits.shape == (3, 8, 11)
    assert torch.equal(logits, tiny_gpt.module(tiny_batch["input_ids"]))


def test_chains_may_start_elsewhere_and_the_loaded_weights_stay(
    tiny_gpt: FunctionalModel, draws: Tensor
) -> None:
    loaded = tiny_gpt.theta.clone()
    head = tiny_gpt.layout.names[-1]
    model = FunctionalModel(tiny_gpt.module, new=[head, "frozen.weight"])
    assert model.theta is model.loaded
    assert model.untrained == {head, "frozen.weight"}
    model.start_at(draws[0])
    assert torch.equal(model.theta, draws[0])
    assert torch.equal(model.loaded, loaded)
    assert model.untrained == {"frozen.weight"}  # no run moves it
    assert torch.equal(FunctionalModel(model.module).theta, draws[0])
    model.to("cpu")
    assert torch.equal(model.theta, draws[0])
    assert torch.equal(model.loaded, loaded)


def test_the_function_at_another_theta_is_a_module_with_these_weights(
    tiny_gpt: FunctionalModel, tiny_batch: dict[str, Tensor], draws: Tensor
) -> None:
    before = tiny_gpt(tiny_gpt.theta, tiny_batch)
    logits = tiny_gpt(draws[0], tiny_batch)
    assert not torch.allclose(logits, before)
    assert torch.equal(tiny_gpt(tiny_gpt.theta, tiny_batch), before)  # pure: nothing has moved

    tiny_gpt.module.load_state_dict(tiny_gpt.layout.views(draws[0]), strict=False)
    assert torch.equal(tiny_gpt.module(tiny_batch["input_ids"]), logits)


# functorch on a CPU runs attention draw by draw, and says so
@pytest.mark.filterwarnings("ignore:There is a performance drop")
def test_vmap_over_draws_equals_a_loop(
    tiny_gpt: FunctionalModel, tiny_batch: dict[str, Tensor], draws: Tensor
) -> None:
    together = torch.vmap(lambda theta: tiny_gpt(theta, tiny_batch))(draws)
    alone = torch.stack([tiny_gpt(theta, tiny_batch) for theta in draws])
    torch.testing.assert_close(together, alone, rtol=1e-4, atol=1e-5)


# functorch on a CPU runs attention draw by draw, and says so
@pytest.mark.filterwarnings("ignore:There is a performance drop")
def test_vmap_of_the_gradient_over_draws_equals_a_loop(
    tiny_gpt: FunctionalModel, tiny_batch: dict[str, Tensor], draws: Tensor
) -> None:
    grad = torch.func.grad(lambda theta: tiny_gpt(theta, tiny_batch).logsumexp(-1).sum())
    alone = torch.stack([grad(theta) for theta in draws])
    assert alone.abs().sum(1).min() > 0
    torch.testing.assert_close(torch.vmap(grad)(draws), alone, rtol=1e-4, atol=1e-4)


def test_any_module_works_through_call(tiny_batch: dict[str, Tensor]) -> None:
    module = Encoder()
    batch = tiny_batch | {"mask": torch.rand(3, 8)}
    model = FunctionalModel(module, call_encoder)
    module.eval()
    expected = module(tokens=batch["input_ids"], mask=batch["mask"])["scores"]

    assert torch.equal(model(model.theta, batch), expected)
    assert torch.equal(model.call(model.bind().module, batch), expected)
    stacked = torch.stack([model.theta, model.theta])
    together = torch.vmap(lambda theta: model(theta, batch))(stacked)
    torch.testing.assert_close(together, torch.stack([expected, expected]))


def test_dropout_is_off(tiny_batch: dict[str, Tensor]) -> None:
    batch = tiny_batch | {"mask": torch.ones(3, 8)}
    module = Encoder()
    assert module.training
    model = FunctionalModel(module, call_encoder)
    flat = model.bind()
    assert torch.equal(model(model.theta, batch), model(model.theta, batch))
    assert torch.equal(model.call(flat.module, batch), model(model.theta, batch))


def test_a_subset_leaves_the_other_parameters_at_their_loaded_values() -> None:
    module = Encoder()
    batch = {"input_ids": torch.tensor([[1, 2]]), "mask": torch.ones(1, 2)}
    model = FunctionalModel(module, call_encoder, parameters="head.*")
    weight, bias = torch.randn(3, 6), torch.randn(3)
    theta = torch.cat([weight.flatten(), bias])

    assert model.layout.names == ("head.weight", "head.bias")
    assert len(model.theta) == 3 * 6 + 3
    pooled = module.embed.weight[1] + module.embed.weight[2]
    torch.testing.assert_close(model(theta, batch), (weight @ pooled + bias).unsqueeze(0))


def test_theta_is_a_copy_of_the_loaded_weights(tiny_gpt: FunctionalModel) -> None:
    weight = tiny_gpt.module.transformer["wte"].weight
    kept = weight.clone()
    tiny_gpt.theta.zero_()
    assert torch.equal(weight, kept)


def test_num_parameters_counts_frozen_ones_and_tied_ones_once(tiny_gpt: FunctionalModel) -> None:
    head_only = FunctionalModel(tiny_gpt.module, parameters="last-layer")
    size = 11 * 16 + 8 * 16 + 2 * (2 * 16 + 12 * 16 * 16) + 16
    assert tiny_gpt.num_parameters == tiny_gpt.layout.size == size
    assert head_only.num_parameters == size
    assert head_only.layout.size == 11 * 16


def test_to_moves_the_module_and_theta(tiny_gpt: FunctionalModel) -> None:
    assert tiny_gpt.device.type == "cpu"
    assert tiny_gpt.to("meta") is tiny_gpt
    assert tiny_gpt.device.type == "meta"
    assert {p.device.type for p in tiny_gpt.module.parameters()} == {"meta"}
    assert tiny_gpt.bind().theta.device.type == "meta"


def test_a_model_of_ones_own_says_so() -> None:
    model = FunctionalModel(nn.Linear(2, 2))
    assert model.info == ModelInfo(name="module", family="custom", config={}, sha256=None)
    assert model.block_size is None
    assert model.tokenizer is None
