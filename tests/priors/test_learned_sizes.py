"""The sizes of a prior against numpy, and groups of names."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from bayesgen.priors.learned import effective_rank, explain, groups_of
from tests.priors.files import random_prior


def test_sizes_of_a_group_are_those_of_its_numbers() -> None:
    prior = random_prior(rank=4)
    explained = explain(prior)
    assert [g.name for g in explained.groups] == [
        "embeddings", "encoder.layer.0", "encoder.layer.1", "cls",
    ]  # fmt: skip
    block = explained.groups[1]
    here = slice(20, 40)  # 4 x 4 weights and 4 biases behind 5 x 4 embeddings
    mean, v = prior.mean[here].double().numpy(), prior.variance[here].double().numpy()
    shared = (prior.deviations[:, here].double().numpy() ** 2).sum(0)
    assert (block.tensors, block.numbers) == (2, 20)
    assert block.weight_sd == pytest.approx(mean.std(), rel=1e-5)
    # torch's median of an even number is the lower of the middle two
    assert block.prior_sd == pytest.approx(np.sort(np.sqrt((v + shared) / 2))[9], rel=1e-5)
    assert block.low_rank == pytest.approx(shared.sum() / (v + shared).sum(), rel=1e-5)
    assert explained.total.numbers == prior.layout.size
    assert sum(g.numbers for g in explained.groups) == prior.layout.size


def test_the_effective_rank_is_that_of_the_eigenvalues() -> None:
    rows = torch.randn(5, 40, generator=torch.Generator().manual_seed(0)) * torch.tensor(
        [[1.0], [0.5], [0.1], [2.0], [0.3]]
    )
    values = np.linalg.eigvalsh((rows @ rows.T).double().numpy())
    assert effective_rank(rows) == pytest.approx(values.sum() ** 2 / (values**2).sum(), rel=1e-6)
    orthogonal = torch.eye(7)[:4]
    assert effective_rank(orthogonal) == pytest.approx(4)
    assert effective_rank(orthogonal[:1].repeat(4, 1)) == pytest.approx(1)
    assert effective_rank(torch.zeros(0, 7)) == effective_rank(torch.zeros(3, 7)) == 0


def test_a_diagonal_prior_and_one_that_does_not_vary_have_no_low_rank_part() -> None:
    flat = explain(random_prior(rank=0))
    assert flat.effective_rank == flat.total.low_rank == 0
    still = random_prior(rank=2)
    zero = replace(
        still, variance=0 * still.variance, deviations=0 * still.deviations, mean=0 * still.mean
    )
    found = explain(zero).total
    assert (found.low_rank, found.prior_sd, found.weight_sd) == (0, 0, 0)


@pytest.mark.parametrize(
    ("names", "groups"),
    [
        (
            ("transformer.wte.weight", "transformer.wpe.weight", "transformer.h.0.ln_1.weight",
             "transformer.h.1.ln_1.weight", "transformer.ln_f.weight", "lm_head.bias"),
            ["transformer.wte", "transformer.wpe", "transformer.h.0", "transformer.h.1",
             "transformer.ln_f", "lm_head"],
        ),
        (
            ("embeddings.word.weight", "embeddings.norm.weight", "encoder.layer.0.a.weight",
             "pooler.dense.bias"),
            ["embeddings", "embeddings", "encoder.layer.0", "pooler"],
        ),
        (("conv1.weight", "layer1.0.bn1.bias", "fc.weight"), ["conv1", "layer1.0", "fc"]),
        (("weight",), ["weight"]),
    ],
)  # fmt: skip
def test_names_are_grouped_by_block(names: tuple[str, ...], groups: list[str]) -> None:
    assert groups_of(names) == groups
