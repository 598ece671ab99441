"""What holds for every sampler, by name."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from bayesgen import likelihoods
from bayesgen.config import described
from bayesgen.errors import UserError
from bayesgen.inference.log_posterior import LogPosterior
from bayesgen.inference.registry import SAMPLERS
from bayesgen.inference.sampler import leaves, restore
from bayesgen.priors import Prior, normal, pretrained
from bayesgen.tasks import tasks_that

CLASSES = likelihoods.Categorical()

Tiny = Any  # the fixture of conftest.py
CHAINS = [name for name, spec in SAMPLERS.items() if spec.settings.draws_from == "chain"]

every_sampler = pytest.mark.parametrize("name", SAMPLERS)
every_chain = pytest.mark.parametrize("name", CHAINS)
with_momenta = pytest.mark.parametrize("name", ["sghmc", "baoa", "sgnht"])


class Functional(LogPosterior):
    """The pure-function way to the same numbers."""

    def __call__(self, phi: Any, batch: Any, step: Any = None) -> tuple[Tensor, Tensor]:
        if step is not None:
            velocity, length = step
            phi = tuple(p + length * v for p, v in zip(phi, velocity, strict=True))
        return self.functional(phi, batch)

    def per_sequence(self, phi: Any, batch: Any) -> tuple[Tensor, Tensor]:
        rows = CLASSES.per_sequence(self.model(self.affine.theta(phi), batch), batch["labels"])
        return rows, rows.new_empty(0)


def copies(state: Any) -> list[Tensor]:
    return [leaf.clone() for leaf in leaves(state)]


def assert_same(one: list[Tensor], other: list[Tensor]) -> None:
    torch.testing.assert_close(one, other, rtol=0, atol=0, equal_nan=True)


@pytest.mark.parametrize("name", SAMPLERS)
def test_a_sampler_says_everything_about_itself(name: str) -> None:
    spec = SAMPLERS[name]
    assert spec.name == name
    assert spec.summary
    assert spec.paper.startswith("https://")
    settings = spec.settings()
    spec.validate(settings)
    assert spec.memory(settings, 1000) > 4000
    known = set(described(spec.settings))
    assert known >= {*spec.ignores, *spec.without_effect(settings)}
    for task in tasks_that("sample", "class", "number"):
        assert known >= set(spec.defaults(task))
    assert spec.defaults("causal-lm") == {}


# the state


@every_sampler
@pytest.mark.parametrize("prior", ["normal", "pretrained"])
def test_it_starts_at_the_loaded_weights_but_the_filter_at_the_prior(
    name: str, prior: str, tiny: Tiny
) -> None:
    theta = tiny.model.theta
    tiny.prior = normal(len(theta), 0.3) if prior == "normal" else pretrained(theta, 0.3)
    sampler = tiny.sampler(name)
    state = sampler.init()
    at_zero = name == "ekf" and prior == "normal"
    assert torch.equal(sampler.theta(state), torch.zeros_like(theta) if at_zero else theta)
    if name == "ekf":
        torch.testing.assert_close(sampler.gaussian(state).variance, torch.full_like(theta, 0.09))


@every_sampler
def test_an_update_changes_the_state(name: str, tiny: Tiny) -> None:
    sampler = tiny.sampler(name)
    state = sampler.init()
    before, theta = copies(state), sampler.theta(state)
    state = tiny.run(sampler, state, 1)
    assert any(not torch.equal(a, b) for a, b in zip(before, leaves(state), strict=True))
    assert torch.equal(sampler.theta(state), theta) == (name == "laplace")


@every_sampler
def test_a_kept_draw_does_not_move_with_the_chain(name: str, tiny: Tiny) -> None:
    sampler = tiny.sampler(name)
    state = tiny.run(sampler, sampler.init(), 2)
    draw = sampler.theta(state)
    kept = draw.clone()
    tiny.run(sampler, state, 3, first=2)
    assert torch.equal(draw, kept)


@every_sampler
def test_the_model_is_left_as_it_was_loaded(name: str, tiny: Tiny) -> None:
    before = copy.deepcopy(tiny.model.module.state_dict()), tiny.model.theta.clone()
    sampler = tiny.sampler(name)
    tiny.run(sampler, sampler.init(), 3)
    assert torch.equal(tiny.model.theta, before[1])
    torch.testing.assert_close(tiny.model.module.state_dict(), before[0], rtol=0, atol=0)


@every_sampler
def test_the_same_seed_gives_the_same_bits(name: str, tiny: Tiny) -> None:
    def once(seed: int) -> list[Tensor]:
        torch.manual_seed(seed)
        sampler = tiny.sampler(name)
        return copies(tiny.run(sampler, sampler.init(), 4))

    first, again, other = once(1), once(1), once(2)
    assert_same(first, again)
    differs = any(not torch.equal(a, b) for a, b in zip(first, other, strict=True))
    assert differs == (name not in {"ekf", "laplace", "map", "swag"})  # these draw nothing


@every_sampler
@pytest.mark.parametrize("rebuild", [False, True])
def test_a_second_chain_starts_as_the_first_did(name: str, rebuild: bool, tiny: Tiny) -> None:
    # step counters are class-level defaults in `posteriors`, changed in place
    sampler = tiny.sampler(name)
    torch.manual_seed(0)
    state = sampler.init()
    fresh = copies(state)
    tiny.run(sampler, state, 3)
    torch.manual_seed(0)
    assert_same(fresh, leaves((tiny.sampler(name) if rebuild else sampler).init()))


@every_sampler
def test_a_second_chain_leaves_the_first_alone(name: str, tiny: Tiny) -> None:
    sampler = tiny.sampler(name)
    state = tiny.run(sampler, sampler.init(), 2)
    kept = copies(state)
    tiny.run(sampler, sampler.init(), 3)
    assert_same(kept, leaves(state))


@every_sampler
def test_a_restored_state_continues_bit_for_bit(name: str, tiny: Tiny) -> None:
    torch.manual_seed(5)
    sampler = tiny.sampler(name)
    state = tiny.run(sampler, sampler.init(), 3)
    saved, rng = copies(state), torch.get_rng_state()
    uninterrupted = copies(tiny.run(sampler, state, 3, first=3))

    sampler = tiny.sampler(name)  # as a new process would
    state = restore(sampler.init(), saved)
    torch.set_rng_state(rng)
    resumed = tiny.run(sampler, state, 3, first=3)
    assert_same(uninterrupted, leaves(resumed))
    assert any(not torch.equal(a, b) for a, b in zip(saved, leaves(resumed), strict=True))


@every_sampler
def test_the_leaves_are_finite_tensors(name: str, tiny: Tiny) -> None:
    sampler = tiny.sampler(name)
    for leaf in leaves(tiny.run(sampler, sampler.init(), 2)):
        assert isinstance(leaf, Tensor)
        assert torch.isfinite(leaf).all()


# the gradient


@every_sampler
@pytest.mark.filterwarnings("ignore:There is a performance drop:UserWarning")
def test_ordinary_and_functional_gradients_drive_the_same_run(name: str, tiny: Tiny) -> None:
    ends = []
    for cls in (LogPosterior, Functional):
        torch.manual_seed(7)
        sampler = tiny.sampler(name, tiny.target(name, cls))
        state = tiny.run(sampler, sampler.init(), 5)
        ends.append([leaf.double() for leaf in leaves(state)])
    torch.testing.assert_close(*ends, rtol=1e-4, atol=1e-6)


@every_sampler
def test_the_terms_are_the_nll_and_the_prior_per_observation(name: str, tiny: Tiny) -> None:
    # a width of almost zero makes VI's sample its mean
    sampler = tiny.sampler(name, **({"init_std": 1e-9} if name == "vi" else {}))
    state = sampler.init()
    for step in range(3):  # of batches with 18 targets and one with padding
        theta, batch = sampler.theta(state), tiny.batches.batch(step)
        state, terms = sampler.update(state, batch)
        if name in {"sghmc", "sgnht"}:  # they move, and then look
            theta = sampler.theta(state)
        scored = CLASSES.per_observation(tiny.model(theta, batch), batch["labels"])
        nll = -scored.sum() / (batch["labels"] != likelihoods.IGNORED).sum()
        log_prior = tiny.prior.log_prob(theta) / tiny.batches.num_observations
        if name in {"ekf", "laplace"}:  # the prior is where they start, not a term of an update
            log_prior = torch.zeros(())
        torch.testing.assert_close(terms, torch.stack([nll, log_prior, torch.zeros(())]))


# where nothing should happen


@pytest.mark.parametrize("name", [name for name in SAMPLERS if name != "sglrw"])
def test_without_heat_and_gradient_it_stays(
    name: str, tiny: Tiny, no_information: Callable[..., LogPosterior]
) -> None:
    sampler = tiny.sampler(name, no_information(name), temperature=1.0 if name == "ekf" else 0.0)
    state = sampler.init()
    start = sampler.theta(state)
    assert torch.equal(sampler.theta(tiny.run(sampler, state, 3)), start)


@every_chain
def test_with_heat_alone_it_moves(
    name: str, tiny: Tiny, no_information: Callable[..., LogPosterior]
) -> None:
    sampler = tiny.sampler(name, no_information(name), temperature=1.0)
    state = sampler.init()
    start = sampler.theta(state)
    moved = sampler.theta(tiny.run(sampler, state, 3)) - start
    assert (moved != 0).all()


@with_momenta
@pytest.mark.parametrize("temperature", [1.0, 0.25])
def test_momenta_start_at_their_stationary_law(name: str, temperature: float, tiny: Tiny) -> None:
    sampler = tiny.sampler(name, momentum_std=0.5, temperature=temperature)
    momenta = torch.cat([piece for _ in range(20) for piece in sampler.init().momenta])
    sd = 0.5 * (temperature / tiny.batches.num_observations) ** 0.5
    assert len(momenta) == 20 * tiny.model.layout.size
    assert float(momenta.mean()) == pytest.approx(0, abs=4 * sd / len(momenta) ** 0.5)
    assert float(momenta.std()) == pytest.approx(sd, rel=0.02)  # four standard errors


def test_the_thermostat_starts_at_the_friction_and_follows_the_momenta(tiny: Tiny) -> None:
    sampler = tiny.sampler(
        "sgnht", learning_rate=0.1, friction=2.0, momentum_std=0.5, temperature=1.0
    )
    state = sampler.init()
    assert float(state.xi) == 2.0
    heat = float(torch.cat(state.momenta).square().mean()) / 0.5**2
    state = tiny.run(sampler, state, 1)
    change = 0.1 * (heat - 1.0 / tiny.batches.num_observations)
    assert float(state.xi) - 2.0 == pytest.approx(change, rel=1e-3)


def test_map_decays_the_weights_as_adamw_does(tiny: Tiny) -> None:
    ends = []
    for decay in (0.0, 0.5):
        sampler = tiny.sampler("map", learning_rate=0.01, weight_decay=decay)
        ends.append(sampler.theta(tiny.run(sampler, sampler.init(), 1)))
    expected = -0.01 * 0.5 * tiny.model.theta
    torch.testing.assert_close(ends[1] - ends[0], expected, rtol=1e-3, atol=1e-7)


# what is refused


@pytest.mark.parametrize("name", ["ekf", "laplace"])
def test_a_prior_that_is_no_diagonal_gaussian_is_refused(
    name: str, tiny: Tiny, linear_prior: type[Prior]
) -> None:
    with pytest.raises(UserError, match=f"{name}.*`prior=normal`"):
        tiny.sampler(name, tiny.log_posterior(prior=linear_prior()))


def test_the_filter_refuses_zero_temperature(tiny: Tiny) -> None:
    with pytest.raises(UserError, match=r"ekf.*`temperature`"):
        tiny.sampler("ekf", temperature=0.0)


@pytest.mark.parametrize(
    "changes",
    [
        {"temperature": 0.0},
        {"schedule": "cyclical", "temperature": 1.0, "cycle_exploration": 0.5},
    ],
)
def test_the_lattice_walk_refuses_steps_without_heat(changes: dict[str, Any], tiny: Tiny) -> None:
    with pytest.raises(UserError, match=r"sglrw.*temperature"):
        SAMPLERS["sglrw"].validate(tiny.settings("sglrw", **changes))


@pytest.mark.parametrize("name", ["sghmc", "sgnht"])
def test_a_friction_that_turns_the_momenta_around_is_refused(name: str, tiny: Tiny) -> None:
    with pytest.raises(UserError, match="`friction`"):
        tiny.sampler(name, learning_rate=1.0, friction=2.0)
    tiny.sampler("baoa", learning_rate=1.0, friction=2.0)
