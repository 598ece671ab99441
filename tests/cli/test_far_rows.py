"""Classifiers are asked how well they know what they do not know: through the real doors."""

from __future__ import annotations

import hashlib
import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from bayesgen.cli.main import run_command
from bayesgen.data.labelled import load_labelled
from tests.encoder import FILLERS, save_encoder, write_rows
from tests.workspace import furnished, scatter

transformers = pytest.importorskip("transformers")

SCORES = ("bma_epistemic", "bma_total", "deterministic_entropy", "deterministic_max_probability")
RANKED = (
    "deterministic_entropy", "deterministic_max_probability", "bma_total", "bma_epistemic",
    "bma_max_probability",
)  # fmt: skip


@pytest.fixture(scope="module")
def shelf(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run over a classifier's head, with four draws that differ, and other texts."""
    path = tmp_path_factory.mktemp("shelf")
    save_encoder(path / "encoder")
    write_rows(path / "rows.tsv", 120)
    (path / "far").mkdir()
    for stem, count in (("train", 30), ("test", 20)):
        words = [" ".join(FILLERS[i % 8 : i % 8 + 1 + i % 3]) for i in range(count)]
        lines = ["text\tlabel", *(f"{text}\tx" for text in words)]
        (path / "far" / f"{stem}.tsv").write_text("\n".join(lines))
    (path / "texts.tsv").write_text("text\n" + "\n".join(f"{w} {w}" for w in FILLERS))
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(path)
        furnished(path)
        tuning = ["--data", "rows.tsv", "--validation", "40", "--max-steps", "20"]
        assert run_command("finetune", ["--model", "encoder", *tuning, "--out", "tuned"]) == 0
        chain = ["--sampler", "sgld", "--warmup-steps", "2", "--sampling-steps", "4"]
        labelled = ["--task", "sequence-classification", "--model", "tuned", "--data", "rows.tsv",
                    "--validation", "40", "--parameters", "head", "--block-size", "8"]  # fmt: skip
        assert run_command("train", [*chain, "--thinning", "2", *labelled, "--out", "run"]) == 0
        text = ["--model", "model.pt", "--corpus", "corpus.txt", "--out", "text"]
        assert run_command("train", [*chain, "--thinning", "2", *text]) == 0
    scatter(path / "run", 4, 0.5)
    return path


@pytest.fixture
def here(shelf: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(shelf)
    for kept in (*shelf.glob("run/bayesian_eval_*"), *shelf.glob("run/token_scores/*")):
        kept.unlink()
    return shelf


def evaluated(*flags: str, status: int = 0) -> tuple[dict[str, Any], dict[str, torch.Tensor]]:
    assert run_command("evaluate", ["run", *flags]) == status
    (path,) = Path("run").glob("bayesian_eval_*[0-9].json")
    content: dict[str, Any] = json.loads(path.read_text())
    return content, load_file(path.with_suffix(".safetensors"))


def said(run: Path, texts: tuple[str, ...]) -> dict[str, torch.Tensor]:
    """Each uncertainty of each text, and what is guessed, by plain transformers."""
    record = json.loads((run / "run.json").read_text())
    network = transformers.AutoModelForSequenceClassification.from_pretrained("tuned").eval()
    tokenizer = transformers.AutoTokenizer.from_pretrained("tuned")
    inputs = [tokenizer(t, truncation=True, max_length=8, return_tensors="pt") for t in texts]

    @torch.no_grad()
    def probs() -> torch.Tensor:
        return torch.cat([network(**each).logits.double().softmax(-1) for each in inputs])

    def entropy(p: torch.Tensor) -> torch.Tensor:
        return -(p * p.log()).sum(-1)

    own, each = probs(), []
    parameters = dict(network.named_parameters())
    for path in sorted((run / "draws").iterdir()):
        (theta,) = load_file(path)["draws"]
        for p in record["parameters"]:
            value = theta[p["offset"] : p["offset"] + math.prod(p["shape"])].view(p["shape"])
            parameters[p["name"]].data.copy_(value)
        each.append(probs())
    mixed = torch.stack(each).mean(0)
    return {
        "bma_epistemic": entropy(mixed) - torch.stack([entropy(p) for p in each]).mean(0),
        "bma_total": entropy(mixed),
        "deterministic_entropy": entropy(own),
        "deterministic_max_probability": 1 - own.max(-1).values,
        "bma_max_probability": 1 - mixed.max(-1).values,
        "bma": mixed.argmax(-1),
        "deterministic": own.argmax(-1),
    }


def auroc(inside: torch.Tensor, outside: torch.Tensor) -> float:
    pairs = outside[:, None] - inside[None]
    return float(((pairs > 1e-9).double() + 0.5 * (pairs.abs() <= 1e-9)).mean())


def near_rows() -> tuple[tuple[str, ...], torch.Tensor]:
    val = load_labelled("rows.tsv", task="sequence-classification", validation=40).val
    return val.first, torch.as_tensor(val.labels)


def test_far_rows_are_told_as_by_plain_transformers(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    content, tensors = evaluated("--ood-data", "far", "--eval-batch-size", "7")
    far = tuple(line.split("\t")[0] for line in Path("far/test.tsv").read_text().split("\n")[1:])
    sha256 = hashlib.sha256(json.dumps([far, None, [0] * 20, None]).encode()).hexdigest()
    assert content["ood_data"] == {"name": "far", "split": "test", "rows": 20, "sha256": sha256}
    found = content["splits"]["val"]["ood"]
    assert tuple(found["scores"]) == SCORES
    near, _ = near_rows()
    inside, outside = said(here / "run", near), said(here / "run", far)
    expected = {name: auroc(inside[name], outside[name]) for name in SCORES}
    for name, score in found["scores"].items():
        assert (score["num_inside"], score["num_outside"]) == (40, 20)
        assert score["auroc"]["estimate"] == pytest.approx(expected[name], abs=2e-3)
        assert score["auroc"]["low"] <= score["auroc"]["estimate"] <= score["auroc"]["high"]
        ratio = float(outside[name].mean() / inside[name].mean())
        assert score["ratio"]["estimate"] == pytest.approx(ratio, rel=1e-3)
    assert set(found["epistemic_minus"]) == set(SCORES[1:])
    assert "nll" not in json.dumps(found)
    assert torch.equal(tensors["val.rows"], torch.arange(40))
    printed = capsys.readouterr().out
    assert "AUROC, 95 %" in printed
    assert "bma epistemic" in printed


def test_the_surest_rows_are_as_accurate_as_by_plain_transformers(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    content, _ = evaluated()
    ranked = content["splits"]["val"]["selective"]
    assert tuple(ranked) == RANKED
    texts, labels = near_rows()
    found = said(here / "run", texts)
    for name, each in ranked.items():
        guess = found[name.split("_")[0]]
        surest = found[name].argsort()[:32]
        accuracy = float((guess == labels)[surest].double().mean())
        # a near-tie at the edge turns round
        assert each["accuracy_at_80"]["estimate"] == pytest.approx(accuracy, abs=1 / 32 + 1e-9)
        assert each["accuracy_at_80"]["low"] <= each["accuracy_at_80"]["estimate"]
        assert 1 - each["curve"]["risks"][16] == pytest.approx(each["accuracy_at_80"]["estimate"])
    reference = ranked["deterministic_max_probability"]["accuracy_at_80"]["estimate"]
    for each in ranked.values():
        gain = each["accuracy_at_80_minus_max_probability"]["estimate"]
        assert gain == pytest.approx(each["accuracy_at_80"]["estimate"] - reference)
    printed = capsys.readouterr().out
    assert "accuracy at 80 % coverage" in printed
    assert "errors at 50 %" not in printed


def test_fewer_rows_are_evenly_spaced_and_have_their_numbers(here: Path) -> None:
    content, tensors = evaluated("--ood-data", "far", "--eval-max-samples", "5")
    assert tensors["val.rows"].tolist() == [0, 10, 20, 29, 39]
    assert tensors["val.tokens"].tolist() == [1] * 5
    found = content["splits"]["val"]["ood"]["scores"]["bma_total"]
    assert (found["num_inside"], found["num_outside"]) == (5, 5)


def test_a_table_of_texts_alone_will_do_and_is_kept(here: Path) -> None:
    content, _ = evaluated("--ood-data", "texts.tsv")
    assert content["ood_data"]["split"] == "train"
    assert content["ood_data"]["rows"] == len(FILLERS)
    (before,) = here.glob("run/bayesian_eval_*[0-9].json")
    before.unlink()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("bayesgen.predictive.Forward.outputs", None)  # no network is run again
        again, _ = evaluated("--ood-data", "texts.tsv")
    assert again == content


def test_training_scores_far_rows_too(
    here: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    argv = ["--sampler", "sgld", "--warmup-steps", "2", "--sampling-steps", "4", "--thinning", "2",
            "--task", "sequence-classification", "--model", "tuned", "--data", "rows.tsv",
            "--parameters", "head", "--eval", "--ood-data", "texts.tsv"]  # fmt: skip
    assert run_command("train", [*argv, "--out", str(tmp_path / "run")]) == 0
    summary = (tmp_path / "run" / "sgld_summary.txt").read_text()
    for text in (summary, capsys.readouterr().out):
        assert "accuracy at 80 % coverage" in text
        assert "FPR at 95 % TPR" in text


@pytest.mark.parametrize(
    ("run", "flags", "says"),
    [
        ("run", ["--ood-corpus", "python-docs"], "this run has labelled data; give --ood-data"),
        ("text", ["--ood-data", "texts.tsv"], "of a language model; give --ood-corpus"),
        ("run", ["--ood-data", "gone"], "--ood-data gone: neither a path nor built-in data"),
        ("run", ["--ood-data", "corpus.txt"], "not one of .tsv, .csv, .jsonl"),
        ("run", ["--ood-data", "numbers.tsv"], "--ood-data: no column of texts"),
        ("run", ["--ood-data", "one.tsv"], "--ood-data needs two rows of each set"),
        ("run", ["--ood-data", "far", "--eval-max-samples", "1"], "--eval-max-samples 1"),
    ],
)
def test_bad_input_is_one_line(
    run: str, flags: list[str], says: str, here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("numbers.tsv").write_text("id\tlabel\n1\t2\n3\t4\n")
    Path("one.tsv").write_text("text\nalone\n")
    assert run_command("evaluate", [run, *flags]) == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert line.startswith("error: ")
    assert says in line
    assert not list(Path(run).glob("bayesian_eval_*"))


def test_it_needs_an_evaluation(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    argv = ["--task", "sequence-classification", "--model", "tuned", "--data", "rows.tsv"]
    assert run_command("train", [*argv, "--ood-data", "far", "--out", "never"]) == 2
    assert "--ood-data needs --eval" in capsys.readouterr().err
