"""Sentence models go through the same doors: fine-tuned, sampled, scored, and refused."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from bayesgen.cli.main import run_command
from bayesgen.likelihoods import Gaussian
from bayesgen.models import load_model
from tests.encoder import save_encoder, write_rows, write_scores

transformers = pytest.importorskip("transformers")
sentence = pytest.importorskip("bayesgen.models.sentence")

CLASSES, PAIRS = "sentence-classification", "sentence-similarity"
TUNE = {
    CLASSES: ("--data", "rows.tsv", "--head-hidden-size", "5", "--freeze", "encoder.*",
              "--learning-rate", "1e-2"),
    PAIRS: ("--data", "pairs.tsv", "--learning-rate", "1e-3"),
}  # fmt: skip
CHAIN = ("--sampler", "sghmc", "--batch-size", "8", "--warmup-steps", "4", "--sampling-steps", "8",
         "--thinning", "2", "--out", "run")  # fmt: skip


def tune(task: str, *flags: str) -> int:
    argv = ["--model", "encoder", "--task", task, "--device", "cpu", *TUNE[task]]
    return run_command("finetune", [*argv, "--max-steps", "6", *flags])


@pytest.fixture(scope="module")
def shelf(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with rows, scored pairs, an encoder and one fine-tune of each kind."""
    path = tmp_path_factory.mktemp("shelf")
    save_encoder(path / "encoder")
    write_rows(path / "rows.tsv", 60)
    write_scores(path / "pairs.tsv", 60)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HOME", str(path / "home"))
        patch.chdir(path)
        for task in TUNE:
            assert tune(task, "--out", task) == 0
    return path


