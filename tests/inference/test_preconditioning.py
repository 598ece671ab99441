"""Where the scale D of a preconditioned chain comes from."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from bayesgen import likelihoods
from bayesgen.config import ChainSettings
from bayesgen.data.tokenizers import CharTokenizer
from bayesgen.data.windows import Batches
from bayesgen.errors import UserError
from bayesgen.inference import preconditioning
from bayesgen.inference.log_posterior import LogPosterior
from bayesgen.inference.preconditioning import (
    TURN,
    Scales,
    from_second_moments,
    from_variances,
    squared_gradients,
    stable_rate,
)
from bayesgen.inference.registry import SAMPLERS
from bayesgen.models import load_model
from bayesgen.models.nanogpt import GPT, GPTConfig, write_checkpoint
from bayesgen.priors import GaussianPrior, normal

CLASSES = likelihoods.Categorical()

Tiny = Any  # the fixture of conftest.py


def measure(settings: ChainSettings, plain: LogPosterior, batches: Batches) -> Scales:
    """What a chain measures before it starts."""
    count = settings.measured_batches
    moments = squared_gradients(plain, plain.model.theta, batches, count) if count else None
    return preconditioning.measure(settings, plain, batches, moments)


def scale_of(tiny: Tiny, **settings: Any) -> Tensor | None:
    return measure(ChainSettings(**settings), tiny.log_posterior(), tiny.batches).d


# measured gradients


def test_squared_gradients_are_the_mean_over_batches_of_the_likelihood_alone(tiny: Tiny) -> None:
    expected = torch.zeros_like(tiny.model.theta)
    for step in range(4):
        theta, batch = tiny.model.theta.clone().requires_grad_(), tiny.batches.batch(step)
        each = CLASSES.per_observation(tiny.model(theta, batch), batch["labels"])
        mean = each.sum() / (batch["labels"] != likelihoods.IGNORED).sum()
        expected += torch.autograd.grad(mean, theta)[0] ** 2 / 4
    measured = squared_gradients(tiny.log_posterior(), tiny.model.theta, tiny.batches, 4)
    torch.testing.assert_close(measured, expected, rtol=1e-3, atol=1e-9)


HEAT = 1e5


def test_gradients_are_the_default_source(tiny: Tiny) -> None:
    moments = squared_gradients(tiny.log_posterior(), tiny.model.theta, tiny.batches, 3)
    d = scale_of(tiny, preconditioner_batches=3, preconditioner_damping=0.2)
    assert torch.equal(d, from_second_moments(moments, 0.2))


def test_none_is_no_map_at_all(tiny: Tiny) -> None:
    assert scale_of(tiny, preconditioner="none") is None


# the typical length of a gradient


@pytest.mark.parametrize("source", ["gradients", "none"])
def test_the_gradient_norm_is_the_root_mean_square_of_the_minibatches(
    source: str, tiny: Tiny
) -> None:
    settings = ChainSettings(preconditioner=source, preconditioner_batches=4, temperature=HEAT)
    scales = measure(settings, tiny.log_posterior(), tiny.batches)
    target, squares = tiny.log_posterior(), []
    d = torch.ones(tiny.model.layout.size) if scales.d is None else scales.d
    theta = tiny.model.theta.clone().requires_grad_()
    prior = torch.autograd.grad(tiny.prior.log_prob(theta), theta)[0] / target.num_observations
    for step in range(4):
        _, g = target.log_likelihood_grad(tiny.model.theta, tiny.batches.batch(step))
        squares.append(float((d * g).square().sum() + (d * prior).square().sum()))
    precision = tiny.prior.precision()
    assert precision is not None
    # θ ~ the prior at temperature T: E (∂ log p)² = T / σ²
    squares = [
        s + float((d**2 * precision).sum()) * HEAT / target.num_observations**2 for s in squares
    ]
    assert (scales.d is None) == (source == "none")
    assert scales.gradient_norm == pytest.approx((sum(squares) / 4) ** 0.5, rel=1e-5)


@pytest.mark.parametrize("source", ["gradients", "none"])
def test_without_a_limit_the_gradient_norm_is_not_measured(source: str, tiny: Tiny) -> None:
    settings = ChainSettings(preconditioner=source, preconditioner_batches=2, gradient_clip=0)
    scales = measure(settings, tiny.log_posterior(), tiny.batches)
    assert scales.gradient_norm is None


@pytest.mark.parametrize("source", ["gradients", "none"])
@pytest.mark.parametrize("clip", [0.0, 2.0])
def test_scales_come_back_from_their_tensors(source: str, clip: float, tiny: Tiny) -> None:
    settings = ChainSettings(preconditioner=source, preconditioner_batches=2, gradient_clip=clip)
    scales = measure(settings, tiny.log_posterior(), tiny.batches)
    again = Scales.of(scales.tensors(), torch.device("cpu"))
    assert again.gradient_norm == scales.gradient_norm
    assert (again.d is None) == (scales.d is None)
    if again.d is not None:
        assert torch.equal(again.d, scales.d)


# from moments to D


def test_the_scale_is_one_over_the_root_of_the_damped_moment() -> None:
    d = from_second_moments(torch.tensor([1.0, 2.0, 6.0]), 0.5)  # their mean is 3
    assert (d**-2 / d[0] ** -2).tolist() == pytest.approx([1.0, 3.5 / 2.5, 7.5 / 2.5])
    assert float(d.square().mean()) == pytest.approx(1)


def test_on_a_quadratic_it_gives_every_coordinate_the_same_posterior_width() -> None:
    """v̂ proportional to the precision: the posterior of φ is isotropic without damping."""
    precision = torch.tensor([0.1, 3.0, 50.0])
    d = from_second_moments(precision, 0.0)
    posterior_sd_of_phi = precision.rsqrt() / d
    torch.testing.assert_close(posterior_sd_of_phi, posterior_sd_of_phi[0].expand(3))


def test_large_damping_makes_all_scales_equal() -> None:
    d = from_second_moments(torch.tensor([1e-6, 1.0, 100.0]), 1e5)
    assert float(d.max() / d.min()) == pytest.approx(1, abs=1e-4)


def test_without_damping_the_scale_is_that_of_the_gradient() -> None:
    d = from_second_moments(torch.tensor([0.01, 1.0, 100.0]), 0.0)
    assert (d / d[1]).tolist() == pytest.approx([10.0, 1.0, 0.1], rel=1e-3)


def test_a_weight_without_gradient_gets_a_finite_step() -> None:
    d = from_second_moments(torch.tensor([0.0, 1.0]), 0.0)
    assert torch.isfinite(d).all()
    assert d[0] > d[1] > 0


@pytest.mark.parametrize("value", [0.0, float("nan"), float("inf")])
def test_gradients_that_are_all_zero_or_not_finite_are_refused(value: float) -> None:
    with pytest.raises(UserError, match="`preconditioner`"):
        from_second_moments(torch.tensor([0.0, value]), 0.1)


def test_a_model_that_gets_no_gradient_is_refused(
    tiny: Tiny, no_information: Callable[..., LogPosterior]
) -> None:
    target = no_information("sgld")
    with pytest.raises(UserError, match="`preconditioner=none`"):
        measure(ChainSettings(), target, tiny.batches)
    with pytest.raises(UserError, match="`gradient_clip=0`"):
        measure(ChainSettings(preconditioner="none"), target, tiny.batches)


# a file of variances


def test_a_variance_file_gives_standard_deviations_of_mean_square_one(
    tiny: Tiny, tmp_path: Path
) -> None:
    variance = torch.linspace(0.1, 3.0, tiny.model.layout.size)
    save_file({"variance": variance, "mean": torch.zeros(3)}, tmp_path / "swag.safetensors")
    d = scale_of(tiny, preconditioner=str(tmp_path / "swag.safetensors"))
    torch.testing.assert_close(d / d[0], (variance / variance[0]).sqrt())
    assert float(d.square().mean()) == pytest.approx(1, rel=1e-5)


def zeroed(variance: Tensor, value: float) -> Tensor:
    return torch.cat([variance[:-1], torch.tensor([value])])


@pytest.mark.parametrize(
    "change",
    [
        lambda v: v[:-1],
        lambda v: v[None],
        lambda v: zeroed(v, 0.0),
        lambda v: zeroed(v, -1.0),
        lambda v: zeroed(v, float("nan")),
        lambda v: zeroed(v, float("inf")),
    ],
    ids=["short", "matrix", "zero", "negative", "nan", "infinite"],
)
def test_variances_that_do_not_fit_are_refused(
    change: Callable[[Tensor], Tensor], tiny: Tiny, tmp_path: Path
) -> None:
    path = tmp_path / "wrong.safetensors"
    save_file({"variance": change(torch.ones(tiny.model.layout.size))}, path)
    with pytest.raises(UserError, match=f"'variance' .* {tiny.model.layout.size} positive numbers"):
        from_variances(path, tiny.model)


def test_a_file_that_is_missing_or_no_variance_file_is_refused(tiny: Tiny, tmp_path: Path) -> None:
    save_file({"mean": torch.ones(3)}, tmp_path / "mean.safetensors")
    (tmp_path / "text.safetensors").write_text("not tensors")
    (tmp_path / "folder").mkdir()
    for name in ("mean.safetensors", "text.safetensors", "folder", "gradient"):
        with pytest.raises(UserError, match=f"`preconditioner`: '.*{name}' is neither gradients"):
            scale_of(tiny, preconditioner=str(tmp_path / name))


# Adam's moments


@pytest.fixture
def checkpoint(tmp_path: Path) -> Callable[..., tuple[Path, dict[str, Tensor]]]:
    """Write a checkpoint with AdamW's state as nanoGPT groups it: (path, moment of each name)."""

    def write(keep_state: bool = True) -> tuple[Path, dict[str, Tensor]]:
        torch.manual_seed(0)
        module = GPT(GPTConfig(block_size=6, vocab_size=2, n_layer=1, n_head=1, n_embd=4))
        named = dict(module.named_parameters())
        groups = [
            {"params": [p for p in named.values() if p.dim() >= 2], "weight_decay": 0.1},
            {"params": [p for p in named.values() if p.dim() < 2], "weight_decay": 0.0},
        ]
        optimizer = torch.optim.AdamW(groups)
        for _ in range(3):
            for parameter in named.values():
                parameter.grad = torch.randn_like(parameter)
            optimizer.step()
        write_checkpoint(
            tmp_path / "ckpt.pt",
            module,
            CharTokenizer("ab"),
            optimizer=optimizer.state_dict() if keep_state else {},
            iter_num=3,
            best_val_loss=1.0,
            config={},
        )
        moments = {name: optimizer.state[p]["exp_avg_sq"] for name, p in named.items()}
        return tmp_path / "ckpt.pt", moments

    return write


