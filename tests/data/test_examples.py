from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from bayesgen.data.examples import Examples
from bayesgen.data.labelled import Labelled, labelled, load_labelled
from bayesgen.data.windows import ShuffledWindows
from bayesgen.errors import UserError

WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", *"abcdefghij"]
PAD, CLS, SEP = 0, 2, 3


def make_tokenizer(**options: Any) -> Any:
    """A BERT-like tokenizer of single letters: "[CLS] a [SEP]", or "[CLS] a [SEP] b [SEP]"."""
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    made = Tokenizer(models.WordLevel({w: i for i, w in enumerate(WORDS)}, unk_token="[UNK]"))
    made.pre_tokenizer = pre_tokenizers.Whitespace()
    made.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B:1 [SEP]:1",
        special_tokens=[("[CLS]", CLS), ("[SEP]", SEP)],
    )
    given = {
        "pad_token": "[PAD]",
        "cls_token": "[CLS]",
        "sep_token": "[SEP]",
        "unk_token": "[UNK]",
        "model_input_names": ["input_ids", "token_type_ids", "attention_mask"],
    }
    return PreTrainedTokenizerFast(tokenizer_object=made, **given | options)


def ids(words: str) -> list[int]:
    return [WORDS.index(word) for word in words.split()]


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    return make_tokenizer()


@pytest.fixture(scope="module")
def texts() -> Labelled:
    return labelled([("a b c", 0), ("d", 1), ("e f g h i j", 1), ("", 0)], name="mine")


