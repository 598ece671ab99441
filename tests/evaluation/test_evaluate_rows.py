"""Rows of different lengths: read from the longest to the shortest, returned in their own order."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from bayesgen.data.examples import Examples
from bayesgen.data.labelled import Labelled, load_labelled
from bayesgen.data.windows import Windows
from bayesgen.draws import Draws
from bayesgen.evaluation import evaluate_split, run_passes, walk
from bayesgen.evaluation.cache import TokenCache
from bayesgen.evaluation.classes import score_mixture, score_weights
from bayesgen.evaluation.metrics import Passes
from bayesgen.evaluation.walk import Split, draw_order, evenly_spaced
from bayesgen.models import FunctionalModel
from bayesgen.predictive import Forward, Predictive
from bayesgen.predictive.forward import Trunk
from tests.encoder import save_encoder, write_rows

pytest.importorskip("transformers")


@pytest.fixture(scope="module")
def shelf(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("shelf")
    save_encoder(path / "encoder")
    write_rows(path / "rows.tsv", 50)
    return path


def predictive(shelf: Path, parameters: str = "head", precision: Any = "fp32") -> Predictive:
    """A classifier of three classes with four draws that differ."""
    from bayesgen.models import huggingface

    name = str(shelf / "encoder")
    model = huggingface.load(name, "sequence-classification", parameters, num_labels=3)
    noise = torch.randn(4, model.layout.size, generator=torch.Generator().manual_seed(1))
    return Predictive(model, Draws.from_draws(model.theta + noise, model.layout), precision)


def examples(who: Predictive, shelf: Path, part: str = "train") -> Examples:
    corpus = load_labelled(str(shelf / "rows.tsv"), task="sequence-classification")
    data: Labelled = getattr(corpus, part)
    tokenizer: Any = who.model.tokenizer
    return Examples(data, tokenizer.tokenizer, 32)


def padded(split: Split, places: Tensor) -> int:
    return sum(batch["input_ids"].numel() for batch in split.batches(places))


def test_long_rows_are_read_first_and_padded_little(shelf: Path) -> None:
    who = predictive(shelf)
    rows = examples(who, shelf)
    split = Split.of(who.forward, rows, 8)
    lengths = rows.lengths[split.indices[split.order]]
    assert (np.diff(lengths) <= 0).all()
    assert len(set(lengths)) > 3
    assert sorted(split.order.tolist()) == list(range(len(rows)))
    assert torch.equal(split.indices, torch.arange(len(rows)))
    assert padded(split, split.order) < 0.9 * padded(split, torch.arange(len(rows)))


def test_windows_of_a_text_stay_in_its_order(tiny_gpt: FunctionalModel) -> None:
    windows = Windows.tiled(np.arange(30, dtype=np.uint16), 8)
    split = Split.of(Forward(tiny_gpt), windows, 8, 3)
    assert torch.equal(split.order, torch.arange(3))
    assert torch.equal(split.tokens_back, torch.arange(len(split.tokens_back)))


def test_tokens_find_the_way_back(tiny_gpt: FunctionalModel) -> None:
    windows = Windows.tiled(np.arange(30, dtype=np.uint16), 8)
    split = Split.of(Forward(tiny_gpt), windows, 8)
    split = replace(split, order=torch.tensor([3, 0, 2, 1]))  # the last one has 5 targets
    each = torch.arange(29).split([8, 8, 8, 5])
    read = torch.cat([each[i] for i in split.order])
    assert torch.equal(read[split.tokens_back], torch.arange(29))
    assert torch.equal(split.order[split.windows_back], torch.arange(4))


@pytest.mark.parametrize(
    ("most", "expected"), [(None, [0, 1, 2, 3, 4]), (9, [0, 1, 2, 3, 4]), (3, [0, 2, 4]), (1, [0])]
)
def test_rows_are_evenly_spaced(most: int | None, expected: list[int]) -> None:
    assert evenly_spaced(5, most).tolist() == expected


@pytest.mark.parametrize("parameters", ["head", "all"])
@pytest.mark.parametrize("most", [None, 20])
def test_every_row_has_the_numbers_that_it_has_alone(
    parameters: str, most: int | None, shelf: Path, tmp_path: Path
) -> None:
    who = predictive(shelf, parameters)
    rows = examples(who, shelf)
    found, split = run_passes(
        who, rows, examples(who, shelf, "val"), batch_size=8, max_windows=most,
        cache=TokenCache(tmp_path),
    )  # fmt: skip
    (path,) = tmp_path.glob("*.npy")
    kept = torch.from_numpy(np.load(path))
    forward = Forward(who.model)
    for place, i in enumerate(split.indices.tolist()):
        batch = rows.batch([i])
        label = int(batch["labels"])
        each = []
        for theta in who.posterior:
            forward.load(theta)
            each.append(forward.log_probs(batch)[0])
        probs = torch.stack(each).double().exp()
        torch.testing.assert_close(kept[:, place], torch.stack(each)[:, label], rtol=0, atol=1e-5)
        said = -probs.mean(0)[label].log()
        assert float(found.said["bma"].window_nll[place]) == pytest.approx(float(said), abs=1e-5)
        token = found.said["bma"].tokens.log_likelihood[place]
        assert float(token) == pytest.approx(-float(said), abs=1e-5)
        aleatoric = -(probs * probs.log()).sum(1).mean()
        assert float(found.aleatoric[place]) == pytest.approx(float(aleatoric), abs=1e-5)
        own = -torch.stack(each)[:, label].mean()
        assert float(found.draws_window_nll[place]) == pytest.approx(float(own), abs=1e-5)
        forward.load(who.model.theta)
        alone = -float(forward.log_probs(batch)[0, label])
        assert float(found.said["deterministic"].window_nll[place]) == pytest.approx(
            alone, abs=1e-5
        )


def mixed(who: Predictive, split: Split, advance: Any = lambda rows: None) -> Passes:
    order = draw_order(len(who.posterior))
    return score_mixture(who.forward, split, who.posterior, order, advance)


def in_order_of_the_file(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Examples, "lengths", None)


def test_the_report_is_that_of_rows_in_the_order_of_the_file(
    shelf: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Cross-fitted temperatures, intervals and all, but for the rounding of sums."""
    who = predictive(shelf)
    rows = examples(who, shelf)
    found = evaluate_split(who, rows, rows, batch_size=8)
    in_order_of_the_file(monkeypatch)
    expected = evaluate_split(who, rows, rows, batch_size=8)
    for one, other in zip(numbers(found.content), numbers(expected.content), strict=True):
        assert one == pytest.approx(other, abs=1e-5, nan_ok=True)
    for name, nll in expected.window_nll.items():
        torch.testing.assert_close(found.window_nll[name], nll, rtol=0, atol=1e-5)