def adam(path: Path, tiny: Tiny, **options: Any) -> Tensor | None:
    model = load_model(path, **options)
    settings = ChainSettings(preconditioner="adam", preconditioner_damping=0.3, gradient_clip=0)
    prior = normal(model.layout.size, 0.5)
    target = LogPosterior(model, prior, tiny.batches.num_observations)
    return measure(settings, target, tiny.batches).d


@pytest.mark.parametrize("subset", ["all", "*ln_f*,*wte*"])
def test_adam_moments_come_from_the_checkpoint_in_the_order_of_theta(
    subset: str, checkpoint: Callable[..., tuple[Path, dict[str, Tensor]]], tiny: Tiny
) -> None:
    path, moments = checkpoint()
    layout = load_model(path, parameters=subset).layout
    assert (len(layout.names) < len(moments)) == (subset != "all")
    expected = from_second_moments(layout.ravel(moments), 0.3)
    assert torch.equal(adam(path, tiny, parameters=subset), expected)


def test_a_checkpoint_without_moments_is_refused(
    checkpoint: Callable[..., tuple[Path, dict[str, Tensor]]], tiny: Tiny
) -> None:
    path, _ = checkpoint(keep_state=False)
    with pytest.raises(UserError, match=r"`preconditioner=adam`.*gradients"):
        adam(path, tiny)


