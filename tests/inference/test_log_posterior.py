from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.distributions import Categorical, Normal

from bayesgen import likelihoods
from bayesgen.inference.libraries import posteriors
from bayesgen.inference.log_posterior import Affine, Chunks, LogPosterior, split
from bayesgen.likelihoods import IGNORED
from bayesgen.models.functional import FunctionalModel
from bayesgen.parameters import FlatModule
from bayesgen.priors import Prior, normal, pretrained

CLASSES = likelihoods.Categorical()

N = 5_000
Batch = dict[str, Tensor]


class Flat(Prior):
    """No prior at all; it has only what every prior must have."""

    def log_prob(self, theta: Tensor) -> Tensor:
        return 0.0 * theta.sum()

    def describe(self) -> str:
        return "1"


@pytest.fixture(autouse=True)
def small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    """θ in chunks of 1,000, so that a tiny network has several."""
    monkeypatch.setattr(
        "bayesgen.inference.log_posterior.chunks", lambda theta: tuple(theta.split(1000))
    )


@pytest.fixture(params=["identity", "scaled"])
def affine(request: pytest.FixtureRequest, tiny_gpt: FunctionalModel) -> Affine:
    scale = None if request.param == "identity" else random_like(tiny_gpt.theta, 3).exp()
    return Affine(tiny_gpt.theta, scale)


@pytest.fixture(params=["all labels", "some labels ignored", "a row without labels"])
def batch(request: pytest.FixtureRequest, tiny_batch: Batch) -> Batch:
    labels = tiny_batch["labels"].clone()
    if request.param != "all labels":
        labels[1, :5] = IGNORED
        labels[2, -1] = IGNORED
    if request.param == "a row without labels":
        labels[0] = IGNORED
    return tiny_batch | {"labels": labels}


