"""Embedded texts: each read once, kept on disk, the same whoever asks."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pytest
import torch
from torch import Tensor

from bayesgen.data.examples import BATCH, Embedded, Examples, cache_folder
from bayesgen.data.labelled import labelled
from bayesgen.data.windows import ShuffledWindows
from bayesgen.errors import UserError
from tests.data.test_examples import make_tokenizer

pytest.importorskip("transformers")

LETTERS = "abcdefghij"


@pytest.fixture(scope="module")
def examples() -> Examples:
    """More texts than one batch, of mixed lengths."""
    rows = [(" ".join(LETTERS[: 1 + i * 7 % 10]), i % 2) for i in range(BATCH + 9)]
    return Examples(labelled(rows, name="mine"), make_tokenizer(), 16)


class Encoder:
    """Sum and mean of the ids that are no padding; counts the texts that it reads."""

    def __init__(self) -> None:
        self.read = 0

    def __call__(self, batch: Mapping[str, Tensor]) -> Tensor:
        self.read += len(batch["labels"])
        total = (batch["input_ids"] * batch["attention_mask"]).sum(1).float()
        return torch.stack([total, total / batch["attention_mask"].sum(1)], 1)


def expected(examples: Examples) -> Tensor:
    rows = [torch.from_numpy(ids).float() for ids in examples.ids]
    return torch.stack([torch.stack([row.sum(), row.mean()]) for row in rows])


def test_each_row_is_its_own_embedding(examples: Examples, tmp_path: Path) -> None:
    rows = Embedded(examples, Encoder(), "one", tmp_path)
    assert len(rows) == rows.num_targets == BATCH + 9
    assert (rows.row_targets, rows.num_classes) == (1, 2)
    assert rows.describe() == examples.describe()
    order = [70, 0, 3, 3]
    batch = rows.batch(order)
    assert list(batch) == ["sentence_embedding", "labels"]
    torch.testing.assert_close(batch["sentence_embedding"], expected(examples)[order])
    assert torch.equal(batch["labels"], examples.batch(order)["labels"])
    taken = rows.take([5, 4, 71]).take([2, 0])
    torch.testing.assert_close(
        taken.batch([0, 1])["sentence_embedding"], expected(examples)[[71, 5]]
    )
    assert len(taken) == 2
    whole = ShuffledWindows(rows, 16, seed=0)
    seen = torch.cat([whole.batch(i)["sentence_embedding"] for i in range(whole.steps_per_epoch)])
    torch.testing.assert_close(seen.sort(0).values, expected(examples).sort(0).values)


def test_a_text_is_read_once_and_no_text_before_it_is_asked_for(
    examples: Examples, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    encoder = Encoder()
    rows = Embedded(examples, encoder, "one", tmp_path / "deep" / "cache")
    part = rows.take([1, 2])
    rows.fingerprint()
    assert encoder.read == 0
    part.batch([0])
    rows.batch([5])
    assert encoder.read == len(examples)
    assert "embedding mine" in capsys.readouterr().err
    again = Embedded(examples, encoder, "one", tmp_path / "deep" / "cache")
    again.read()
    torch.testing.assert_close(again.batch([7]), rows.batch([7]), rtol=0, atol=0)
    assert encoder.read == len(examples)
    assert capsys.readouterr().err == ""
    for other in (
        Embedded(examples, encoder, "another", tmp_path / "deep" / "cache"),
        Embedded(examples.take([3, 4]), encoder, "one", tmp_path / "deep" / "cache"),
    ):
        before = encoder.read
        other.read()
        assert encoder.read == before + len(other)
    assert len(list((tmp_path / "deep" / "cache").iterdir())) == 3


def test_what_was_stopped_goes_on_where_it_was(
    examples: Examples, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("bayesgen.data.examples.PART", 20)

    class Stopped(Encoder):
        def __call__(self, batch: Mapping[str, Tensor]) -> Tensor:
            if self.read == 40:
                raise KeyboardInterrupt
            return super().__call__(batch)

    with pytest.raises(KeyboardInterrupt):
        Embedded(examples, Stopped(), "one", tmp_path).read()
    assert len(list(tmp_path.iterdir())) == 2
    encoder = Encoder()
    rows = Embedded(examples, encoder, "one", tmp_path)
    found = rows.batch(range(len(rows)))["sentence_embedding"]
    torch.testing.assert_close(found, expected(examples))
    assert encoder.read == len(examples) - 40
    assert len(list(tmp_path.iterdir())) == 4


@pytest.mark.parametrize("content", [b"", b"half a fi"])
def test_a_damaged_file_is_made_again(content: bytes, examples: Examples, tmp_path: Path) -> None:
    Embedded(examples, Encoder(), "one", tmp_path).read()
    (path,) = tmp_path.iterdir()
    path.write_bytes(content)
    rows = Embedded(examples, Encoder(), "one", tmp_path)
    torch.testing.assert_close(rows.batch([9])["sentence_embedding"], expected(examples)[[9]])
    assert len(path.read_bytes()) > 8 * len(examples)


def test_fingerprints_tell_rows_and_encoders_apart(examples: Examples, tmp_path: Path) -> None:
    one, other = (Embedded(examples, Encoder(), name, tmp_path) for name in ("one", "other"))
    assert one.fingerprint() == Embedded(examples, Encoder(), "one", tmp_path).fingerprint()
    assert len({one.fingerprint(), other.fingerprint(), one.take([0]).fingerprint(),
                examples.fingerprint()}) == 4  # fmt: skip
    assert one.overlaps(one.take([3]))
    assert not one.take([3]).overlaps(one.take([4]))
    assert not one.overlaps(examples)


def test_where_embeddings_are_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert cache_folder(tmp_path) == tmp_path / "sentence_embeddings"
    own = tmp_path / "home" / ".cache" / "bayesgen" / "sentence_embeddings"
    assert cache_folder(None) == cache_folder(tmp_path / "gone") == own


def test_a_place_that_cannot_be_made_is_one_line(examples: Examples, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("no folder")
    with pytest.raises(UserError, match="`data_dir`") as caught:
        Embedded(examples, Encoder(), "one", tmp_path / "file" / "cache").read()
    assert "\n" not in str(caught.value)
