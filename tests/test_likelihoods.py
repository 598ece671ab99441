from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.distributions import Categorical, Normal

from bayesgen import likelihoods
from bayesgen.likelihoods import IGNORED, Gaussian

CLASSES = likelihoods.Categorical()


@pytest.fixture(params=[(3,), (3, 5), (2, 3, 4)], ids=str)
def shape(request: pytest.FixtureRequest) -> tuple[int, ...]:
    """Of the labels: one class per row, a window of tokens per row, and one dimension more."""
    return request.param


@pytest.fixture
def logits(shape: tuple[int, ...]) -> Tensor:
    return 3 * torch.randn(*shape, 7, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def labels(shape: tuple[int, ...]) -> Tensor:
    return torch.randint(0, 7, shape, generator=torch.Generator().manual_seed(1))


@pytest.fixture
def masked(labels: Tensor) -> Tensor:
    """Every other label is no observation, and so is the whole first row."""
    masked = labels.clone()
    masked.view(-1)[::2] = IGNORED
    masked[0] = IGNORED
    return masked


def test_per_observation_is_the_log_probability_of_a_categorical(
    logits: Tensor, labels: Tensor
) -> None:
    values = CLASSES.per_observation(logits, labels)
    assert values.shape == labels.shape
    torch.testing.assert_close(values, Categorical(logits=logits).log_prob(labels))


def test_an_ignored_label_contributes_exactly_zero(
    logits: Tensor, labels: Tensor, masked: Tensor
) -> None:
    values = CLASSES.per_observation(logits, masked)
    ignored = masked == IGNORED
    assert 0 < ignored.sum() < masked.numel()
    assert (values[ignored] == 0).all()
    assert torch.equal(values[~ignored], CLASSES.per_observation(logits, labels)[~ignored])


def test_an_ignored_label_has_no_gradient(logits: Tensor, masked: Tensor) -> None:
    logits.requires_grad_(True)
    (grad,) = torch.autograd.grad(CLASSES.total(logits, masked), logits)
    assert (grad[masked == IGNORED] == 0).all()
    assert (grad[masked != IGNORED] != 0).all()


def test_per_sequence_sums_the_observations_of_each_row(logits: Tensor, masked: Tensor) -> None:
    probabilities = torch.softmax(logits.double(), -1)
    expected = []
    for row, targets in zip(probabilities, masked, strict=True):
        terms = zip(row.reshape(-1, 7), targets.reshape(-1).tolist(), strict=True)
        expected.append(sum(float(p[k].log()) for p, k in terms if k != IGNORED))
    values = CLASSES.per_sequence(logits, masked)
    assert values.shape == masked.shape[:1]
    assert values[0] == 0
    assert values.tolist() == pytest.approx(expected, rel=1e-5)


def test_the_total_is_the_sum_of_all_observations(logits: Tensor, masked: Tensor) -> None:
    total = CLASSES.total(logits, masked)
    assert total.shape == ()
    torch.testing.assert_close(total, CLASSES.per_observation(logits, masked).sum())
    torch.testing.assert_close(total, CLASSES.per_sequence(logits, masked).sum())


def test_a_batch_without_observations_has_a_total_of_zero() -> None:
    assert CLASSES.total(torch.randn(2, 3, 4), torch.full((2, 3), IGNORED)) == 0


def test_count_counts_the_observations(masked: Tensor) -> None:
    count = CLASSES.count(masked)
    assert count.dtype == torch.int64
    assert count == sum(label != IGNORED for label in masked.flatten().tolist()) > 0


def test_the_softmax_of_bfloat16_logits_is_taken_in_float32(logits: Tensor, labels: Tensor) -> None:
    low = logits.bfloat16()
    expected = Categorical(logits=low.float()).log_prob(labels)
    values = CLASSES.per_observation(low, labels)
    assert values.dtype == CLASSES.total(low, labels).dtype == torch.float32
    torch.testing.assert_close(values, expected)
    torch.testing.assert_close(CLASSES.total(low, labels), expected.sum())


# -- Gaussian ------------------------------------------------------------------------------------


@pytest.fixture(params=[(5, 1), (5,)], ids=str)
def outputs(request: pytest.FixtureRequest) -> Tensor:
    """Of a network with one output, with and without its dimension."""
    return 2 * torch.randn(request.param, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def scores() -> Tensor:
    return torch.tensor([0.3, -2.0, 5.0, 0.0, 1.5])


@pytest.fixture
def some_missing(scores: Tensor) -> Tensor:
    return scores.where(torch.tensor([True, False, True, False, True]), torch.nan)


@pytest.mark.parametrize("std", [1.0, 0.3, 4.0])
def test_gaussian_is_the_density_of_a_normal(outputs: Tensor, scores: Tensor, std: float) -> None:
    values = Gaussian(std).per_sequence(outputs, scores)
    assert values.shape == (5,)
    torch.testing.assert_close(values, Normal(outputs.flatten(), std).log_prob(scores))
    torch.testing.assert_close(
        Gaussian(std).total(outputs, scores), Normal(outputs.flatten(), std).log_prob(scores).sum()
    )


def test_the_noise_of_a_gaussian_has_a_standard_deviation_of_one_by_default(
    outputs: Tensor, scores: Tensor
) -> None:
    expected = Normal(outputs.flatten(), 1.0).log_prob(scores)
    torch.testing.assert_close(Gaussian().per_sequence(outputs, scores), expected)


def test_a_label_that_is_nan_is_no_observation(
    outputs: Tensor, scores: Tensor, some_missing: Tensor
) -> None:
    gaussian = Gaussian(0.5)
    values = gaussian.per_sequence(outputs, some_missing)
    expected = Normal(outputs.flatten(), 0.5).log_prob(scores)
    assert values[[1, 3]].tolist() == [0, 0]
    torch.testing.assert_close(values[[0, 2, 4]], expected[[0, 2, 4]])
    total = gaussian.total(outputs, some_missing)
    assert total.shape == ()
    torch.testing.assert_close(total, expected[[0, 2, 4]].sum())
    torch.testing.assert_close(total, values.sum())


def test_a_label_that_is_nan_gives_no_gradient(outputs: Tensor, some_missing: Tensor) -> None:
    outputs.requires_grad_(True)
    (grad,) = torch.autograd.grad(Gaussian(0.5).total(outputs, some_missing), outputs)
    expected = (some_missing - outputs.detach().flatten()) / 0.25
    torch.testing.assert_close(grad.flatten(), expected.nan_to_num(0.0))
    assert grad.flatten()[[1, 3]].tolist() == [0, 0]


def test_gaussian_counts_the_labels_that_are_numbers(scores: Tensor, some_missing: Tensor) -> None:
    assert Gaussian().count(scores) == 5
    assert Gaussian().count(some_missing) == 3
    assert Gaussian().count(some_missing).dtype == torch.int64


def test_a_batch_of_missing_labels_has_a_total_of_zero(outputs: Tensor) -> None:
    assert Gaussian(0.5).total(outputs, torch.full((5,), torch.nan)) == 0


def test_the_gaussian_of_bfloat16_outputs_is_taken_in_float32(
    outputs: Tensor, scores: Tensor
) -> None:
    low = outputs.bfloat16()
    values = Gaussian().per_sequence(low, scores)
    assert values.dtype == Gaussian().total(low, scores).dtype == torch.float32
    torch.testing.assert_close(values, Normal(low.float().flatten(), 1.0).log_prob(scores))


def test_labels_of_another_length_are_an_error(outputs: Tensor) -> None:
    with pytest.raises(RuntimeError, match="shape"):
        Gaussian().total(outputs, torch.zeros(4))