def numbers(content: Any) -> list[float]:
    if isinstance(content, dict):
        return [n for value in content.values() for n in numbers(value)]
    if isinstance(content, list):
        return [n for value in content for n in numbers(value)]
    return [content] if isinstance(content, int | float) else []


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("room", [1, 20_000, 2**28])
@pytest.mark.parametrize("parameters", ["head", "layers=-1:"])
def test_what_draws_share_changes_no_bit(
    parameters: str,
    room: int,
    precision: Any,
    shelf: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    who = predictive(shelf, parameters, precision)
    split = Split.of(who.forward, examples(who, shelf), 8)
    taus = torch.linspace(0.5, 2, len(split.indices))
    weights = {"one": (who.model.theta, None), "scaled": (who.posterior[1], taus)}
    monkeypatch.setattr(walk, "TRUNK_BYTES", room)
    shared = mixed(who, split)
    alone = score_weights(who.forward, split, weights)
    calls = []
    layer = who.forward._flat.module.get_submodule("bert.embeddings.word_embeddings")
    layer.register_forward_hook(lambda *_: calls.append(1))
    mixed(who, split)
    batches = -(-len(split.indices) // 8)
    looking = 1 + 3 + 1 + 1  # a watched pass, plain ones, one that keeps; and one for the size
    assert len(calls) == batches + looking
    monkeypatch.setattr(Forward, "trunk", lambda *_: Trunk())
    plain = mixed(who, split)
    assert len(calls) == batches + looking + 4 * batches + 1
    assert torch.equal(shared.said["bma"].window_nll, plain.said["bma"].window_nll)
    assert torch.equal(shared.aleatoric, plain.aleatoric)
    assert torch.equal(shared.draws_window_nll, plain.draws_window_nll)
    for name, value in vars(plain.said["bma"].tokens).items():
        assert torch.equal(getattr(shared.said["bma"].tokens, name), value)
    assert (shared.draws, shared.by_draws) == (plain.draws, plain.by_draws)
    for name, scored in score_weights(who.forward, split, weights).items():
        assert torch.equal(alone[name].window_nll, scored.window_nll)
        assert alone[name].tally.nll == scored.tally.nll


def test_what_was_shared_is_let_go(shelf: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    who = predictive(shelf)
    split = Split.of(who.forward, examples(who, shelf), 8)
    found: list[Any] = []
    find = Forward.trunk

    def noting(self: Forward, batch: Any) -> Any:
        found.append(find(self, batch))
        return found[-1]

    held: list[int] = []
    monkeypatch.setattr(Forward, "trunk", noting)
    monkeypatch.setattr(walk, "TRUNK_BYTES", 1)
    mixed(who, split, lambda _: held.append(found[-1].held()))
    one_batch = 8 * int(examples(who, shelf).lengths.max()) * 16 * 4 + 2 * 8 * 16 * 4
    assert 0 < max(held) <= one_batch
    assert found[-1].held() == 0