@pytest.fixture
def here(shelf: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory that sees the shelf."""
    monkeypatch.setenv("HOME", str(shelf / "home"))
    for variable in ("BASE_DIR", "MODEL_PATH", "DATA_DIR", "DEVICE"):
        monkeypatch.delenv(variable, raising=False)
    for found in shelf.iterdir():
        (tmp_path / found.name).symlink_to(found)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def train(task: str, *flags: str) -> int:
    data = TUNE[task][:2]
    return run_command("train", [*CHAIN, "--task", task, "--model", task, *data, *flags])


def read(path: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads(path.read_text())
    return content


def draws(network: Any, run: Path) -> list[Any]:
    """`network` under each draw of `run`, as a list of functions that give its logits."""
    named = dict(network.named_parameters())
    layout = read(run / "run.json")["parameters"]

    def under(theta: torch.Tensor) -> Any:
        def logits(**inputs: torch.Tensor) -> torch.Tensor:
            for p in layout:
                size = math.prod(p["shape"])
                named[p["name"]].data.copy_(theta[p["offset"] :][:size].view(p["shape"]))
            with torch.no_grad():
                found: torch.Tensor = network(**inputs).logits.double()
            return found

        return logits

    return [under(load_file(p)["draws"][0]) for p in sorted((run / "draws").iterdir())]


def test_a_posterior_over_the_head_is_that_of_the_texts(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    kept = sorted((here / "home/.cache/bayesgen/sentence_embeddings").iterdir())
    assert len(kept) == 2  # of training and validation, by the fine-tune
    assert train(CLASSES, "--parameters", "head", "--eval") == 0
    assert sorted((here / "home/.cache/bayesgen/sentence_embeddings").iterdir()) == kept
    record = read(here / "run/run.json")
    assert record["num_bayesian"] == 16 * 5 + 5 + 5 * 3 + 3
    assert record["num_observations"] == 54

    from bayesgen.data.labelled import load_labelled

    val = load_labelled("rows.tsv", task=CLASSES).val
    network = sentence.SentenceModel.from_pretrained(CLASSES).eval()
    inputs = transformers.AutoTokenizer.from_pretrained(CLASSES)(
        list(val.first), padding=True, return_tensors="pt"
    )
    each = [logits(**inputs).log_softmax(-1) for logits in draws(network, here / "run")]
    mixture = torch.stack(each).logsumexp(0) - math.log(len(each))
    (path,) = (here / "run").glob("bayesian_eval_*[0-9].json")
    bma = read(path)["splits"]["val"]["predictors"]["bma"]
    nll = -float(mixture.gather(1, torch.as_tensor(val.labels)[:, None]).mean())
    assert bma["nll"] == pytest.approx(nll, abs=1e-5)
    assert run_command("evaluate", ["run", "--eval-splits", "train"]) == 0
    assert "embedding" not in capsys.readouterr().err


def test_the_whole_classifier_is_sampled_from_its_texts(here: Path) -> None:
    assert train(CLASSES, "--parameters", "all") == 0
    record = read(here / "run/run.json")
    assert record["num_bayesian"] == record["num_parameters"]


def test_transformers_has_no_class_for_its_posterior(
    here: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    assert train(CLASSES, "--parameters", "head") == 0
    capfd.readouterr()
    assert run_command("export", ["run", "--out", "posterior"]) == 2
    line = capfd.readouterr().err.strip().splitlines()[-1]
    assert f"'run' is a run of {CLASSES}" in line
    assert not (here / "posterior").exists()


@pytest.mark.parametrize("sampler", ["laplace", "vi"])
def test_methods_that_pass_over_the_embeddings(sampler: str, here: Path) -> None:
    argv = ["--sampler", sampler, "--task", CLASSES, "--model", CLASSES, "--data", "rows.tsv",
            "--out", "run", "--parameters", "head"]  # fmt: skip
    assert run_command("train", argv) == 0
    assert read(here / "run/run.json")["num_bayesian"] == 103


@pytest.mark.parametrize("task", [PAIRS, "regression"])
def test_real_valued_labels_are_sampled_with_their_noise(task: str, here: Path) -> None:
    if task == "regression":
        argv = ["--model", "encoder", "--task", task, "--data", "pairs.tsv", "--max-steps", "4"]
        assert run_command("finetune", [*argv, "--device", "cpu", "--out", task]) == 0
    record = read(here / task / "finetune.json")
    assert record["noise_std"] == pytest.approx(math.sqrt(record["best_val_loss"]))
    assert read(here / task / "config.json")["noise_std"] == record["noise_std"]
    model = load_model(here / task, task=task)
    assert model.likelihood == Gaussian(record["noise_std"])
    data = ["--data", "pairs.tsv"]
    assert run_command("train", [*CHAIN, "--task", task, "--model", task, *data]) == 0
    assert len(list((here / "run/draws").iterdir())) == 4
    lines = [json.loads(line) for line in (here / "run/metrics.jsonl").read_text().splitlines()]
    assert all(math.isfinite(line["nll"]) for line in lines)
    assert not torch.equal(load_file(here / "run/draws/c0-000003.safetensors")["draws"][0],
                           model.theta)  # fmt: skip


def test_the_record_of_a_similarity(here: Path) -> None:
    record = read(here / PAIRS / "finetune.json")
    assert {"spearman", "pearson"} < record["curve"][0].keys()
    lines = (here / "pairs.tsv").read_text().splitlines()[1:]
    scores = [float(line.split("\t")[2]) for line in lines]
    # the extremes of all rows are so common that the training rows have them
    assert read(here / PAIRS / "config.json")["score_range"] == [min(scores), max(scores)]
    assert "noise_std" not in read(here / CLASSES / "finetune.json")


@pytest.mark.parametrize(
    ("task", "flags", "says"),
    [
        (PAIRS, ["--data", "rows.tsv"], "is a label and no score; take --task"),
        (PAIRS, ["--data", "singles.tsv"], "single texts"),
        (PAIRS, ["--data", "same.tsv"], "scores are 3"),
        (PAIRS, ["--head-hidden-size", "5"], "--head-hidden-size needs --task sentence-class"),
        (PAIRS, ["--head-dropout", "0"], "--head-dropout needs --task sentence-classification"),
        (PAIRS, ["--class-weights", "balanced"], "--class-weights needs --task"),
        (PAIRS, ["--label-smoothing-factor", "0.1"], "--label-smoothing-factor needs --task"),
        (PAIRS, ["--freeze", "*"], "--freeze leaves no parameter"),
        (PAIRS, ["--model", CLASSES], "which is made for sentence-classification"),
        (CLASSES, ["--model", PAIRS], "which is made for sentence-similarity"),
        (CLASSES, ["--model", CLASSES, "--head-hidden-size", "4"], "has a head already"),
        (CLASSES, ["--head-hidden-size", "-1"], "--head-hidden-size must be at least 0"),
        (CLASSES, ["--head-dropout", "1.5"], "--head-dropout must be at most 1"),
        (CLASSES, ["--head-hidden-size", "0", "--head-activation", "relu"], "--head-activation"),
        (CLASSES, ["--gradient-checkpointing"], "--gradient-checkpointing has no effect"),
        (CLASSES, ["--task", "sequence-classification"], "--head-hidden-size needs --task"),
        (CLASSES, ["--data", "pairs.tsv", "--label-column", "half"], "is a score and no label"),
    ],
)
def test_bad_fine_tunes_are_one_line(
    task: str, flags: list[str], says: str, here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lines = (here / "pairs.tsv").read_text().splitlines()
    fields = [line.split("\t") for line in lines[1:]]
    (here / "singles.tsv").write_text(
        "\n".join(["text\tscore", *(f"{a}\t{s}" for a, _, s in fields)])
    )
    (here / "same.tsv").write_text("\n".join([lines[0], *(f"{a}\t{b}\t3" for a, b, _ in fields)]))
    if "half" in flags:
        (here / "pairs.tsv").unlink()
        rows = ["sentence1\tsentence2\thalf", *(f"{a}\t{b}\t1.5" for a, b, _ in fields)]
        (here / "pairs.tsv").write_text("\n".join(rows))
    capsys.readouterr()
    assert tune(task, "--out", "new", *flags) == 2
    shown = capsys.readouterr().err
    (line,) = [row for row in shown.splitlines() if row.startswith("error: ")]
    assert says in line
    assert "Traceback" not in shown
    assert not (here / "new").exists()


@pytest.mark.parametrize(
    ("task", "flags", "says"),
    [
        (CLASSES, ["--model", PAIRS], "which is made for sentence-similarity"),
        (CLASSES, ["--task", "sequence-classification"], "made for sentence-classification"),
        (PAIRS, ["--model", "encoder"], "does not know the range of the scores"),
        (PAIRS, ["--parameters", "head"], "the model has no head"),
        (PAIRS, ["--data", "rows.tsv"], "is a label and no score"),
        (PAIRS, ["--task", "regression"], "which is made for sentence-similarity"),
        (CLASSES, ["--corpus", "python-docs"], "--corpus has no effect on sentence-class"),
        (PAIRS, ["--block-size", "64"], "exceeds the model's longest context, 32"),
    ],
)
def test_bad_runs_are_one_line(
    task: str, flags: list[str], says: str, here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert train(task, *flags) == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert line.startswith("error: ")
    assert says in line
    assert not (here / "run").exists()
