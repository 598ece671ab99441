"""Masked windows: the collators of transformers decide what is masked, a stream decides when."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from bayesgen.data.masked import MaskedBatches, MaskedWindows, Masking
from bayesgen.data.windows import MASKS, ROW_MASKS, Windows, stream
from bayesgen.errors import UserError
from bayesgen.tasks import TASKS
from tests.masked import TEXT, bert_tokenizer, xlnet_tokenizer

transformers = pytest.importorskip("transformers")

TOKENIZERS: dict[str, Callable[[], Any]] = {
    "masked-lm": bert_tokenizer,
    "permutation-lm": xlnet_tokenizer,
}
NAMES = list(TOKENIZERS)
BLOCK = 16


def encoded(task: str, text: str = TEXT) -> np.ndarray:
    found = TOKENIZERS[task]()(text, add_special_tokens=False)["input_ids"]
    return np.array(found)


def windows(task: str, tokens: np.ndarray | None = None, block_size: int = BLOCK) -> MaskedWindows:
    masking = Masking.of(TOKENIZERS[task](), TASKS[task])
    tokens = encoded(task) if tokens is None else tokens
    return MaskedWindows.tiled(tokens, block_size, masking, "train")


def collated(task: str, ids: Tensor, seed: int) -> dict[str, Tensor]:
    """A plain call of the collator after torch.manual_seed."""
    name = {"masked-lm": "DataCollatorForLanguageModeling",
            "permutation-lm": "DataCollatorForPermutationLanguageModeling"}[task]  # fmt: skip
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        batch = getattr(transformers, name)(TOKENIZERS[task]())(list(ids))
    return dict(batch)


def enclosed(task: str) -> Tensor:
    """The tiles of the text by hand: [CLS] ... [SEP], or ... <sep> <cls>."""
    tokens, room = encoded(task), BLOCK - 2
    rows = []
    for start in range(0, len(tokens), room):
        piece = tokens[start : start + room].tolist()
        row = [2, *piece, 3] if task == "masked-lm" else [*piece, 4, 3]
        if len(piece) == room or task == "masked-lm":
            rows.append(row + [0] * (BLOCK - len(row)))
    return torch.tensor(rows)


def same(first: dict[str, Tensor], second: dict[str, Tensor]) -> bool:
    return first.keys() == second.keys() and all(torch.equal(first[k], second[k]) for k in first)


def dense(batch: dict[str, Tensor]) -> dict[str, Tensor]:
    """A batch with a label for each of its positions, as a collator makes it."""
    batch = dict(batch)
    shape = batch["input_ids"].shape
    mapping = batch.pop("target_mapping", None)
    targets = batch.pop("targets") if mapping is None else mapping.argmax(2)
    labels = torch.full(shape, -100)
    for row, (places, asked) in enumerate(zip(targets, batch["labels"], strict=True)):
        there = asked != -100
        assert int(there.sum()) == len(places[there].unique())
        assert bool((places[there].diff() > 0).all())  # in the order of the text
        labels[row, places[there]] = asked[there]
    if mapping is not None:
        assert bool((mapping.sum(2) == 1).all())
        batch["target_mapping"] = torch.eye(shape[1]).expand(len(labels), -1, -1)
    return batch | {"labels": labels}


@pytest.mark.parametrize("task", NAMES)
def test_the_masks_of_a_row_are_those_of_the_collator(task: str) -> None:
    rows, tiles = windows(task), enclosed(task)
    assert len(encoded(task)) % (BLOCK - 2)  # the last tile is short
    assert len(rows) == len(tiles)
    targets = 0
    for i, ids in enumerate(tiles):
        found = dense(rows.batch([i]))
        for attempt in range(50):
            plain = collated(task, ids[None].clone(), stream(0, ROW_MASKS, i, attempt))
            if (plain["labels"] != -100).any():
                break
        attention = found.pop("attention_mask", None)
        assert same(found, plain)
        if task == "masked-lm":
            assert attention is not None
            assert torch.equal(attention[0], (ids != 0).long())
        seen = found["labels"] != -100
        assert torch.equal(found["labels"][seen], ids[None][seen])
        targets += int(seen.sum())
    assert rows.num_targets == targets


@pytest.mark.parametrize("task", NAMES)
def test_a_batch_is_masked_by_its_step(task: str) -> None:
    batches = MaskedBatches(windows(task), 4, seed=7)
    state = torch.get_rng_state()
    at = {step: batches.batch(step) for step in (0, 1, 9, 5)}
    assert torch.equal(torch.get_rng_state(), state)
    again = MaskedBatches(windows(task), 4, seed=7)
    for step, batch in at.items():  # in another order than before, from the start
        assert same(again.batch(step), batch)
        ids = enclosed(task)[again.rows(step)]
        plain = collated(task, ids.clone(), stream(7, MASKS, step, 0))
        assert (plain["labels"] != -100).any()
        assert same({k: v for k, v in dense(batch).items() if k != "attention_mask"}, plain)
    assert not same(at[0], at[1])
    assert not same(MaskedBatches(windows(task), 4, seed=8).batch(0), at[0])


@pytest.mark.parametrize("task", NAMES)
def test_every_window_is_there_once_an_epoch_with_new_masks(task: str) -> None:
    rows = windows(task)
    batches = MaskedBatches(rows, 4, seed=0)
    epochs = []
    for epoch in range(2):
        steps = range(epoch * batches.steps_per_epoch, (epoch + 1) * batches.steps_per_epoch)
        order = np.concatenate([batches.rows(step) for step in steps])
        assert sorted(order) == list(range(len(rows)))
        masked = torch.cat([dense(batches.batch(step))["labels"] != -100 for step in steps])
        epochs.append(masked[np.argsort(order)])
    assert not torch.equal(*epochs)
    assert batches.passes(2 * batches.steps_per_epoch) == 2


@pytest.mark.parametrize("task", NAMES)
def test_n_is_the_number_of_targets_of_a_pass_in_expectation(task: str) -> None:
    rows = windows(task, block_size=32)
    batches = MaskedBatches(rows, 8, seed=0)
    special = [0, 1, 2, 3, 4] if task == "masked-lm" else list(range(9))
    tiled = len(rows) * 30 if task == "permutation-lm" else len(encoded(task))
    ordinary = int((~np.isin(encoded(task)[:tiled], special)).sum())
    share = 0.15 if task == "masked-lm" else 1 / 6
    assert batches.num_observations == rows.expected_targets == round(share * ordinary)
    epochs = 60
    found = sum(
        int((batches.batch(step)["labels"] != -100).sum())
        for step in range(epochs * batches.steps_per_epoch)
    )
    # spans that reach over the end are cut: fewer than expected in short windows
    tolerance = 0.05 if task == "masked-lm" else 0.15
    assert found / epochs == pytest.approx(batches.num_observations, rel=tolerance)


@pytest.mark.parametrize("task", NAMES)
def test_rows_keep_their_masks_in_any_company(task: str) -> None:
    rows = windows(task)
    together = dense(rows.batch([4, 0, 2]))
    taken = rows.take([2, 4])
    for place, i in enumerate((4, 0, 2)):
        assert same({k: v[place : place + 1] for k, v in together.items()}, dense(rows.batch([i])))
    assert same(taken.batch([1]), rows.batch([4]))
    assert taken.fingerprint() != rows.fingerprint()
    assert rows.take(range(len(rows))).fingerprint() == rows.fingerprint()
    assert taken.overlaps(rows)
    assert not rows.overlaps(windows(task))
    assert not rows.overlaps(Windows.tiled(rows.tokens, 8))


def test_every_row_has_a_target() -> None:
    """With three tokens a window, 61 % of the first masks have none."""
    rows = windows("masked-lm", block_size=5)
    labels = rows.batch(range(len(rows)))["labels"]
    assert bool((labels != -100).any(1).all())
    one = MaskedBatches(rows, 1, seed=0)
    assert all(bool((one.batch(step)["labels"] != -100).any()) for step in range(60))


def test_special_tokens_of_the_text_are_no_targets() -> None:
    tokens = encoded("masked-lm", "the zebra cat " * 40)  # the middle one is unknown
    rows = windows("masked-lm", tokens)
    batch = rows.batch(range(len(rows)))
    assert not (batch["labels"] == 1).any()
    assert rows.expected_targets == round(0.15 * 80)
    unknown = np.ones(14, dtype=np.int64)
    mixed = windows("masked-lm", np.concatenate([tokens[:14], unknown, tokens[:14]]))
    assert mixed.starts.tolist() == [0, 28]


def test_a_subset_is_nested_and_counted() -> None:
    rows = windows("masked-lm")
    few, more = rows.subset(3, seed=1), rows.subset(6, seed=1)
    assert len(few) == 3
    assert set(few.starts) < set(more.starts)
    assert few.expected_targets < more.expected_targets < rows.expected_targets
    for number in (0, len(rows) + 1):
        with pytest.raises(
            UserError, match=rf"^`train_samples={number}`: .* from 1 to {len(rows)}"
        ):
            rows.subset(number, seed=1)


def test_what_is_masked_and_how_is_in_the_fingerprint(monkeypatch: pytest.MonkeyPatch) -> None:
    found = windows("masked-lm").fingerprint()
    assert windows("masked-lm").fingerprint() == found
    tokens = encoded("masked-lm")
    tokens[3] += 1
    others = [windows("masked-lm", tokens), windows("masked-lm", block_size=12)]
    often = windows("masked-lm")
    often.masking.collator.mlm_probability = 0.3
    renamed = windows("masked-lm")
    renamed.masking.collator.tokenizer.mask_token = "mat"
    prints = {found, *(rows.fingerprint() for rows in (*others, often, renamed))}
    assert len(prints) == 5


@pytest.mark.parametrize(
    ("task", "tokens", "block_size", "says"),
    [
        ("masked-lm", 13, 16, "the train split has 13 tokens, too few for one window of 16 with 2"),
        ("masked-lm", 40, 2, "`block_size=2`: the special tokens alone are 2"),
        ("permutation-lm", 40, 15, "`block_size=15`: permutation-lm permutes the halves"),
        ("permutation-lm", 13, 16, "the train split has 13 tokens"),
    ],
)
def test_too_little_is_refused(task: str, tokens: int, block_size: int, says: str) -> None:
    with pytest.raises(UserError) as error:
        windows(task, encoded(task)[:tokens], block_size)
    assert says in str(error.value)
    assert "\n" not in str(error.value)


def test_a_text_of_unknown_words_is_refused() -> None:
    with pytest.raises(UserError, match="has special tokens only"):
        windows("masked-lm", encoded("masked-lm", "zebra " * 40))


@pytest.mark.parametrize("task", NAMES)
@pytest.mark.parametrize("lacking", ["mask", "pad"])
def test_a_tokenizer_without_a_mask_or_padding_is_refused(task: str, lacking: str) -> None:
    tokenizer = TOKENIZERS[task]()
    setattr(tokenizer, f"{lacking}_token", None)
    with pytest.raises(UserError, match=f"^`task={task}`: .* has no {lacking}"):
        Masking.of(tokenizer, TASKS[task])


def test_steps_and_batches_are_checked() -> None:
    batches = MaskedBatches(windows("masked-lm"), 4, seed=0)
    with pytest.raises(ValueError, match="step must not be negative"):
        batches.batch(-1)
    with pytest.raises(UserError, match="`batch_size=0`"):
        MaskedBatches(windows("masked-lm"), 0, seed=0)
