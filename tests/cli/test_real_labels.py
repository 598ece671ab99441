"""Scores of pairs run through every command: fine-tuned, sampled, evaluated, compared."""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file
from scipy import stats
from torch.distributions import Normal

from bayesgen.cli.main import run_command
from tests.encoder import save_encoder, write_rows, write_scores

transformers = pytest.importorskip("transformers")

SAMPLER = ("--sampler", "sghmc", "--batch-size", "8", "--warmup-steps", "4", "--sampling-steps",
           "8", "--thinning", "2", "--learning-rate", "1", "--parameters", "all",
           "--preconditioner-damping", "0.01", "--temperature", "0.3",
           "--device", "cpu")  # fmt: skip


@pytest.fixture(scope="module")
def shelf(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Scored pairs, and for each task a fine-tune with a scored run; and a classifier's run."""
    path = tmp_path_factory.mktemp("shelf")
    save_encoder(path / "encoder")
    write_scores(path / "pairs.tsv", 80)
    write_rows(path / "rows.tsv", 40)
    with pytest.MonkeyPatch.context() as patch:
        for variable in ("BASE_DIR", "MODEL_PATH", "DATA_DIR", "DEVICE"):
            patch.delenv(variable, raising=False)
        patch.chdir(path)
        for task, data in (
            ("regression", "pairs.tsv"),
            ("sentence-similarity", "pairs.tsv"),
            ("sentence-classification", "rows.tsv"),
        ):
            flags = ["--task", task, "--data", data]
            assert run_command("finetune", ["--model", "encoder", "--out", f"tuned/{task}", *flags,
                                     "--max-steps", "4", "--device", "cpu"]) == 0  # fmt: skip
            scored = ["--eval"] if data == "pairs.tsv" else []
            assert run_command("train", [*SAMPLER, *flags, "--model", f"tuned/{task}", "--out",
                                  f"runs/{task}", *scored]) == 0  # fmt: skip
    return path


@pytest.fixture
def here(shelf: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory that sees the shelf."""
    for found in shelf.iterdir():
        (tmp_path / found.name).symlink_to(found)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def first_evaluation(run: Path) -> dict[str, Any]:
    path = min(run.glob("bayesian_eval_*[0-9].json"))
    content: dict[str, Any] = json.loads(path.read_text())
    return content


def outputs(run: Path, texts: list[tuple[str, str]], tuned: str) -> Iterator[torch.Tensor]:
    """What plain transformers says of pairs with the weights of every draw, [n] each."""
    record = json.loads((run / "run.json").read_text())
    network = transformers.AutoModelForSequenceClassification.from_pretrained(tuned).eval()
    tokenizer = transformers.AutoTokenizer.from_pretrained(tuned)
    inputs = tokenizer(*map(list, zip(*texts, strict=True)), padding=True, return_tensors="pt")
    parameters = dict(network.named_parameters())
    for path in sorted((run / "draws").glob("*.safetensors")):
        (theta,) = load_file(path)["draws"]
        for p in record["parameters"]:
            size = math.prod(p["shape"])
            value = theta[p["offset"] : p["offset"] + size].view(p["shape"])
            parameters[p["name"]].data.copy_(value)
        with torch.no_grad():
            yield network(**inputs).logits[:, 0].double()


def test_the_mixture_is_that_of_plain_transformers(here: Path) -> None:
    from bayesgen.data.labelled import load_labelled

    val = load_labelled("pairs.tsv", task="regression").val
    assert val.second is not None
    texts = list(zip(val.first, val.second, strict=True))
    y = torch.as_tensor(val.labels).double()
    f = torch.stack(list(outputs(here / "runs/regression", texts, "tuned/regression")))
    assert len(f) == 4
    std = json.loads((here / "tuned/regression/config.json").read_text())["noise_std"]
    report = first_evaluation(here / "runs/regression")["splits"]["val"]
    assert report["noise_std"] == pytest.approx(std)
    assert (report["num_tokens"], report["num_draws"]) == (8, 4)
    nll = math.log(4) - Normal(f, std).log_prob(y).logsumexp(0)
    bma = report["predictors"]["bma"]
    assert bma["nll"] == pytest.approx(float(nll.mean()), rel=1e-5)
    error = f.mean(0) - y
    assert bma["rmse"] == pytest.approx(float(error.square().mean().sqrt()), rel=1e-5)
    assert bma["spearman"] == pytest.approx(stats.spearmanr(f.mean(0), y).statistic, abs=1e-6)
    assert bma["pearson"] == pytest.approx(stats.pearsonr(f.mean(0), y).statistic, rel=1e-3)
    assert report["variance"]["epistemic"] == pytest.approx(
        float(f.var(0, correction=0).mean()), rel=1e-3
    )
    assert report["variance"]["aleatoric"] == pytest.approx(std**2)
    assert report["variance"]["epistemic"] > 0
    path = min((here / "runs/regression").glob("bayesian_eval_*.safetensors"))
    rows = load_file(path)
    torch.testing.assert_close(rows["val.bma"], nll, rtol=1e-5, atol=1e-6)
    assert rows["val.tokens"].tolist() == [1] * 8


@pytest.mark.parametrize("task", ["regression", "sentence-similarity"])
def test_the_summary_tells_what_the_evaluation_found(task: str, here: Path) -> None:
    text = (here / "runs" / task / "sghmc_summary.txt").read_text()
    for words in ("RMSE", "Spearman", "bma", "8 labels, 4 draws, variance", "in 90 %"):
        assert words in text


def test_runs_side_by_side(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    runs = ["runs/regression", "runs/sentence-similarity"]
    assert run_command("evaluate", [*runs, "--eval-splits", "val", "train", "--device", "cpu"]) == 0
    shown = capsys.readouterr().out
    assert shown.count("temperature_scaled") == 2 * 2 * 2  # scores and intervals
    for words in ("RMSE at 50 %", "in 95 %", "72 labels, 4 draws", "bma's Spearman − it"):
        assert words in shown


@pytest.mark.parametrize(
    ("argv", "says"),
    [
        (["runs/regression", "runs/sentence-classification"], "evaluate them separately"),
        (["runs/regression", "--eval-num-text-samples", "2"], "is for language models"),
        (["runs/regression", "--ood-corpus", "python-docs"], "is for language models"),
        (["runs/sentence-similarity", "--text", "python-docs"], "is for language models"),
        (["runs/regression", "--eval-splits", "test"], "no such split (train, val)"),
    ],
)
def test_what_has_no_meaning_is_refused_in_one_line(
    argv: list[str], says: str, here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_command("evaluate", [*argv, "--device", "cpu"]) == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert line.startswith("error: ")
    assert says in line


@pytest.mark.parametrize("task", ["regression", "sentence-similarity", "sentence-classification"])
def test_no_text_is_continued(task: str, here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    capsys.readouterr()
    assert run_command("generate", [f"runs/{task}", "--prompt", "the"]) == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert line == f"error: 'runs/{task}': a {task} model cannot generate text"


# -- bayesgen similarity -------------------------------------------------------------------------

PAIR = ("--pair", "the a old near", "near the a small", "--device", "cpu")


def told(capsys: pytest.CaptureFixture[str], *argv: str) -> dict[str, Any]:
    capsys.readouterr()
    assert run_command("similarity", [*argv, *PAIR, "--json"]) == 0
    content: dict[str, Any] = json.loads(capsys.readouterr().out)
    return content


def test_a_similarity_is_the_score_under_every_draw(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from bayesgen.draws import Draws
    from bayesgen.models import load_model

    run, tuned = "runs/sentence-similarity", "tuned/sentence-similarity"
    content = told(capsys, run, "--pair", "the a", "the a", "--level", "0.5")
    model = load_model(tuned, task="sentence-similarity")
    tokenizer = model.tokenizer.tokenizer  # type: ignore[union-attr]
    both = tokenizer([PAIR[1], PAIR[2]], padding=True, return_tensors="pt")
    batch = {k: v[None] for k, v in both.items()}  # [1, 2, T]
    each = torch.tensor([float(model(theta, batch)) for theta in Draws.load(run)])
    same, pair = content["pairs"]
    assert content["unit"] == "score"
    assert content["num_draws"] == len(each) == 4
    assert pair["mean"] == pytest.approx(float(each.mean()), abs=1e-4)
    assert pair["sd"] == pytest.approx(float(each.std(correction=0)), abs=1e-4)
    assert pair["sd"] > 1e-3
    assert pair["deterministic"] == pytest.approx(float(model(model.theta, batch)), abs=1e-4)
    quartiles = torch.quantile(each, torch.tensor([0.25, 0.75])).tolist()
    assert pair["interval"] == pytest.approx(quartiles, abs=1e-4)
    std = model.likelihood.std  # type: ignore[attr-defined]
    assert content["noise_std"] == pytest.approx(std)
    below = [
        float(Normal(each.double(), std).cdf(torch.tensor(y)).mean()) for y in pair["predicted"]
    ]
    assert below == pytest.approx([0.25, 0.75], abs=1e-3)
    assert same["sd"] == pytest.approx(0, abs=1e-5)  # a text and itself
    assert [t["text"] for t in content["texts"]] == ["the a", PAIR[1], PAIR[2]]
    assert same["texts"] == [0, 0]


def test_embeddings_in_a_file(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (here / "pairs").mkdir()
    (here / "pairs/some.tsv").write_text("the a old\tnear\nnear\tby a small\n")
    flags = ["--pairs-file", "pairs/some.tsv", "--out", "out/e.safetensors", "--device", "cpu"]
    assert run_command("similarity", ["runs/sentence-classification", *flags]) == 0
    shown = capsys.readouterr().out
    for words in ("relative sd", "of dimension", "cosines of 4 draws", "gives no scores"):
        assert words in shown
    found = load_file(here / "out/e.safetensors")
    assert found["mean"].shape == found["sd"].shape == (3, 16)
    assert bool((found["sd"] > 0).all())
    with safe_open(here / "out/e.safetensors", framework="pt") as file:
        assert json.loads(file.metadata()["texts"]) == ["the a old", "near", "by a small"]


@pytest.mark.parametrize(
    ("model", "unit", "noise"),
    [
        ("encoder", "cosine", False),
        ("tuned/regression", "cosine", False),
        ("tuned/sentence-similarity", "score", True),
        ("tuned/sentence-classification", "cosine", False),
    ],
)
def test_a_model_alone_is_one_draw(
    model: str, unit: str, noise: bool, here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    content = told(capsys, model)
    (pair,) = content["pairs"]
    assert (content["num_draws"], content["unit"]) == (1, unit)
    assert pair["mean"] == pair["deterministic"]
    assert pair["sd"] == 0
    assert (pair["predicted"] is not None) == noise
    assert (content["no_predicted"] is None) == noise
    assert all(text["relative_sd"] == 0 for text in content["texts"])


def test_draws_of_the_head_alone_move_no_embedding(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    flags = ["--task", "sentence-classification", "--model", "tuned/sentence-classification",
             "--data", "rows.tsv", "--parameters", "head", "--out", "head",
             "--data-dir", str(here)]  # fmt: skip
    assert run_command("train", [*SAMPLER, *flags]) == 0
    capsys.readouterr()
    assert run_command("similarity", ["head", *PAIR]) == 0
    shown = capsys.readouterr()
    assert "no draw of 'head' moves the encoder" in shown.err


def test_long_texts_are_cut_and_counted(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    long = " ".join(["the"] * 50)
    argv = ["tuned/sentence-similarity", "--pair", long, "near", "--device", "cpu"]
    assert run_command("similarity", argv) == 0
    assert "1 of 2 texts were cut to 32 tokens" in capsys.readouterr().err


def test_texts_are_cut_where_the_fine_tune_cut_them(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    argv = ["--task", "sentence-similarity", "--data", "pairs.tsv", "--max-length", "5"]
    argv += ["--model", "encoder", "--out", "short", "--max-steps", "1", "--device", "cpu"]
    assert run_command("finetune", argv) == 0
    capsys.readouterr()
    said = []
    for second in ("the a old", "the a old near by"):
        pair = ["--pair", second, "small"]
        assert run_command("similarity", ["short", *pair, "--device", "cpu", "--json"]) == 0
        shown = capsys.readouterr()
        said.append(json.loads(shown.out)["pairs"][0]["deterministic"])
    assert "1 of 2 texts were cut to 5 tokens" in shown.err
    assert said[0] == said[1]


@pytest.mark.parametrize(
    ("task", "key", "value"),
    [("regression", "noise_std", 7.5), ("sentence-similarity", "score_range", [0.0, 9.0])],
)
def test_a_run_is_refused_with_another_density_of_its_labels(
    task: str, key: str, value: Any, here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(here / "tuned" / task, here / "other")
    file = here / "other" / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {key: value}))
    shutil.copytree(here / "runs" / task, here / "run")
    argv = [f"runs/{task}", "--model", "other", "--device", "cpu"]
    record = here / "run" / "run.json"
    content = json.loads(record.read_text())
    content["model"]["name"] = content["settings"]["model"] = "other"
    record.write_text(json.dumps(content))
    capsys.readouterr()
    for command, words in (("evaluate", argv), ("train", ["--resume", "run"])):
        assert run_command(command, words) == 2
        (line,) = capsys.readouterr().err.strip().splitlines()
        assert line.startswith(f"error: --model: {key} in the config.json of 'other' is {value}")


@pytest.mark.parametrize("task", ["regression", "sentence-classification"])
def test_a_head_that_nothing_trained_is_told(
    task: str, here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = "pairs.tsv"
    if task == "sentence-classification":
        data = "two.tsv"
        write_rows(here / data, 20, weights=(1, 1, 0))
    argv = ["--task", task, "--data", data, "--model"]
    assert run_command("train", [*SAMPLER, *argv, "encoder", "--out", "run"]) == 0
    shown = " ".join(capsys.readouterr().err.split())
    assert "warning: 'encoder' has no trained weights for classifier.bias, cl" in shown
    argv = ["--task", "regression", "--data", "pairs.tsv", "--parameters", "lora", "--out", "own"]
    assert run_command("train", [*SAMPLER, *argv, "--model", "tuned/regression"]) == 0
    assert "no trained weights" not in capsys.readouterr().err


@pytest.mark.parametrize(
    ("argv", "says"),
    [
        (["runs/sentence-similarity"], "--pair and --pairs-file: give one of them"),
        (["runs/sentence-similarity", *PAIR, "--pairs-file", "x"], "give one of them"),
        (["runs/sentence-similarity", "--pairs-file", "gone.tsv"], "--pairs-file: no file at"),
        (["runs/sentence-similarity", "--pair", "a", " "], "--pair: a text is empty"),
        (["runs/sentence-similarity", *PAIR, "--level", "1"], "--level 1: choose"),
        (["runs/sentence-similarity", *PAIR, "--level", "0"], "--level must be above 0"),
        (["runs/sentence-similarity", *PAIR, "--num-draws", "9"], "has only 4 draws"),
        (["runs/sentence-similarity", *PAIR, "--out", "pairs.tsv"], "already exists"),
        (["runs/regression", *PAIR], "is a run of regression; embeddings are made by"),
        (["gone", *PAIR], "'gone' is not there"),
        (["encoder", *PAIR, "--model", "tuned"], "--model goes with a run"),
    ],
)
def test_bad_input_is_one_line(
    argv: list[str], says: str, here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    capsys.readouterr()
    assert run_command("similarity", argv) == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert line.startswith("error: ")
    assert says in line