@pytest.fixture(scope="module")
def bert() -> Any:
    from transformers import BertConfig, BertForSequenceClassification

    config = BertConfig(
        vocab_size=len(WORDS),
        hidden_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=32,
        max_position_embeddings=40,
        num_labels=3,
        initializer_range=0.5,
        pad_token_id=PAD,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return BertForSequenceClassification(config).double().eval()


def test_a_batch_is_padded_to_its_longest_row(texts: Labelled, tokenizer: Any) -> None:
    examples = Examples(texts, tokenizer, 16)
    assert (len(examples), examples.num_targets, examples.truncated) == (4, 4, 0)
    batch = examples.batch([1, 0])
    assert list(batch) == ["input_ids", "token_type_ids", "attention_mask", "labels"]
    assert batch["input_ids"].tolist() == [
        [CLS, *ids("d"), SEP, PAD, PAD],
        [CLS, *ids("a b c"), SEP],
    ]
    assert batch["attention_mask"].tolist() == [[1, 1, 1, 0, 0], [1] * 5]
    assert batch["token_type_ids"].tolist() == [[0] * 5] * 2
    assert batch["labels"].tolist() == [1, 0]
    assert {tensor.dtype for tensor in batch.values()} == {torch.int64}
    assert examples.batch(np.array([3]))["input_ids"].tolist() == [[CLS, SEP]]
    assert examples.describe() == "4 examples of mine, 2 to 8 tokens (mean 4.5); none was cut"


def test_pads_on_the_tokenizer_s_side_and_without_types(texts: Labelled) -> None:
    names = ["input_ids", "attention_mask"]
    examples = Examples(texts, make_tokenizer(padding_side="left", model_input_names=names), 16)
    batch = examples.batch([1, 0])
    assert list(batch) == [*names, "labels"]
    assert batch["input_ids"][0].tolist() == [PAD, PAD, CLS, *ids("d"), SEP]
    assert batch["attention_mask"][0].tolist() == [0, 0, 1, 1, 1]


def test_scores_stay_scores(tokenizer: Any) -> None:
    scores = labelled([("a", 0.5), ("b", 3)], task="regression")
    labels = Examples(scores, tokenizer, 8).batch([1, 0])["labels"]
    assert labels.dtype == torch.float32
    assert labels.tolist() == [3, 0.5]


def test_long_rows_are_cut_and_counted(texts: Labelled, tokenizer: Any) -> None:
    examples = Examples(texts, tokenizer, 4)
    assert examples.truncated == 2
    assert examples.cut.tolist() == [True, False, True, False]
    assert examples.batch([2])["input_ids"].tolist() == [[CLS, *ids("e f"), SEP]]
    assert examples.describe().endswith("2 (50.0%) were cut to 4 tokens")
    assert not Examples(texts, tokenizer, 8).truncated, "exactly as long as allowed"


def test_of_a_pair_the_longer_text_is_cut(tokenizer: Any) -> None:
    pairs = labelled([("a b c d e", "f", 0), ("a", "b", 1), ("a b", "c d e f", 1)])
    examples = Examples(pairs, tokenizer, 7)
    first, second, third = (examples.batch([i]) for i in range(3))
    assert first["input_ids"].tolist() == [[CLS, *ids("a b c"), SEP, *ids("f"), SEP]]
    assert first["token_type_ids"].tolist() == [[0] * 5 + [1] * 2]
    assert second["input_ids"].tolist() == [[CLS, *ids("a"), SEP, *ids("b"), SEP]]
    assert third["input_ids"].tolist() == [[CLS, *ids("a b"), SEP, *ids("c d"), SEP]]
    assert examples.cut.tolist() == [True, False, True]


def test_limits_that_a_tokenizer_stores_do_not_hold(texts: Labelled, tmp_path: Path) -> None:
    from transformers import AutoTokenizer

    stored = make_tokenizer(model_max_length=4)
    stored.backend_tokenizer.enable_truncation(4)  # as in the folders of sentence-transformers
    stored.backend_tokenizer.enable_padding(length=12)
    stored.save_pretrained(tmp_path)
    examples = Examples(texts, AutoTokenizer.from_pretrained(tmp_path), 6)
    assert [len(row) for row in examples.ids] == [5, 3, 6, 2]
    assert examples.truncated == 1


def test_many_rows_are_those_of_the_tokenizer(tokenizer: Any) -> None:
    generator = np.random.default_rng(0)
    words = [" ".join(generator.choice(list("abcdefghij"), n)) for n in range(30)]
    rows = [words[i % 30] for i in generator.permutation(2500)]
    data = labelled([(text, i % 2) for i, text in enumerate(rows)])
    examples = Examples(data, tokenizer, 12)
    expected = tokenizer(rows, truncation=True, max_length=12)["input_ids"]
    assert [row.tolist() for row in examples.ids] == expected
    assert examples.truncated == sum(len(text.split()) > 10 for text in rows)


@settings(max_examples=25, deadline=None)
@given(st.lists(st.text("abcdefghij ", max_size=40), min_size=2, max_size=6), st.booleans())
def test_padding_does_not_change_the_likelihood(
    bert: Any, tokenizer: Any, rows: list[str], paired: bool
) -> None:
    listed = [(t, rows[-1 - i], i % 3) if paired else (t, i % 3) for i, t in enumerate(rows)]
    examples = Examples(labelled(listed, ["x", "y", "z"]), tokenizer, 40)

    def log_likelihood(indices: list[int]) -> torch.Tensor:
        batch = examples.batch(indices)
        labels = batch.pop("labels")
        with torch.no_grad():
            return -torch.nn.functional.cross_entropy(
                bert(**batch).logits, labels, reduction="none"
            )

    together = log_likelihood(list(range(len(rows))))
    for i in range(len(rows)):
        torch.testing.assert_close(log_likelihood([i]), together[i : i + 1], atol=1e-6, rtol=0)


def test_shuffled_windows_go_over_examples(texts: Labelled, tokenizer: Any) -> None:
    batches = ShuffledWindows(Examples(texts, tokenizer, 8), 3, 0)  # type: ignore[arg-type]
    assert (batches.num_observations, batches.steps_per_epoch, batches.passes(2)) == (4, 2, 1)
    seen = [row for step in range(2) for row in batches.batch(step)["input_ids"].tolist()]
    seen = [[token for token in row if token != PAD] for row in seen]
    assert sorted(seen) == sorted(row.tolist() for row in Examples(texts, tokenizer, 8).ids)
    assert torch.equal(batches.batch(5)["input_ids"], batches.batch(5)["input_ids"])


def test_subsets_are_nested(tokenizer: Any) -> None:
    data = labelled([(" ".join("abcdefghij"[: 1 + i % 10]), i % 2) for i in range(30)])
    rows = [
        {(r.tobytes(), t) for r, t in zip(s.ids, s.data.first, strict=True)}
        for s in (Examples(data.subset(n, 3), tokenizer, 6) for n in (5, 17, 30))
    ]
    assert rows[0] <= rows[1] <= rows[2]
    some = Examples(data.subset(5, 3), tokenizer, 6)
    assert some.truncated == sum(len(text.split()) > 4 for text in some.data.first)
    assert len(data) == 30
    assert data.subset(30, 3).fingerprint == data.fingerprint
    assert some.data.fingerprint != data.subset(5, 4).fingerprint


@pytest.mark.parametrize("number", [0, -1, 5])
def test_a_subset_that_is_none(texts: Labelled, number: int) -> None:
    with pytest.raises(UserError, match=f"`train_samples={number}`: mine has 4 examples"):
        texts.subset(number, 0)


def test_fingerprint_is_of_ids_and_labels(tokenizer: Any) -> None:
    def of(rows: list[tuple[Any, ...]], max_length: int = 8) -> str:
        return Examples(labelled(rows, ["x", "y"]), tokenizer, max_length).fingerprint()

    assert of([("a b", 0), ("c", 1)]) == of([("a  b ", "x"), ("c", "y")], 9)
    others = [
        of([("a", 0), ("b c", 1)]),
        of([("a b", 0), ("c", 0)]),
        of([("a b", 0), ("c", 1)], 3),
        of([("a", "b", 0), ("c", "", 1)]),
    ]
    assert of([("a b", 0), ("c", 1)]) not in others


def refuse(*args: Any) -> str:
    with pytest.raises(UserError) as error:
        Examples(*args)
    message = str(error.value)
    assert "\n" not in message
    return message


def test_what_cannot_be_encoded_is_refused(texts: Labelled, tokenizer: Any) -> None:
    assert "`max_length=2`" in refuse(texts, tokenizer, 2)
    pairs = labelled([("a", "b", 0)], ["x", "y"])
    assert "at least 5" in refuse(pairs, tokenizer, 4)
    assert len(Examples(pairs, tokenizer, 5).ids[0]) == 5
    assert "no padding token" in refuse(texts, make_tokenizer(pad_token=None), 8)


def test_a_row_of_no_tokens_or_of_unknown_ones(texts: Labelled) -> None:
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    made = Tokenizer(models.WordLevel({"a": 0, "[PAD]": 1}, unk_token="[UNK]"))
    made.pre_tokenizer = pre_tokenizers.Whitespace()
    bare = PreTrainedTokenizerFast(tokenizer_object=made, pad_token="[PAD]")
    says = refuse(labelled([("a", 0), ("", 1)]), bare, 4)
    assert "the row that begins with '' has a text without tokens" in says
    assert "cannot encode" in refuse(texts, bare, 4)


def test_news_in_words(tokenizer: Any) -> None:
    data = os.environ.get("BAYESGEN_TEST_DATA")
    if not data:
        pytest.skip("BAYESGEN_TEST_DATA is not set: no AG News")
    corpus = load_labelled("ag_news", task="sequence-classification", data_dir=Path(data))
    examples = Examples(corpus.val, tokenizer, 32)
    assert 0 < examples.truncated < len(examples) == 1000
    assert max(len(row) for row in examples.ids) == 32
    batch = examples.batch(range(8))
    assert batch["input_ids"].shape == batch["attention_mask"].shape
    assert batch["attention_mask"].sum() == sum(len(row) for row in examples.ids[:8])


# -- pairs of texts apart --------------------------------------------------------------------------


@pytest.fixture(scope="module")
def pairs() -> Labelled:
    rows = [("a b c", "d", 1.0), ("e", "f g h i j", 2.0), ("b", "a", 5.0)]
    return labelled(rows, task="sentence-similarity", name="pairs")


def test_texts_apart_are_two_sequences_of_one_row(pairs: Labelled, tokenizer: Any) -> None:
    examples = Examples(pairs, tokenizer, 6, apart=True)
    assert (len(examples), examples.num_targets, examples.truncated) == (3, 3, 1)
    assert examples.cut.tolist() == [False, True, False]
    assert examples.lengths.tolist() == [5, 6, 3]
    batch = examples.batch([2, 0])
    assert batch["input_ids"].tolist() == [
        [[CLS, *ids("b"), SEP, PAD, PAD], [CLS, *ids("a"), SEP, PAD, PAD]],
        [[CLS, *ids("a b c"), SEP], [CLS, *ids("d"), SEP, PAD, PAD]],
    ]
    assert batch["attention_mask"].tolist() == [
        [[1, 1, 1, 0, 0], [1, 1, 1, 0, 0]],
        [[1] * 5, [1, 1, 1, 0, 0]],
    ]
    assert not batch["token_type_ids"].any()
    assert batch["labels"].tolist() == [5.0, 1.0]
    second = examples.batch([1])["input_ids"]
    assert second.tolist() == [[[CLS, *ids("e"), SEP, PAD, PAD, PAD], [CLS, *ids("f g h i"), SEP]]]
    says = examples.describe()
    assert says.startswith("3 examples of pairs, 3 to 6 tokens (mean 4.7)")
    assert says.endswith("1 (33.3%) were cut to 6 tokens")


def test_rows_of_texts_apart_are_taken_together(pairs: Labelled, tokenizer: Any) -> None:
    examples = Examples(pairs, tokenizer, 6, apart=True)
    taken = examples.take([2, 1])
    assert len(taken) == 2
    assert taken.truncated == 1
    for key, value in taken.batch([0, 1]).items():
        assert torch.equal(value, examples.batch([2, 1])[key])
    assert taken.overlaps(examples)
    assert taken.take([0]).batch([0])["input_ids"].shape[:2] == (1, 2)


def test_the_fingerprint_tells_texts_apart_from_one_sequence(
    pairs: Labelled, tokenizer: Any
) -> None:
    examples = Examples(pairs, tokenizer, 16, apart=True)
    other = labelled([("a b", "c d", 1.0), ("e", "f g h i j", 2.0), ("b", "a", 5.0)],
                     task="sentence-similarity")  # fmt: skip
    prints = {
        examples.fingerprint(),
        Examples(pairs, tokenizer, 16).fingerprint(),
        Examples(other, tokenizer, 16, apart=True).fingerprint(),
        examples.take([1, 0, 2]).fingerprint(),
    }
    assert len(prints) == 4
    assert Examples(pairs, tokenizer, 16, apart=True).fingerprint() == examples.fingerprint()


def test_single_texts_cannot_be_apart(texts: Labelled, pairs: Labelled, tokenizer: Any) -> None:
    with pytest.raises(UserError, match="single texts") as caught:
        Examples(texts, tokenizer, 8, apart=True)
    assert "\n" not in str(caught.value)
    assert "`pair_column`" in str(caught.value)
    # each text has its own room
    assert len(Examples(pairs, tokenizer, 3, apart=True).ids[0]) == 3
    with pytest.raises(UserError, match="`max_length=2`"):
        Examples(pairs, tokenizer, 2, apart=True)
    bare = make_tokenizer()
    bare.backend_tokenizer.post_processor = _nothing_added()
    empty = labelled([("a", "b", 1.0), ("c", "", 2.0)], task="sentence-similarity")
    with pytest.raises(UserError, match="that begins with 'c' has a text without tokens"):
        Examples(empty, bare, 4, apart=True)


def _nothing_added() -> Any:
    from tokenizers import processors

    return processors.TemplateProcessing(single="$A", pair="$A $B:1", special_tokens=[])