@pytest.fixture
def float64(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """All that bayesgen computes in float32 is computed in float64 instead."""
    monkeypatch.setattr(Tensor, "float", Tensor.double)
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


def random_like(tensor: Tensor, seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(tensor.shape, generator=generator, dtype=tensor.dtype)


def near_start(affine: Affine, by: float = 0.1) -> Chunks:
    """φ a little off its start."""
    return tuple(piece + by * random_like(piece, i) for i, piece in enumerate(affine.start()))


def gradient(way: Callable[..., Any], phi: Chunks, batch: Batch) -> tuple[Tensor, Tensor, Tensor]:
    """∇_φ ℓ [P], ℓ and its terms, as the transforms of `posteriors` ask for them."""
    pieces, (value, terms) = torch.func.grad_and_value(way, has_aux=True)(phi, batch)
    assert [piece.shape for piece in pieces] == [piece.shape for piece in phi]
    return torch.cat(pieces), value, terms


def same_gradient(a: Tensor, b: Tensor) -> None:
    """Equal to float32 rounding, measured against the largest entry."""
    assert b.abs().max() > 0
    torch.testing.assert_close(a, b, rtol=1e-4, atol=float(2e-6 * b.abs().max()))


# -- the length of the gradient ------------------------------------------------------------------


def test_a_longer_gradient_is_scaled_to_the_limit_and_the_value_is_not(
    tiny_gpt: FunctionalModel, affine: Affine, tiny_batch: Batch
) -> None:
    prior = normal(len(tiny_gpt.theta), 0.3)
    free = LogPosterior(tiny_gpt, prior, N, affine=affine)
    g, value, terms = gradient(free, affine.start(), tiny_batch)
    length = float(g.norm())
    for limit, clipped in ((0.25 * length, 1.0), (1.01 * length, 0.0)):
        limited = LogPosterior(tiny_gpt, prior, N, affine=affine, max_norm=limit)
        g2, value2, terms2 = gradient(limited, affine.start(), tiny_batch)
        torch.testing.assert_close(g2, 0.25 * g if clipped else g)
        assert value2 == value
        assert terms2.tolist() == [*terms[:2].tolist(), clipped]


# -- what the number is --------------------------------------------------------------------------


@pytest.mark.parametrize("way", ["ordinary", "functional"])
def test_the_value_is_the_mean_log_likelihood_plus_the_log_prior_over_n(
    tiny_gpt: FunctionalModel, affine: Affine, batch: Batch, way: str
) -> None:
    log_posterior = LogPosterior(tiny_gpt, normal(len(tiny_gpt.theta), 0.3), N, affine=affine)
    phi = near_start(affine)
    call = log_posterior if way == "ordinary" else log_posterior.functional
    value, terms = call(phi, batch)

    theta = affine.theta(phi)
    logits, labels = tiny_gpt(theta, batch), batch["labels"]
    known = labels != IGNORED
    nll = -Categorical(logits=logits[known]).log_prob(labels[known]).mean()
    log_prior = Normal(0.0, 0.3).log_prob(theta).sum() / N
    torch.testing.assert_close(terms, torch.stack([nll, log_prior, torch.zeros(())]))
    torch.testing.assert_close(value, log_prior - nll)
    assert value.shape == ()


@pytest.mark.parametrize("way", ["ordinary", "functional"])
def test_n_enters_only_the_prior(tiny_gpt: FunctionalModel, tiny_batch: Batch, way: str) -> None:
    terms, gradients = [], []
    for n in (100, 10_000):
        log_posterior = LogPosterior(tiny_gpt, normal(len(tiny_gpt.theta), 0.3), n)
        call = log_posterior if way == "ordinary" else log_posterior.functional
        g, _, t = gradient(call, log_posterior.affine.start(), tiny_batch)
        terms.append(t)
        gradients.append(g)
    assert torch.equal(terms[0][0], terms[1][0])
    torch.testing.assert_close(100 * terms[0][1], 10_000 * terms[1][1])
    # d log N(θ; 0, 0.3²) = -θ/0.3²
    pull = -tiny_gpt.theta / 0.3**2
    same_gradient(gradients[0] - gradients[1], pull * (1 / 100 - 1 / 10_000))


class Squares:
    """N(labels; outputs, 1) without its normaliser, of rows with one number each."""

    def total(self, outputs: Tensor, labels: Tensor) -> Tensor:
        return self.per_sequence(outputs, labels).sum()

    def per_sequence(self, outputs: Tensor, labels: Tensor) -> Tensor:
        return -0.5 * (outputs.squeeze(-1) - labels).square()

    def count(self, labels: Tensor) -> Tensor:
        return torch.tensor(len(labels))


def test_another_likelihood_takes_the_place_of_the_categorical() -> None:
    model = FunctionalModel(torch.nn.Linear(3, 1), likelihood=Squares())
    x, y = torch.randn(5, 3), torch.randn(5)
    batch = {"input_ids": x, "labels": y}
    log_posterior = LogPosterior(model, Flat(), 5, accumulation=2)
    phi = log_posterior.affine.start()
    weight, bias = model.theta[:3], model.theta[3]
    residual = x @ weight + bias - y
    expected = -torch.cat([residual @ x, residual.sum().unsqueeze(0)]) / 5
    for way in (log_posterior, log_posterior.functional):
        grad, value, _ = gradient(way, phi, batch)
        torch.testing.assert_close(grad, expected)
        torch.testing.assert_close(value, -0.5 * residual.square().mean())
    values, _ = log_posterior.per_sequence(phi, batch)
    torch.testing.assert_close(values, -0.5 * residual.square())


def test_phi_starts_at_the_loaded_weights(tiny_gpt: FunctionalModel, tiny_batch: Batch) -> None:
    log_posterior = LogPosterior(tiny_gpt, Flat(), N)
    assert torch.equal(torch.cat(log_posterior.affine.start()), tiny_gpt.theta)
    value, _ = log_posterior(log_posterior.affine.start(), tiny_batch)
    expected = -torch.nn.functional.cross_entropy(
        tiny_gpt.module(tiny_batch["input_ids"]).flatten(0, 1), tiny_batch["labels"].flatten()
    )
    torch.testing.assert_close(value, expected)


# -- ordinary == functional ----------------------------------------------------------------------


@pytest.mark.parametrize("accumulation", [1, 2, 3, 5])
@pytest.mark.parametrize("prior", ["normal", "pretrained", "relative", "flat"])
def test_the_ordinary_way_equals_the_functional_one(
    tiny_gpt: FunctionalModel, affine: Affine, batch: Batch, accumulation: int, prior: str
) -> None:
    theta = tiny_gpt.theta
    priors: dict[str, Prior] = {
        "normal": normal(len(theta), 0.3),
        "pretrained": pretrained(theta, 0.3),
        "relative": pretrained(theta, 0.5, relative=True),
        "flat": Flat(),
    }
    log_posterior = LogPosterior(
        tiny_gpt, priors[prior], N, affine=affine, accumulation=accumulation
    )
    phi = near_start(affine, 0.01)
    ordinary = gradient(log_posterior, phi, batch)
    functional = gradient(log_posterior.functional, phi, batch)
    same_gradient(ordinary[0], functional[0])
    torch.testing.assert_close(ordinary[1], functional[1], rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(ordinary[2], functional[2], rtol=1e-6, atol=1e-6)


def test_without_prior_and_accumulation_the_two_ways_are_equal_to_the_bit(
    tiny_gpt: FunctionalModel, affine: Affine, batch: Batch
) -> None:
    log_posterior = LogPosterior(tiny_gpt, Flat(), N, affine=affine)
    phi = near_start(affine)
    ways = (log_posterior, log_posterior.functional)
    for a, b in zip(*(gradient(way, phi, batch) for way in ways), strict=True):
        assert b.any()
        assert torch.equal(a, b)


def test_a_transform_of_posteriors_makes_the_same_step_from_both_ways(
    tiny_gpt: FunctionalModel, affine: Affine, batch: Batch
) -> None:
    log_posterior = LogPosterior(tiny_gpt, Flat(), N, affine=affine)
    ends = []
    for way in (log_posterior, log_posterior.functional):
        transform = posteriors.sgmcmc.sgld.build(way, lr=0.1, temperature=0.0)
        state = transform.init(affine.start())
        for _ in range(3):
            state, _ = transform.update(state, batch)
        ends.append(torch.cat(state.params))
    assert not torch.equal(ends[0], torch.cat(affine.start()))
    assert torch.equal(*ends)


@pytest.mark.parametrize("parameters", ["last-layer", "*ln_*", "transformer.h.1.*"])
def test_the_two_ways_agree_on_a_subset_of_the_parameters(
    tiny_gpt: FunctionalModel, tiny_batch: Batch, parameters: str
) -> None:
    model = FunctionalModel(tiny_gpt.module, parameters=parameters)
    assert len(model.theta) < len(tiny_gpt.theta)
    log_posterior = LogPosterior(model, normal(len(model.theta), 0.3), N)
    phi = near_start(log_posterior.affine, 0.01)
    ordinary = gradient(log_posterior, phi, tiny_batch)
    functional = gradient(log_posterior.functional, phi, tiny_batch)
    same_gradient(ordinary[0], functional[0])
    torch.testing.assert_close(ordinary[2], functional[2])


def test_a_later_call_leaves_the_gradient_of_an_earlier_one(
    tiny_gpt: FunctionalModel, affine: Affine, tiny_batch: Batch
) -> None:
    log_posterior = LogPosterior(tiny_gpt, normal(len(tiny_gpt.theta), 0.3), N, affine=affine)
    grad = torch.func.grad(lambda phi: log_posterior(phi, tiny_batch)[0])
    first = grad(affine.start())
    kept = [piece.clone() for piece in first]
    second = grad(near_start(affine))
    assert all(torch.equal(a, b) for a, b in zip(first, kept, strict=True))
    assert not torch.equal(first[0], second[0])
    again = grad(affine.start())
    assert all(torch.equal(a, b) for a, b in zip(again, kept, strict=True))


def test_plain_backward_gives_the_same_gradient(
    tiny_gpt: FunctionalModel, affine: Affine, tiny_batch: Batch
) -> None:
    log_posterior = LogPosterior(tiny_gpt, normal(len(tiny_gpt.theta), 0.3), N, affine=affine)
    phi = near_start(affine, 0.01)
    expected, _, _ = gradient(log_posterior, phi, tiny_batch)
    leaves = [piece.clone().requires_grad_(True) for piece in phi]
    (2 * log_posterior(tuple(leaves), tiny_batch)[0]).backward()
    same_gradient(torch.cat([leaf.grad for leaf in leaves if leaf.grad is not None]), 2 * expected)


def test_the_loaded_model_does_not_move(tiny_gpt: FunctionalModel, tiny_batch: Batch) -> None:
    theta = tiny_gpt.theta.clone()
    before = tiny_gpt.module(tiny_batch["input_ids"])
    log_posterior = LogPosterior(tiny_gpt, normal(len(theta), 0.3), N)
    gradient(log_posterior, near_start(log_posterior.affine, 1.0), tiny_batch)
    assert torch.equal(tiny_gpt.theta, theta)
    assert torch.equal(tiny_gpt.module(tiny_batch["input_ids"]), before)


def test_log_likelihood_grad_is_that_of_the_mean_without_prior(
    tiny_gpt: FunctionalModel, batch: Batch
) -> None:
    log_posterior = LogPosterior(tiny_gpt, normal(len(tiny_gpt.theta), 0.3), N, accumulation=2)
    theta = tiny_gpt.theta + 0.1 * random_like(tiny_gpt.theta, 0)
    value, grad = log_posterior.log_likelihood_grad(theta, batch)

    def mean(theta: Tensor) -> Tensor:
        labels = batch["labels"]
        values = CLASSES.per_observation(tiny_gpt(theta, batch), labels)
        return values.sum() / (labels != IGNORED).sum()

    torch.testing.assert_close(value, mean(theta))
    same_gradient(grad, torch.func.grad(mean)(theta))


# -- finite differences --------------------------------------------------------------------------


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("scaled", [False, True])
def test_both_gradients_equal_finite_differences_in_float64(
    tiny_gpt: FunctionalModel, batch: Batch, scaled: bool
) -> None:
    model = FunctionalModel(tiny_gpt.module.double())
    affine = Affine(model.theta, random_like(model.theta, 3).exp() if scaled else None)
    prior = pretrained(model.theta + 0.1, 0.5, relative=True)
    log_posterior = LogPosterior(model, prior, N, affine=affine, accumulation=2)
    phi = near_start(affine, 0.01)
    ways = (log_posterior, log_posterior.functional)
    gradients = [gradient(way, phi, batch) for way in ways]
    torch.testing.assert_close(gradients[0][0], gradients[1][0], rtol=1e-9, atol=1e-12)

    for way, (grad, value, terms) in zip(ways, gradients, strict=True):
        assert {grad.dtype, value.dtype, terms.dtype} == {torch.float64}
        for seed in range(3):
            direction = [random_like(piece, 100 * seed + i) for i, piece in enumerate(phi)]

            def along(step: float, way: Any = way, direction: list[Tensor] = direction) -> Tensor:
                moved = (piece + step * d for piece, d in zip(phi, direction, strict=True))
                value: Tensor = way(tuple(moved), batch)[0]
                return value

            slope = (along(1e-6) - along(-1e-6)) / 2e-6
            expected = torch.dot(grad, torch.cat(direction))
            torch.testing.assert_close(slope, expected, rtol=1e-6, atol=1e-7)


# -- bfloat16 ------------------------------------------------------------------------------------


@pytest.mark.parametrize("accumulation", [1, 2])
def test_bfloat16_is_near_float32_and_keeps_theta_and_gradient_in_float32(
    tiny_gpt: FunctionalModel, tiny_batch: Batch, accumulation: int
) -> None:
    theta, batch = tiny_gpt.theta, tiny_batch | {"labels": tiny_batch["labels"].clone()}
    batch["labels"][1, :5] = IGNORED
    affine = Affine(theta, random_like(theta, 3).exp())
    prior = normal(len(theta), 0.3)
    make = partial(LogPosterior, tiny_gpt, prior, N, affine=affine, accumulation=accumulation)
    low, full = make(precision="bf16"), make()
    dtypes = []
    low.flat.module.lm_head.register_forward_hook(lambda m, i, out: dtypes.append(out.dtype))
    phi = near_start(affine, 0.01)
    grad, value, terms = gradient(low, phi, batch)
    grad32, value32, terms32 = gradient(full, phi, batch)

    assert dtypes == [torch.bfloat16] * accumulation
    assert {t.dtype for t in (grad, value, terms, low.flat.theta)} == {torch.float32}
    assert not torch.equal(grad, grad32)
    torch.testing.assert_close(value, value32, rtol=0, atol=0.02)
    torch.testing.assert_close(terms[1], terms32[1])
    assert torch.cosine_similarity(grad, grad32, dim=0) > 0.999
    assert (grad - grad32).norm() < 0.05 * grad32.norm()


# -- per sequence --------------------------------------------------------------------------------


def test_per_sequence_is_the_sum_over_each_row(
    tiny_gpt: FunctionalModel, affine: Affine, batch: Batch
) -> None:
    log_posterior = LogPosterior(tiny_gpt, normal(len(tiny_gpt.theta), 0.3), N, affine=affine)
    phi = near_start(affine)
    values, rest = log_posterior.per_sequence(phi, batch)
    logits = tiny_gpt(affine.theta(phi), batch)
    expected = [CLASSES.total(logits[i : i + 1], batch["labels"][i : i + 1]) for i in range(3)]
    torch.testing.assert_close(values, torch.stack(expected))
    assert rest.numel() == 0


def test_the_jacobian_of_per_sequence_has_each_rows_gradient(
    tiny_gpt: FunctionalModel, affine: Affine, batch: Batch
) -> None:
    log_posterior = LogPosterior(tiny_gpt, normal(len(tiny_gpt.theta), 0.3), N, affine=affine)
    phi = near_start(affine)

    def values(phi: Chunks, batch: Batch) -> tuple[Tensor, Tensor]:
        out, _ = log_posterior.per_sequence(phi, batch)
        return out, out

    pieces, inside = torch.func.jacrev(values, has_aux=True)(phi, batch)
    assert [piece.shape for piece in pieces] == [(3, *piece.shape) for piece in phi]
    torch.testing.assert_close(inside, log_posterior.per_sequence(phi, batch)[0])

    def row_total(phi: Chunks, row: Batch) -> Tensor:
        return CLASSES.total(tiny_gpt(affine.theta(phi), row), row["labels"])

    for i in range(3):
        row = {name: tensor[i : i + 1] for name, tensor in batch.items()}
        truth = torch.cat(torch.func.grad(row_total)(phi, row))
        mine = torch.cat([piece[i] for piece in pieces])
        if (row["labels"] == IGNORED).all():
            assert not mine.any()
            assert not truth.any()
        else:
            same_gradient(mine, truth)


def test_per_sequence_without_a_transform_makes_no_gradient(
    tiny_gpt: FunctionalModel, affine: Affine, tiny_batch: Batch
) -> None:
    log_posterior = LogPosterior(tiny_gpt, normal(len(tiny_gpt.theta), 0.3), N, affine=affine)
    values, _ = log_posterior.per_sequence(affine.start(), tiny_batch)
    assert not values.requires_grad
    assert not log_posterior.flat.gradient().any()


# -- split ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("pieces", "rows"), [(1, [3]), (2, [2, 1]), (3, [1, 1, 1]), (8, [1, 1, 1])]
)
def test_split_cuts_every_tensor_of_a_batch_along_the_same_rows(
    tiny_batch: Batch, pieces: int, rows: list[int]
) -> None:
    parts = split(tiny_batch, pieces)
    assert [len(part["labels"]) for part in parts] == rows
    for name, tensor in tiny_batch.items():
        assert torch.equal(torch.cat([part[name] for part in parts]), tensor)


def test_the_network_sees_one_micro_batch_at_a_time(
    tiny_gpt: FunctionalModel, tiny_batch: Batch
) -> None:
    log_posterior = LogPosterior(tiny_gpt, Flat(), N, accumulation=2)
    rows = []
    log_posterior.flat.module.register_forward_pre_hook(lambda m, args: rows.append(len(args[0])))
    gradient(log_posterior, log_posterior.affine.start(), tiny_batch)
    assert isinstance(log_posterior.flat, FlatModule)
    assert rows == [2, 1]
