from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.distributions import Categorical

from bayesgen import likelihoods
from bayesgen.likelihoods import IGNORED


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
    values = likelihoods.per_observation(logits, labels)
    assert values.shape == labels.shape
    torch.testing.assert_close(values, Categorical(logits=logits).log_prob(labels))


def test_an_ignored_label_contributes_exactly_zero(
    logits: Tensor, labels: Tensor, masked: Tensor
) -> None:
    values = likelihoods.per_observation(logits, masked)
    ignored = masked == IGNORED
    assert 0 < ignored.sum() < masked.numel()
    assert (values[ignored] == 0).all()
    assert torch.equal(values[~ignored], likelihoods.per_observation(logits, labels)[~ignored])


def test_an_ignored_label_has_no_gradient(logits: Tensor, masked: Tensor) -> None:
    logits.requires_grad_(True)
    (grad,) = torch.autograd.grad(likelihoods.total(logits, masked), logits)
    assert (grad[masked == IGNORED] == 0).all()
    assert (grad[masked != IGNORED] != 0).all()


def test_per_sequence_sums_the_observations_of_each_row(logits: Tensor, masked: Tensor) -> None:
    probabilities = torch.softmax(logits.double(), -1)
    expected = []
    for row, targets in zip(probabilities, masked, strict=True):
        terms = zip(row.reshape(-1, 7), targets.reshape(-1).tolist(), strict=True)
        expected.append(sum(float(p[k].log()) for p, k in terms if k != IGNORED))
    values = likelihoods.per_sequence(logits, masked)
    assert values.shape == masked.shape[:1]
    assert values[0] == 0
    assert values.tolist() == pytest.approx(expected, rel=1e-5)


def test_the_total_is_the_sum_of_all_observations(logits: Tensor, masked: Tensor) -> None:
    total = likelihoods.total(logits, masked)
    assert total.shape == ()
    torch.testing.assert_close(total, likelihoods.per_observation(logits, masked).sum())
    torch.testing.assert_close(total, likelihoods.per_sequence(logits, masked).sum())


def test_a_batch_without_observations_has_a_total_of_zero() -> None:
    assert likelihoods.total(torch.randn(2, 3, 4), torch.full((2, 3), IGNORED)) == 0


def test_count_counts_the_observations(masked: Tensor) -> None:
    count = likelihoods.count(masked)
    assert count.dtype == torch.int64
    assert count == sum(label != IGNORED for label in masked.flatten().tolist()) > 0


def test_the_softmax_of_bfloat16_logits_is_taken_in_float32(logits: Tensor, labels: Tensor) -> None:
    low = logits.bfloat16()
    expected = Categorical(logits=low.float()).log_prob(labels)
    values = likelihoods.per_observation(low, labels)
    assert values.dtype == likelihoods.total(low, labels).dtype == torch.float32
    torch.testing.assert_close(values, expected)
    torch.testing.assert_close(likelihoods.total(low, labels), expected.sum())