# a prior that knows widths


def test_widths_that_differ_take_part_undamped(tiny: Tiny) -> None:
    size = tiny.model.layout.size
    sd = torch.linspace(1e-3, 1.0, size)
    target = tiny.log_posterior()
    target.prior = GaussianPrior(tiny.model.theta, sd, size)
    settings = ChainSettings(preconditioner_batches=3, preconditioner_damping=0.5)
    d = measure(settings, target, tiny.batches).d
    moments = squared_gradients(target, tiny.model.theta, tiny.batches, 3)
    n = target.num_observations
    batch = n / tiny.batches.steps_per_epoch
    known = batch * (moments + 0.5 * moments.mean())
    curvature = known + sd**-2 / n
    assert d is not None
    alone, most = float(1 / (1 / known).mean()), float(1 / (1 / curvature).mean())
    c = max(alone, min(TURN**2, most)) ** 0.5
    torch.testing.assert_close(d, c / curvature.sqrt(), rtol=1e-4, atol=0)


def test_at_a_mode_that_another_run_found_nothing_is_raised(tiny: Tiny) -> None:
    size = tiny.model.layout.size
    target, settings = tiny.log_posterior(), ChainSettings(preconditioner_batches=3)
    # so little of a gradient that TURN decides
    moments = torch.full((size,), 1e-9)
    target.prior = GaussianPrior(tiny.model.theta, torch.linspace(0.1, 1.0, size), size)

    def turned() -> float:
        d = preconditioning.measure(settings, target, tiny.batches, moments).d
        assert d is not None
        batch = target.num_observations / tiny.batches.steps_per_epoch
        likelihood = batch * 1.01 * moments
        widths = target.prior.precision() / target.num_observations
        return float((d * (likelihood + widths).sqrt()).max())

    at_the_loaded_weights = turned()
    tiny.model.start_at(tiny.model.theta.clone())
    assert turned() < 0.5 * at_the_loaded_weights


