"""Draws on disk: in order, one at a time, thinned evenly."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

import bayesgen
from bayesgen.errors import UserError
from bayesgen.parameters import Layout
from bayesgen.posterior import Posterior
from bayesgen.runs import RECORD_KEYS, Run

LAYOUT = Layout.of([("w", torch.zeros(2, 2)), ("b", torch.zeros(1))])


@pytest.fixture
def run(tmp_path: Path) -> Run:
    run = Run.create(tmp_path / "run")
    run.write_json("run.json", dict.fromkeys(RECORD_KEYS) | {"parameters": LAYOUT.to_json()})
    for chain in range(2):
        for index in range(12):
            run.write_draw(chain, index, torch.full((5,), 100.0 * chain + index), step=index)
    return run


def test_draws_come_chain_by_chain_in_order(run: Run) -> None:
    posterior = bayesgen.Posterior.load(run.path)
    assert [float(theta[0]) for theta in posterior] == [*range(12), *range(100, 112)]
    assert len(posterior) == 24
    assert posterior.layout == LAYOUT


def test_shards_of_several_draws_are_read_row_by_row(tmp_path: Path) -> None:
    from safetensors.torch import save_file

    save_file({"draws": torch.arange(15.0).view(3, 5)}, tmp_path / "c0-000000.safetensors")
    posterior = Posterior(LAYOUT, [tmp_path / "c0-000000.safetensors"])
    assert len(posterior) == 3
    assert torch.equal(posterior[1], torch.arange(5.0, 10.0))


def test_mean_is_that_of_all_draws(run: Run) -> None:
    expected = sum([*range(12), *range(100, 112)]) / 24
    assert torch.allclose(Posterior.load(run.path).mean(), torch.full((5,), expected))


def test_thinning_is_even_and_keeps_the_last(run: Run) -> None:
    posterior = Posterior.load(run.path)
    assert [float(t[0]) for t in posterior.thin(3)] == [0.0, 100.0, 111.0]
    assert [float(t[0]) for t in posterior.thin(1)] == [111.0]
    assert posterior.thin(None) is posterior
    assert posterior.thin(99) is posterior


def test_a_draw_in_memory_is_a_copy() -> None:
    draws = torch.zeros(2, 5)
    Posterior.from_draws(draws, LAYOUT)[0].add_(1)
    assert not draws.any()


def test_errors_name_the_way_out(run: Run, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"run\.json missing"):
        Posterior.load(tmp_path)
    run.draw_paths()[3].write_bytes(b"half")
    with pytest.raises(UserError, match="not a readable shard"):
        Posterior.load(run.path)
    for path in run.draw_paths():
        path.unlink()
    with pytest.raises(UserError, match="no draws yet"):
        Posterior.load(run.path)
