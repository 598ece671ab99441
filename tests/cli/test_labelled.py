"""A classifier of texts goes through the same doors: fine-tuned, sampled, scored, continued."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from bayesgen.cli.main import run_command
from bayesgen.cli.train import COMMAND as TRAIN
from bayesgen.inference.registry import SAMPLERS
from bayesgen.inference.sgld import SGLDSettings
from tests.encoder import CLASSES, save_encoder, write_rows

transformers = pytest.importorskip("transformers")

CHAIN = ("--sampler", "sghmc", "--task", "sequence-classification", "--model", "tuned",
         "--data", "rows.tsv", "--batch-size", "8", "--warmup-steps", "4", "--sampling-steps", "8",
         "--thinning", "2", "--out", "run")  # fmt: skip


@pytest.fixture(scope="module")
def shelf(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with rows, and an encoder that was fine-tuned on them for a moment."""
    path = tmp_path_factory.mktemp("shelf")
    save_encoder(path / "encoder")
    write_rows(path / "rows.tsv", 80)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(path)
        argv = ["--model", "encoder", "--data", "rows.tsv", "--out", "tuned", "--max-steps", "4"]
        assert run_command("finetune", argv) == 0
    return path


@pytest.fixture
def here(shelf: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory that sees the shelf."""
    for found in shelf.iterdir():
        (tmp_path / found.name).symlink_to(found)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def train(*flags: str) -> int:
    return run_command("train", [*CHAIN, *flags])


def evaluation(run: Path) -> dict[str, Any]:
    (path,) = run.glob("bayesian_eval_*[0-9].json")
    content: dict[str, Any] = json.loads(path.read_text())
    return content


def validation_rows() -> tuple[list[str], torch.Tensor]:
    """Texts and class ids that the run holds back, found by what it does not train on."""
    from bayesgen.data.labelled import load_labelled

    val = load_labelled("rows.tsv", task="sequence-classification").val
    return list(val.first), torch.as_tensor(val.labels)


def test_the_mixture_is_that_of_plain_transformers(here: Path) -> None:
    assert train("--eval", "--eval-splits", "val", "train") == 0
    record = json.loads((here / "run" / "run.json").read_text())
    assert record["num_observations"] == 72
    assert record["data"]["classes"] == sorted(CLASSES)
    content = evaluation(here / "run")
    report = content["splits"]["val"]
    assert report["num_tokens"] == report["num_windows"] == 8
    assert content["splits"]["train"]["num_tokens"] == 72

    texts, labels = validation_rows()
    network = transformers.AutoModelForSequenceClassification.from_pretrained("tuned").eval()
    tokenizer = transformers.AutoTokenizer.from_pretrained("tuned")
    inputs = tokenizer(texts, padding=True, return_tensors="pt")
    parameters = dict(network.named_parameters())
    each = []
    for path in sorted((here / "run" / "draws").glob("*.safetensors")):
        (theta,) = load_file(path)["draws"]
        for p in record["parameters"]:
            size = math.prod(p["shape"])
            value = theta[p["offset"] : p["offset"] + size].view(p["shape"])
            parameters[p["name"]].data.copy_(value)
        with torch.no_grad():
            each.append(network(**inputs).logits.double().log_softmax(-1))
    assert len(each) == 4
    mixture = torch.stack(each).logsumexp(0) - math.log(4)
    bma = report["predictors"]["bma"]
    assert bma["nll"] == pytest.approx(-float(mixture.gather(1, labels[:, None]).mean()), abs=1e-5)
    assert bma["accuracy"] == float((mixture.argmax(1) == labels).double().mean())
    f1 = []
    for c in range(3):
        guessed, true = mixture.argmax(1) == c, labels == c
        both = float((guessed & true).sum())
        f1.append(2 * both / max(float(guessed.sum() + true.sum()), 1))
    assert report["macro_f1"]["bma"] == pytest.approx(sum(f1) / 3)
    assert set(report["macro_f1"]) == set(report["predictors"]) - {"mean_of_draws"}
    entropy = -(mixture.exp() * mixture).sum(1).mean()
    assert report["entropy"]["total"] == pytest.approx(float(entropy), abs=1e-5)
    assert report["entropy"]["epistemic"] > 0


def test_classes_of_other_names_are_told(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    capsys.readouterr()
    assert train() == 0
    assert "classes of" not in capsys.readouterr().err
    other = (here / "rows.tsv").read_text().replace("\tplants", "\tzebras")
    (here / "other.tsv").write_text(other)
    assert train("--data", "other.tsv", "--out", "other") == 0
    shown = capsys.readouterr().err
    assert "classes of 'tuned' are animals, plants, stones, those of the data animals, s" in shown


def test_the_temperature_is_fitted_on_validation_rows(here: Path) -> None:
    folder = here / "split"
    folder.mkdir()
    for name, count in (("train", 40), ("val", 24), ("test", 16)):
        write_rows(folder / f"{name}.tsv", count, seed=len(name))
    assert train("--data", "split", "--eval", "--eval-splits", "test") == 0
    fitted = evaluation(here / "run")["splits"]["test"]["fitted_temperature"]

    network = transformers.AutoModelForSequenceClassification.from_pretrained("tuned").eval()
    tokenizer = transformers.AutoTokenizer.from_pretrained("tuned")
    lines = (folder / "val.tsv").read_text().splitlines()[1:]
    texts, names = zip(*(line.split("\t") for line in lines), strict=True)
    labels = torch.tensor([sorted(CLASSES).index(name) for name in names])
    with torch.no_grad():
        logits = network(**tokenizer(list(texts), padding=True, return_tensors="pt")).logits

    def nll(tau: float) -> float:
        return float(torch.nn.functional.cross_entropy(logits.double() / tau, labels))

    least = min(map(nll, torch.linspace(-3, 3, 6001).exp().tolist()))
    assert nll(fitted) == pytest.approx(least, abs=1e-5)


def test_a_quick_look_fits_it_on_few_rows(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from bayesgen.evaluation import classes
    from bayesgen.workflow import scoring

    monkeypatch.setattr(scoring, "HELD_IN", 5)
    fitted, fit = [], classes.fit_temperature

    def counted(forward: Any, rows: Any, batch_size: int) -> float:
        fitted.append(len(rows))
        return fit(forward, rows, batch_size)

    monkeypatch.setattr(classes, "fit_temperature", counted)
    folder = here / "split"
    folder.mkdir()
    for name, count in (("train", 40), ("val", 24), ("test", 16)):
        write_rows(folder / f"{name}.tsv", count, seed=len(name))
    assert train("--data", "split") == 0
    for most in ("2", "7", "16"):
        flags = ["run", "--eval-splits", "test", "--eval-max-samples", most]
        assert run_command("evaluate", flags) == 0
    assert run_command("evaluate", ["run", "--eval-splits", "test"]) == 0
    assert fitted == [5, 7, 16, 24]
    # rows that are scored themselves: each half has the temperature of the other
    assert run_command("evaluate", ["run", "--eval-splits", "val", "--eval-max-samples", "7"]) == 0
    assert fitted[4:] == [3, 4]


def test_texts_are_cut_where_the_fine_tune_cut_them(here: Path) -> None:
    argv = ["--model", "encoder", "--data", "rows.tsv", "--out", "short", "--max-steps", "1"]
    assert run_command("finetune", [*argv, "--max-length", "7"]) == 0
    assert train("--model", "short") == 0
    record = json.loads((here / "run" / "run.json").read_text())
    assert record["block_size"] == 7
    assert "cut to 7 tokens" in record["data"]["rows"]


def test_labelled_data_have_defaults_and_presets_of_their_own(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    own = SAMPLERS["sgld"].defaults("sequence-classification")
    (here / "config.py").write_text(
        "CONFIG_SGLD = {'learning_rate': 7.0}\nCONFIG_SGLD_LABELLED = {'temperature': 0.7}\n"
    )
    argv = ["--sampler", "sgld", *CHAIN[2:8], "--warmup-steps", "2", "--sampling-steps", "40"]
    assert run_command("train", [*argv, "--out", "run"]) == 0
    record = json.loads((here / "run" / "run.json").read_text())
    # neither the language models' defaults nor their preset
    for key in ("learning_rate", "batch_size", "thinning", "parameters"):
        assert record["settings"][key] == own[key] != getattr(SGLDSettings(), key)
        assert key not in record["sources"]
    assert record["settings"]["temperature"] == 0.7
    assert record["sources"]["temperature"] == "config.py CONFIG_SGLD_LABELLED"
    capsys.readouterr()
    with pytest.raises(SystemExit):
        run_command("train", ["--sampler", "sgld", "--task", "sequence-classification", "--help"])
    assert f"(default: {own['learning_rate']})" in capsys.readouterr().out
    with pytest.raises(SystemExit):
        run_command("train", ["--sampler", "sgld", "--help"])
    shown = capsys.readouterr().out
    assert f"(default: {SGLDSettings().learning_rate})" in shown


@pytest.mark.parametrize("task", ["sequence-classification", "regression"])
@pytest.mark.parametrize("prior", ["swag", "laplace"])
def test_under_a_learned_prior_a_chain_is_cooler_and_goes_further(
    here: Path, task: str, prior: str
) -> None:
    argv = ["--sampler", "sgld", "--task", task]
    tuned = TRAIN.understand(argv).settings
    argv += ["--prior-path", "prior.safetensors"]
    by_flag = TRAIN.understand([*argv, "--prior", prior])
    Path("config.py").write_text(f"CONFIG_SGLD_LABELLED = {{'prior': '{prior}'}}\n")
    by_config = TRAIN.understand(argv)
    assert by_flag.settings == by_config.settings
    assert set(by_flag.sources) == set(by_config.sources) == {"task", "prior", "prior_path"}
    settings = by_flag.settings
    assert isinstance(settings, SGLDSettings)
    assert isinstance(tuned, SGLDSettings)
    classes = task == "sequence-classification"
    assert settings.temperature == 0.01
    assert (settings.temperature < tuned.temperature) == classes
    assert settings.learning_rate == pytest.approx(tuned.learning_rate * (2 if classes else 1))


@pytest.mark.parametrize("sampler", ["map", "swag"])
def test_an_optimizer_on_labelled_data_has_an_encoders_step_size(sampler: str, here: Path) -> None:
    text = TRAIN.understand(["--sampler", sampler]).settings
    rows = TRAIN.understand(["--sampler", sampler, "--task", "sequence-classification"]).settings
    assert rows.learning_rate < text.learning_rate
    assert (rows.prior, rows.parameters) == ("pretrained", "layers=-2:,head")
    argv = ["--sampler", sampler, "--task", "sequence-classification", "--model", "tuned"]
    argv += ["--data", "rows.tsv", "--parameters", "head", "--out", "run"]
    assert run_command("train", argv) == 0
    steps = 27 if sampler == "map" else 240  # three passes over 72 rows, eight at a time
    record = json.loads((here / "run" / f"{sampler}_metrics.json").read_text())
    assert record["steps"] == steps


def test_from_a_mode_a_chain_has_the_presets_of_a_fine_tune(here: Path) -> None:
    argv = ["--sampler", "sgld", "--task", "sequence-classification", "--prior", "swag"]
    argv += ["--prior-path", "prior.safetensors"]
    new = TRAIN.understand(argv).settings
    tuned = TRAIN.understand([*argv, "--init-from", "mode"]).settings
    own = SAMPLERS["sgld"].defaults("sequence-classification")
    for key in ("learning_rate", "temperature"):
        assert getattr(tuned, key) == own[key] != getattr(new, key)


def test_a_head_that_is_new_has_the_classes_of_the_data(here: Path) -> None:
    assert train("--model", "encoder") == 0
    record = json.loads((here / "run" / "run.json").read_text())
    (head,) = [p for p in record["parameters"] if p["name"] == "classifier.weight"]
    assert head["shape"] == [len(CLASSES), 16]
    # the run is opened again with that many
    assert run_command("evaluate", ["run", "--eval-splits", "val"]) == 0
    assert train("--model", "encoder", "--resume", "run") == 0


def test_it_is_continued_and_scored_again(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert train("--eval") == 0
    first = evaluation(here / "run")
    assert train("--resume", "run") == 0
    assert run_command("evaluate", ["run", "--eval-splits", "train"]) == 0
    newest = sorted((here / "run").glob("bayesian_eval_*[0-9].json"))[-1]
    assert set(json.loads(newest.read_text())["splits"]) == {"train"}
    assert first["corpus"]["name"] == "rows.tsv"
    assert "rows.tsv, train: 72 labels" in capsys.readouterr().out


@pytest.mark.parametrize("sampler", ["laplace", "ekf", "vi", "map"])
def test_methods_that_pass_over_the_data(sampler: str, here: Path) -> None:
    argv = ["--sampler", sampler, "--task", "sequence-classification", "--model", "tuned", "--data",
            "rows.tsv", "--out", "run", "--parameters", "head", "--eval"]  # fmt: skip
    assert run_command("train", argv) == 0
    record = json.loads((here / "run" / "run.json").read_text())
    assert record["num_bayesian"] == 3 * 16 + 3
    assert evaluation(here / "run")["splits"]["val"]["predictors"]["bma"]["nll"] > 0


def test_train_samples_are_counted_and_nested(here: Path) -> None:
    assert train("--train-samples", "10") == 0
    assert json.loads((here / "run" / "run.json").read_text())["num_observations"] == 10


@pytest.mark.parametrize(
    ("flags", "says"),
    [
        (["--eval", "--eval-splits", "test"], "no such split (train, val)"),
        (["--eval", "--eval-num-text-samples", "2"], "is for language models"),
        (["--eval", "--ood-corpus", "python-docs"], "is for language models"),
        (["--data", "four.tsv"], "4 classes, but the model has 3"),
        (["--data", "gone.tsv"], "--data gone.tsv"),
        (["--data", "one.tsv"], "one class"),
        (["--train-samples", "1000"], "has 72 examples"),
        (["--block-size", "64"], "exceeds the model's longest context, 32"),
        (["--text-column", "words"], "words"),
        (["--corpus", "python-docs"], "--corpus has no effect"),
    ],
)
def test_bad_input_is_one_line(
    flags: list[str], says: str, here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = (here / "rows.tsv").read_text().splitlines()
    (here / "four.tsv").write_text("\n".join([*rows, *["a b\tfourth"] * 40]))
    (here / "one.tsv").write_text("\n".join(["text\tlabel", *["a b\tsame"] * 20]))
    capsys.readouterr()
    assert train(*flags) == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert line.startswith("error: ")
    assert says in line
    assert not (here / "run").exists()


def test_labelled_data_are_needed(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    argv = ["--sampler", "sgld", "--task", "sequence-classification", "--model", "tuned"]
    assert run_command("train", argv) == 2
    assert "--data: a sequence-classification needs labelled data" in capsys.readouterr().err


def test_a_run_that_is_not_finished_is_scored_with_a_warning(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert train() == 0
    (here / "run" / "sghmc_metrics.json").unlink()
    capsys.readouterr()
    assert run_command("evaluate", ["run"]) == 0
    assert "warning: the run 'run' is not finished" in capsys.readouterr().err
