from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from bayesgen.data.windows import (
    IGNORED,
    Batches,
    RandomWindows,
    ShuffledWindows,
    Windows,
)
from bayesgen.errors import UserError

Batch = dict[str, torch.Tensor]
blocks = st.integers(1, 12)


def count(n: int) -> np.ndarray:
    """Tokens that are their own positions."""
    return np.arange(n, dtype=np.uint16)


def scored(batch: Batch) -> list[int]:
    return batch["labels"][batch["labels"] != IGNORED].tolist()


def equal(a: Batch, b: Batch) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[key], b[key]) for key in a)


# Windows


@given(blocks, st.integers(1, 60))
def test_tiles_score_every_target_once(block_size: int, more: int) -> None:
    n = block_size + more
    windows = Windows.tiled(count(n), block_size)
    batch = windows.batch(np.arange(len(windows)))
    assert batch["input_ids"].shape == batch["labels"].shape == (len(windows), block_size)
    assert batch["input_ids"].dtype == batch["labels"].dtype == torch.int64
    assert scored(batch) == list(range(1, n))
    assert windows.num_targets == n - 1
    kept = batch["labels"] != IGNORED
    assert torch.equal(batch["input_ids"][kept] + 1, batch["labels"][kept])
    assert not batch["input_ids"][~kept].any()


def test_the_last_tile_is_padded() -> None:
    batch = Windows.tiled(count(6), 3).batch([1, 0])
    assert batch["input_ids"].tolist() == [[3, 4, 0], [0, 1, 2]]
    assert batch["labels"].tolist() == [[4, 5, IGNORED], [1, 2, 3]]


def test_windows_may_overlap() -> None:
    windows = Windows(count(9), 4, np.array([0, 2, 7]))
    assert len(windows) == 3
    assert windows.num_targets == 9
    assert windows.batch([1])["labels"].tolist() == [[3, 4, 5, 6]]


@pytest.mark.parametrize("start", [-1, 8])
def test_a_window_without_target_is_refused(start: int) -> None:
    with pytest.raises(ValueError, match="next token"):
        Windows(count(9), 4, np.array([start]))


def test_a_memmap_gives_the_same_batches(tmp_path: Path) -> None:
    tokens = count(1000)
    tokens.tofile(tmp_path / "train.bin")
    mapped = np.memmap(tmp_path / "train.bin", dtype=np.uint16, mode="r")
    a, b = RandomWindows(tokens, 8, 4, seed=1), RandomWindows(mapped, 8, 4, seed=1)
    assert equal(a.batch(3), b.batch(3))


def test_batches_own_their_memory() -> None:
    tokens = np.arange(20, dtype=np.int64)
    Windows.tiled(tokens, 4).batch([0])["input_ids"].zero_()
    assert tokens[3] == 3


@pytest.mark.parametrize("n", [0, 1, 8])
def test_too_few_tokens_for_a_block(n: int) -> None:
    for make in (
        lambda: Windows.tiled(count(n), 8, split="val"),
        lambda: RandomWindows(count(n), 8, 2, seed=0, split="val"),
    ):
        with pytest.raises(UserError, match=f"the val split has {n} tokens.* block of 8 "):
            make()
    assert len(Windows.tiled(count(9), 8)) == 1


# Batches


def both(seed: int) -> list[Batches]:
    tokens = count(150)
    return [
        RandomWindows(tokens, 8, 4, seed),
        ShuffledWindows(Windows.tiled(tokens, 8), 4, seed),
    ]


@given(st.integers(0, 2**70), st.lists(st.integers(0, 60), min_size=1, max_size=8))
def test_a_batch_depends_on_seed_and_step_alone(seed: int, steps: list[int]) -> None:
    for walked, fresh in zip(both(seed), both(seed), strict=True):
        in_turn = [walked.batch(step) for step in steps]
        backwards = [fresh.batch(step) for step in reversed(steps)]
        assert all(equal(a, b) for a, b in zip(in_turn, reversed(backwards), strict=True))


def test_no_batch_touches_the_global_generator() -> None:
    before = torch.get_rng_state()
    for batches in both(0):
        batches.batch(0)
    assert torch.equal(before, torch.get_rng_state())


def test_seeds_and_steps_give_other_batches() -> None:
    for a, b, far in zip(both(1), both(2), both(1 + 2**32), strict=True):
        seen = [a.batch(0), a.batch(1), a.batch(a.steps_per_epoch), b.batch(0), far.batch(0)]
        assert not any(equal(x, y) for i, x in enumerate(seen) for y in seen[:i])


