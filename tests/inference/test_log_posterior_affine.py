from __future__ import annotations

import pytest
import torch
from torch import Tensor

from bayesgen.inference.log_posterior import CHUNK, Affine, Chunks, chunks

SIZES = [7, CHUNK + 11]
"""One chunk; two, the second a small rest."""


def random(size: int, seed: int) -> Tensor:
    return torch.randn(size, generator=torch.Generator().manual_seed(seed))


@pytest.fixture(params=SIZES)
def size(request: pytest.FixtureRequest) -> int:
    return request.param


@pytest.fixture(params=["identity", "scaled"])
def affine(request: pytest.FixtureRequest, size: int) -> Affine:
    scale = None if request.param == "identity" else random(size, 1).exp()
    return Affine(random(size, 0), scale)


@pytest.fixture
def phi(size: int) -> Chunks:
    return tuple(piece.clone() for piece in random(size, 2).split(CHUNK))


def test_theta_is_the_origin_plus_the_scaled_phi(affine: Affine, phi: Chunks) -> None:
    flat = torch.cat(phi)
    expected = flat if affine.scale is None else affine.origin + affine.scale * flat
    torch.testing.assert_close(affine.theta(phi), expected)


def test_the_start_is_mapped_to_the_origin_exactly(affine: Affine) -> None:
    assert torch.equal(affine.theta(affine.start()), affine.origin)


def test_the_start_comes_in_chunks_that_own_their_memory(affine: Affine, size: int) -> None:
    origin = affine.origin.clone()
    start = affine.start()
    assert [len(piece) for piece in start] == [len(piece) for piece in origin.split(CHUNK)]
    assert all(piece.untyped_storage().nbytes() == 4 * len(piece) for piece in start)
    for piece in start:
        piece.add_(1)
    assert torch.equal(affine.origin, origin)


def test_load_writes_theta(affine: Affine, phi: Chunks, size: int) -> None:
    out = torch.full((size,), float("nan"))
    affine.load(phi, out)
    assert torch.equal(out, affine.theta(phi))


def test_theta_is_a_new_tensor(affine: Affine, phi: Chunks) -> None:
    before = [piece.clone() for piece in phi]
    affine.theta(phi).zero_()
    assert all(torch.equal(a, b) for a, b in zip(phi, before, strict=True))


def test_pull_back_is_the_transposed_jacobian(affine: Affine, phi: Chunks, size: int) -> None:
    cotangent = random(size, 3)
    _, transposed = torch.func.vjp(affine.theta, phi)
    (expected,) = transposed(cotangent)
    for piece, truth in zip(affine.pull_back_(cotangent.clone()), expected, strict=True):
        torch.testing.assert_close(piece, truth)


@pytest.mark.parametrize("scaled", [False, True])
def test_theta_can_be_vmapped_over_draws(scaled: bool) -> None:
    affine = Affine(random(7, 0), random(7, 1).exp() if scaled else None)
    draws = (random(12, 2).view(3, 4), random(9, 3).view(3, 3))
    together = torch.vmap(affine.theta)(draws)
    alone = [affine.theta(tuple(piece[s] for piece in draws)) for s in range(3)]
    torch.testing.assert_close(together, torch.stack(alone))


@pytest.mark.parametrize(
    ("size", "lengths"),
    [(5, [5]), (CHUNK, [CHUNK]), (CHUNK + 3, [CHUNK, 3]), (2 * CHUNK, [CHUNK, CHUNK])],
)
def test_chunks_are_views_that_cover_the_vector(size: int, lengths: list[int]) -> None:
    theta = torch.arange(size, dtype=torch.float32)
    pieces = chunks(theta)
    assert [len(piece) for piece in pieces] == lengths
    assert torch.equal(torch.cat(pieces), theta)
    pieces[-1].fill_(-1)
    assert theta[-1] == -1