def test_free_weights_move_as_if_no_other_were_held() -> None:
    """A prior that pins almost all weights does not make the steps of the others longer."""
    size = 1000
    sd = torch.full((size,), 1e-6)
    sd[:5] = 1e3
    moments = torch.rand(size, generator=torch.Generator().manual_seed(0)) + 0.5
    without = from_second_moments(moments, 0.01)
    d = from_second_moments(moments, 0.01, sd**-2 / 1e3, batch=100.0)
    torch.testing.assert_close(d[:5], without[:5])
    assert float((d[5:] / without[5:]).max()) < 1e-2


def test_widths_that_meet_by_chance_change_nothing(tiny: Tiny) -> None:
    """D is a continuous function of the widths, also where they are all equal."""
    size = tiny.model.layout.size
    target, settings = tiny.log_posterior(), ChainSettings(preconditioner_batches=3)

    def d(head: float) -> torch.Tensor:
        sd = torch.full((size,), 0.5)
        sd[:5] = head
        target.prior = GaussianPrior(tiny.model.theta, sd, size)
        found = measure(settings, target, tiny.batches).d
        assert found is not None
        return found

    torch.testing.assert_close(d(0.5), d(0.5001), rtol=1e-3, atol=0)


def test_many_observations_are_no_overflow(tiny: Tiny, monkeypatch: pytest.MonkeyPatch) -> None:
    size = tiny.model.layout.size
    target = tiny.log_posterior()
    target.prior = GaussianPrior(tiny.model.theta, torch.full((size,), 0.5), size)
    monkeypatch.setattr(target, "num_observations", 9 * 10**9)
    monkeypatch.setattr(type(tiny.batches), "steps_per_epoch", 10**7)
    d = measure(ChainSettings(preconditioner_batches=3), target, tiny.batches).d
    assert d is not None
    assert d.isfinite().all()


def test_weights_without_gradient_do_not_freeze_those_of_a_new_head() -> None:
    """Under a random head the other weights have next to no gradient: v̂ says nothing of them."""
    moments, width = torch.full((1000,), 1e-12), torch.full((1000,), 0.04)
    moments[:5], width[:5] = 1e-2, 0.2
    batch, n = 8.0, 100.0
    precision = width**-2
    d = from_second_moments(moments, 0.01, precision / (n * batch), batch)
    curvature = batch * (moments + 0.01 * moments.mean()) + precision / n
    torch.testing.assert_close(d * curvature.sqrt(), torch.full((1000,), TURN))
    assert float(d.square().mean()) < 1
    # as wide as it gets where the prior lets them go
    free = from_second_moments(moments, 0.01, 1e-6 * precision / (n * batch), batch)
    assert float(free.square().mean()) == pytest.approx(1)
    turn = free * (batch * (moments + 0.01 * moments.mean()) + 1e-6 * precision / n).sqrt()
    assert float(turn.max()) < TURN


@pytest.mark.parametrize("sampler", ["sgld", "sghmc"])
def test_the_stiffest_coordinate_holds_the_step(sampler: str, tiny: Tiny) -> None:
    settings = SAMPLERS[sampler].settings()
    d, precision = torch.tensor([1.0, 2.0]), torch.tensor([100.0, 900.0])
    rate = stable_rate(settings, d, precision, 50)
    curvature = 4 * 900 / 50
    # the deterministic part of a step: no coordinate overshoots
    factor = rate if sampler == "sgld" else rate**2 / settings.momentum_std**2
    assert factor * curvature == pytest.approx(1)
