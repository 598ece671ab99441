"""A learned prior in another model's θ: by name, complete, or refused."""

from __future__ import annotations

from collections.abc import Mapping

import pytest
import torch
from torch import Tensor

from bayesgen.errors import UserError
from bayesgen.parameters import Layout
from bayesgen.priors import Weights
from bayesgen.priors.learned import LearnedPrior, Matched
from tests.priors.files import SHAPES, agree, exact, layout_of, random_prior

INNER = {name: shape for name, shape in SHAPES.items() if name.startswith("bert.")}
Shapes = Mapping[str, tuple[int, ...]]


def started(layout: Layout) -> Tensor:
    return torch.randn(layout.size, generator=torch.Generator().manual_seed(5))


def matched(
    prior: LearnedPrior, shapes: Shapes, new: tuple[str, ...] = (), free: tuple[str, ...] = (),
    base: str = "bert",
) -> tuple[Matched, Layout, Tensor]:  # fmt: skip
    layout = layout_of(shapes)
    theta = started(layout)
    return prior.match(Weights(theta, layout, new, free, base)), layout, theta


def refusal(shapes: Shapes, new: tuple[str, ...] = (), free: tuple[str, ...] = ()) -> str:
    with pytest.raises(UserError) as caught:
        matched(random_prior(), shapes, new, free)
    line = str(caught.value)
    assert len(line.splitlines()) == 1
    assert line.startswith("`prior_path`: the prior is of another model ('tiny-bert')")
    return line


@pytest.mark.parametrize("scale", [0.01, 1.0, 300.0])
@pytest.mark.parametrize("rank", [0, 1, 4])
def test_density_and_gradient_are_the_gaussians(scale: float, rank: int) -> None:
    prior = random_prior(rank)
    found, layout, _ = matched(prior, SHAPES)
    density = found.density(scale, epsilon=1e-4, head_std=0.2)
    truth = exact(prior.mean, prior.variance, prior.deviations, scale, 1e-4)
    agree(density, truth, prior.mean + 0.1 * started(layout))
    assert found.missing == found.kept == found.extra == ()


def test_the_scale_multiplies_both_parts_of_the_covariance_but_not_the_floor() -> None:
    prior = random_prior()
    found, *_ = matched(prior, SHAPES)
    one, two = (found.density(scale, epsilon=1e-3, head_std=0.2) for scale in (1.0, 2.0))
    torch.testing.assert_close(two.variance - 1e-3, 2 * (one.variance - 1e-3))
    torch.testing.assert_close(two.factor, 2**0.5 * one.factor)
    shared = prior.deviations.T @ prior.deviations
    covariance = one.variance.diag() + one.factor.T @ one.factor
    torch.testing.assert_close(
        covariance, 0.5 * (prior.variance.diag() + shared) + 1e-3 * torch.eye(prior.layout.size)
    )


def test_names_are_matched_under_another_head_and_in_another_order() -> None:
    prior = random_prior()
    back = {name.replace("bert.", "encoder."): shape for name, shape in reversed(INNER.items())}
    head = ("classifier.weight", "classifier.bias")
    shapes = {**back, head[0]: (3, 4), head[1]: (3,)}
    found, layout, theta = matched(prior, shapes, new=head, base="encoder")
    assert found.missing == head
    assert found.kept == ()
    assert found.extra == ("cls.decoder.bias",)
    theirs, here = prior.layout.views(prior.mean), layout.views(found.mean)
    rows, own = prior.layout.views(prior.deviations), layout.views(found.deviations)
    for name in INNER:
        other = name.replace("bert.", "encoder.")
        torch.testing.assert_close(here[other], theirs[name], rtol=0, atol=0)
        torch.testing.assert_close(own[other], rows[name], rtol=0, atol=0)
    assert not here["classifier.weight"].any()
    # what is new is on its own, and the rest is the Gaussian of what was learned
    density = found.density(2.0, epsilon=1e-4, head_std=0.3)
    at = theta.clone()
    chosen = found.there
    truth = exact(
        found.mean[chosen], found.variance[chosen], found.deviations[:, chosen], 2.0, 1e-4
    )
    alone = torch.distributions.Normal(0.0, 0.3).log_prob(at[~chosen].double()).sum()
    expected = truth.log_prob(at[chosen].double()) + alone
    assert float(density.log_prob(at)) == pytest.approx(float(expected), rel=1e-5)
    assert "new parameters N(0, 0.3²)" in density.describe()


