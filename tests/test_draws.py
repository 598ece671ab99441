"""Draws on disk: in order, one at a time, thinned evenly."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

import bayesgen
from bayesgen.draws import Draws
from bayesgen.errors import UserError
from bayesgen.parameters import Layout
from bayesgen.runs import Run

LAYOUT = Layout.of([("w", torch.zeros(2, 2)), ("b", torch.zeros(1))])
RECORD = {
    "sampler": "sgld",
    "settings": {
        "corpus": "corpus.txt",
        "data_dir": None,
        "meta_path": None,
        "parameters": "all",
        "seed": 0,
        "task": "causal-lm",
        "temperature": 1.0,
        "train_samples": None,
    },
    "sources": {},
    "model": {"name": "model.pt", "family": "nanogpt", "sha256": "0" * 64},
    "data": {"name": "corpus.txt", "sha256": "1" * 64},
    "block_size": 8,
    "num_observations": 100,
    "num_parameters": 5,
    "num_bayesian": 5,
    "opening": {"rows": [], "warnings": []},
    "versions": {},
    "parameters": LAYOUT.to_json(),
}


@pytest.fixture
def run(tmp_path: Path) -> Run:
    run = Run.create(tmp_path / "run")
    run.write_json("run.json", RECORD)
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
    save_file({"draws": torch.arange(15.0).view(3, 5)}, tmp_path / "c0-000000.safetensors")
    posterior = Draws(LAYOUT, [tmp_path / "c0-000000.safetensors"])
    assert len(posterior) == 3
    assert torch.equal(posterior[1], torch.arange(5.0, 10.0))


def test_mean_is_that_of_all_draws(run: Run) -> None:
    expected = sum([*range(12), *range(100, 112)]) / 24
    assert torch.allclose(Draws.load(run.path).mean(), torch.full((5,), expected))


def test_thinning_is_even_and_keeps_the_last(run: Run) -> None:
    posterior = Draws.load(run.path)
    assert [float(t[0]) for t in posterior.thin(3)] == [0.0, 100.0, 111.0]
    assert [float(t[0]) for t in posterior.thin(1)] == [111.0]
    assert posterior.thin(None) is posterior
    assert posterior.thin(99) is posterior


def test_a_draw_in_memory_is_a_copy() -> None:
    draws = torch.zeros(2, 5)
    Draws.from_draws(draws, LAYOUT)[0].add_(1)
    assert not draws.any()


def test_errors_name_the_way_out(run: Run, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"run\.json missing"):
        Draws.load(tmp_path)
    run.draw_paths()[3].write_bytes(b"half")
    with pytest.raises(UserError, match="not a readable shard"):
        Draws.load(run.path)
    for path in run.draw_paths():
        path.unlink()
    with pytest.raises(UserError, match="no draws yet"):
        Draws.load(run.path)


@pytest.mark.parametrize(
    ("tensors", "says"),
    [
        ({"draws": torch.zeros(1, 10)}, r"draws are F32 \[1, 10\], not F32 \[1 or more, 5\]"),
        ({"draws": torch.zeros(1, 4)}, r"F32 \[1, 4\]"),
        ({"draws": torch.zeros(5)}, r"F32 \[5\]"),
        ({"draws": torch.zeros(5, 1, 1)}, r"F32 \[5, 1, 1\]"),
        ({"draws": torch.zeros(())}, r"F32 \[\]"),
        ({"draws": torch.zeros(0, 5)}, r"F32 \[0, 5\]"),
        ({"draws": torch.zeros(1, 5, dtype=torch.float64)}, r"F64 \[1, 5\]"),
        ({"draws": torch.zeros(1, 5, dtype=torch.bfloat16)}, r"BF16 \[1, 5\]"),
        ({"draws": torch.zeros(1, 5, dtype=torch.int32)}, r"I32 \[1, 5\]"),
        ({"theta": torch.zeros(1, 5)}, "does not contain tensor draws"),
    ],
)
def test_a_shard_that_holds_something_else_is_refused_when_the_run_is_opened(
    run: Run, tensors: dict[str, Tensor], says: str
) -> None:
    path = run.draw_paths()[7]
    save_file(tensors, path)
    with pytest.raises(UserError, match=says) as caught:
        Draws.load(run.path)
    assert f"'{path}' is not a readable shard of draws" in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("place", range(5))
def test_a_draw_that_is_not_finite_is_refused_when_it_is_read(
    run: Run, value: float, place: int
) -> None:
    path = run.draw_paths()[7]
    theta = torch.zeros(1, 5)
    theta[0, place] = value
    save_file({"draws": theta}, path)
    posterior = Draws.load(run.path)
    assert posterior[6].isfinite().all()
    with pytest.raises(UserError, match="is damaged: a draw in it is not finite") as caught:
        posterior[7]
    assert str(path) in str(caught.value)


def test_draws_at_the_ends_of_float32_are_finite(run: Run) -> None:
    most = torch.finfo(torch.float32).max
    theta = torch.tensor([[most, most, -most, -most, 1e-45]])
    save_file({"draws": theta}, run.draw_paths()[0])
    assert torch.equal(Draws.load(run.path)[0], theta[0])