def test_batches_survive_a_process_boundary() -> None:
    for batches in both(5):
        assert equal(pickle.loads(pickle.dumps(batches)).batch(7), batches.batch(7))


def test_negative_seeds_and_steps_are_refused() -> None:
    for batches in both(0):
        with pytest.raises(ValueError, match="negative"):
            batches.batch(-1)
    with pytest.raises(UserError, match="`seed=-3"):
        ShuffledWindows(Windows.tiled(count(9), 2), 1, seed=-3)
    with pytest.raises(UserError, match="`batch_size=0`"):
        RandomWindows(count(9), 2, 0, seed=0)
    with pytest.raises(ValueError, match="no windows"):
        ShuffledWindows(Windows(count(9), 2, np.array([], dtype=np.int64)), 1, seed=0)


def test_random_windows_reach_all_offsets_evenly() -> None:
    batches = RandomWindows(count(12), 4, batch_size=64, seed=3)
    assert batches.num_observations == 11
    assert batches.steps_per_epoch == 1
    starts = torch.cat([batches.batch(step)["input_ids"][:, 0] for step in range(100)])
    frequencies = torch.bincount(starts) / len(starts)
    assert frequencies.shape == (8,), "offsets 0 to n - block_size - 1, as nanoGPT draws them"
    # Six standard deviations of a frequency of 1/8 in 6,400 draws.
    assert torch.allclose(frequencies, torch.tensor(1 / 8), atol=0.025)
    batch = batches.batch(0)
    assert torch.equal(batch["input_ids"] + 1, batch["labels"])


@given(blocks, st.integers(1, 60), st.integers(1, 9), st.integers(0, 3))
def test_an_epoch_holds_every_target_once(
    block_size: int, more: int, batch_size: int, epoch: int
) -> None:
    n = block_size + more
    batches = ShuffledWindows(Windows.tiled(count(n), block_size), batch_size, seed=4)
    first = epoch * batches.steps_per_epoch
    steps = [batches.batch(first + i) for i in range(batches.steps_per_epoch)]
    assert sorted(label for batch in steps for label in scored(batch)) == list(range(1, n))
    assert batches.num_observations == n - 1
    assert all(len(batch["labels"]) == batch_size for batch in steps[:-1])
    assert 1 <= len(steps[-1]["labels"]) <= batch_size


def test_only_a_new_epoch_draws_a_permutation(monkeypatch: pytest.MonkeyPatch) -> None:
    batches = ShuffledWindows(Windows.tiled(count(100), 9), 2, seed=176)
    drawn: list[int] = []
    draw = torch.randperm
    monkeypatch.setattr(torch, "randperm", lambda n, **kw: (drawn.append(n), draw(n, **kw))[1])
    for step in range(3 * batches.steps_per_epoch):
        batches.batch(step)
    assert drawn == [11, 11]  # the first one was drawn before


# Subsets


@given(blocks, st.integers(0, 60), st.integers(0, 5), st.data())
def test_a_subset_is_of_distinct_full_tiles(
    block_size: int, more: int, seed: int, data: st.DataObject
) -> None:
    tokens = count(block_size + 1 + more)
    available = (len(tokens) - 1) // block_size
    size = data.draw(st.integers(1, available))
    windows = Windows.tiled(tokens, block_size).subset(size, seed)
    assert len(set(windows.starts.tolist())) == len(windows) == size
    assert not (windows.starts % block_size).any()
    assert windows.num_targets == size * block_size
    every = Windows.tiled(tokens, block_size)
    assert set(windows.starts) <= set(every.subset(available, seed).starts)
    smaller = every.subset(data.draw(st.integers(1, size)), seed)
    assert set(smaller.starts) <= set(windows.starts)


def test_subsets_differ_by_seed() -> None:
    chosen = [tuple(Windows.tiled(count(1000), 4).subset(5, seed).starts) for seed in range(20)]
    assert len(set(chosen)) == 20


@pytest.mark.parametrize("num_windows", [-1, 0, 13])
def test_a_subset_of_more_windows_than_there_are(num_windows: int) -> None:
    with pytest.raises(UserError, match=f"`train_samples={num_windows}`: .* 12 windows"):
        Windows.tiled(count(100), 8).subset(num_windows, seed=0)