def test_a_pooler_that_no_training_upstream_has_seen_stays_where_it_was_loaded() -> None:
    pooler = ("bert.pooler.dense.weight", "bert.pooler.dense.bias")
    shapes = {**INNER, pooler[0]: (4, 4), pooler[1]: (4,)}
    found, layout, theta = matched(random_prior(), shapes, free=pooler)
    assert found.missing == found.kept == pooler
    loaded, mean = layout.views(theta), layout.views(found.mean)
    density = found.density(1.0, epsilon=1e-4, head_std=0.3)
    width = layout.views(density.marginal_variance())
    for name in pooler:
        torch.testing.assert_close(mean[name], loaded[name], rtol=0, atol=0)
        torch.testing.assert_close(width[name], torch.full_like(width[name], 0.09))
    assert "N(θ*, 0.3²)" in density.describe()


def test_a_head_of_other_classes_is_missing_and_one_of_the_same_is_taken() -> None:
    head = {"classifier.weight": (2, 4), "classifier.bias": (2,)}
    prior = random_prior(shapes={**INNER, **head})
    names = tuple(head)
    wider = {**INNER, "classifier.weight": (3, 4), "classifier.bias": (3,)}
    for new, free in ((names, ()), ((), names)):
        found, *_ = matched(prior, wider, new, free)
        assert found.missing == names
        assert found.extra == names
    found, *_ = matched(prior, {**INNER, **head}, new=names)
    assert found.missing == ()


def test_a_part_of_the_parameters_has_its_part_of_the_prior() -> None:
    block = {name: shape for name, shape in INNER.items() if ".layer.1." in name}
    found, _, theta = matched(random_prior(), block)
    assert found.there.all()
    assert len(found.extra) == 4
    assert len(found.mean) == len(theta)


def test_another_shape_is_refused_with_its_name() -> None:
    line = refusal({**INNER, "bert.embeddings.weight": (6, 4)})
    assert "'bert.embeddings.weight' is [6, 4] here and [5, 4] there; name the prior" in line
    wider = {name: tuple(2 * n for n in shape) for name, shape in INNER.items()}
    assert "and 4 more differ" in refusal(wider)


def test_names_that_it_does_not_know_are_listed() -> None:
    more = {f"bert.encoder.layer.{i}.dense.weight": (4, 4) for i in range(2, 9)}
    line = refusal({**INNER, **more}, new=("classifier.weight",))
    assert "it does not know 'bert.encoder.layer.2.dense.weight'," in line
    assert "and 2 more" in line
    # not new, and no pooler: the head of another run
    assert "'score.weight'" in refusal({**INNER, "score.weight": (2, 4)})


def test_a_prior_that_covers_nothing_is_refused() -> None:
    head = {"classifier.weight": (2, 4)}
    assert "it does not know 'classifier.weight'" in refusal(head, new=tuple(head))


def test_a_layer_that_it_knows_in_part_is_refused() -> None:
    head = {"cls.decoder.bias": (5,), "cls.decoder.weight": (5, 4)}
    line = refusal({**INNER, **head}, free=tuple(head))
    assert "of the layer 'cls.decoder' it does not know 'cls.decoder.weight'" in line


@pytest.mark.parametrize(
    ("scale", "epsilon", "head_std"), [(1e300, 1e-6, 0.2), (1e-60, 1e-60, 0.2), (1.0, 1e-6, 1e30)]
)
def test_numbers_beyond_float32_are_one_line(scale: float, epsilon: float, head_std: float) -> None:
    found, *_ = matched(random_prior(), {**INNER, "new.weight": (2,)}, new=("new.weight",))
    with pytest.raises(UserError, match=r"`prior_scale=.* too small or too large"):
        found.density(scale, epsilon=epsilon, head_std=head_std)
