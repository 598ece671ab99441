"""From pretraining to a task: a prior is learned by one command and used by the next."""

from __future__ import annotations

import json
import math
import shutil
import signal
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from bayesgen.cli.main import run_command
from bayesgen.cli.prior import LEARN
from bayesgen.data.corpora import load_corpus
from bayesgen.data.windows import Windows
from bayesgen.evaluation.walk import nll_of
from bayesgen.models import load_model
from bayesgen.predictive import Forward
from bayesgen.priors import Weights, read_prior, write_prior
from bayesgen.workflow.job import Job
from tests.workspace import Workspace

Capture = pytest.CaptureFixture[str]
UPSTREAM = (
    "--model", "model.pt", "--corpus", "corpus.txt", "--out", "upstream", "--batch-size", "4",
    "--warmup-steps", "4", "--sampling-steps", "24", "--thinning", "2", "--rank", "5",
    "--validation-every", "7", "--learning-rate", "1e-2",
)  # fmt: skip


def learn(*flags: str) -> int:
    return run_command("prior learn", [*UPSTREAM, *flags])


def rows(run: str) -> list[dict[str, Any]]:
    lines = Path(run, "metrics.jsonl").read_text().splitlines()
    return [json.loads(line) for line in lines]


def test_the_file_holds_the_path_of_the_optimizer(workspace: Workspace) -> None:
    # every step is collected: mean and variance can be had from the run's saved states alone
    assert learn("--warmup-steps", "0", "--sampling-steps", "6", "--thinning", "1", "--rank", "6",
                 "--checkpoint-every", "1") == 0  # fmt: skip
    prior = read_prior(Path("upstream/prior.safetensors"))
    model = load_model("model.pt")
    assert prior.layout == model.layout
    assert prior.rank == 6
    torch.testing.assert_close(
        prior.deviations.sum(0), torch.zeros(model.layout.size), atol=1e-5, rtol=0
    )
    # Q Qᵀ of all collected weights has the diagonal v
    torch.testing.assert_close(
        prior.deviations.square().sum(0), prior.variance, rtol=1e-4, atol=1e-12
    )
    upstream = prior.record["upstream"]
    assert upstream["collected"] == 6
    settings = upstream["settings"]
    assert settings["optimizer"] == "adamw"
    assert settings["thinning"] == 1
    assert settings["parameters"] == "all"
    # what has no effect is no fact about the prior
    assert not {"momentum", "temperature", "head_prior_std", "out", "eval"} & set(settings)
    assert prior.record["model"]["sha256"] == model.info.sha256


def test_validation_is_watched_and_the_best_weights_are_a_model(workspace: Workspace) -> None:
    assert learn() == 0
    seen = {row["step"]: row["val_nll"] for row in rows("upstream") if "val_nll" in row}
    assert list(seen) == [0, 7, 14, 21, 28]
    assert min(seen.values()) < 0.9 * seen[0]  # it learns
    best = load_model("upstream/best.pt")
    corpus = load_corpus("corpus.txt", tokenizer=best.tokenizer)
    windows = Windows.tiled(corpus.val, 8)
    nll, _ = nll_of(Forward(best), best.theta[None], windows)
    assert nll == pytest.approx(min(seen.values()), rel=1e-6)
    mean = load_file("upstream/prior.safetensors")["mean"]
    assert torch.equal(load_model("upstream/mean.pt").theta, mean)
    first = load_model("model.pt")
    nll, _ = nll_of(Forward(first), first.theta[None], windows)
    assert nll == pytest.approx(seen[0], rel=1e-6)


def test_a_stopped_one_goes_on_to_the_same_file(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert learn() == 0
    whole, lines = load_file("upstream/prior.safetensors"), rows("upstream")
    from bayesgen.workflow.loop import Watch

    look = Watch.look

    def stop(self: Watch, *args: Any) -> None:
        look(self, *args)
        if args[1] == 14:
            signal.raise_signal(signal.SIGTERM)

    with monkeypatch.context() as patch:
        patch.setattr(Watch, "look", stop)
        assert learn("--out", "stopped") == 128 + signal.SIGTERM
    assert not Path("stopped/prior.safetensors").exists()
    assert run_command("prior learn", ["--resume", "stopped"]) == 0
    again = load_file("stopped/prior.safetensors")
    assert all(torch.equal(whole[key], again[key]) for key in whole)
    drop = {"seconds"}
    assert [{k: v for k, v in r.items() if k not in drop} for r in rows("stopped")] == [
        {k: v for k, v in r.items() if k not in drop} for r in lines
    ]
    assert torch.equal(load_model("stopped/best.pt").theta, load_model("upstream/best.pt").theta)


def test_the_prior_goes_to_a_task_with_nothing_in_between(workspace: Workspace) -> None:
    assert learn() == 0
    flags = ("--prior", "swag", "--prior-path", "upstream", "--prior-scale", "auto",
             "--prior-scale-steps", "6", "--train-samples", "4", "--eval")  # fmt: skip
    assert workspace.train("sghmc", *flags) == 0
    record = json.loads(Path("run/run.json").read_text())
    curve = json.loads(Path("run/prior_scale.json").read_text())
    trials = curve["curve"]
    assert curve["chosen"] == min(trials, key=lambda t: t["nll"] or math.inf)["scale"]
    assert len({t["nll"] for t in trials}) == len(trials)  # λ matters
    assert f"λ = {curve['chosen']:g}" in record["prior"]["density"]
    totals = json.loads(Path("run/sghmc_metrics.json").read_text())
    # 12 steps and 6 for each λ, and 30 batches before either
    assert totals["gradient_evaluations"] == 12 + 30 + 6 * len(trials) + 30
    # a resumed run keeps its λ, and a finished one gives the same again
    assert workspace.train("sghmc", *flags[:-1], "--resume", "run") == 0


def test_presets_of_labelled_data_are_not_for_learning_a_prior() -> None:
    own = LEARN.understand(["--task", "sequence-classification", "--data", "rows.tsv"]).settings
    text = LEARN.understand([]).settings
    assert (own.parameters, own.learning_rate) == (text.parameters, text.learning_rate)


def test_trials_survive_a_stop(workspace: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    """Given again, the command goes on with the λ that it had not tried; another makes its own."""
    from bayesgen.workflow import prior_scale

    flags = ("--prior", "normal", "--prior-scale", "auto", "--prior-scale-steps", "6")
    assert workspace.train("sghmc", *flags, "--seed", "9", "--out", "whole") == 0
    expected = json.loads(Path("whole/prior_scale.json").read_text())
    short_run = prior_scale.short_run
    tried: list[Job] = []

    def stopped(job: Job) -> torch.Tensor:
        if len(tried) == 3:
            raise KeyboardInterrupt
        return counted(job)

    def counted(job: Job) -> torch.Tensor:
        tried.append(job)
        return short_run(job)

    for seed, known in (("9", 3), ("0", 0)):  # what was found with seed 9 is of no use to seed 0
        tried.clear()
        monkeypatch.setattr(prior_scale, "short_run", stopped)
        assert workspace.train("sghmc", *flags, "--seed", "9") == 128 + signal.SIGINT
        assert Path("run/prior_scale_trials.json").exists()
        assert not Path("run/run.json").exists()
        tried.clear()
        monkeypatch.setattr(prior_scale, "short_run", counted)
        assert workspace.train("sghmc", *flags, "--seed", seed) == 0
        found = json.loads(Path("run/prior_scale.json").read_text())
        assert len(tried) == len(found["curve"]) - known
        assert (found == expected) is (seed == "9")
        assert not Path("run/prior_scale_trials.json").exists()
        shutil.rmtree("run")


@pytest.mark.parametrize("content", ["", "[]", '{"of": 1, "trials": 2}'])
def test_damaged_trials_are_made_again(
    content: str, workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    from bayesgen.workflow import prior_scale

    Path("run").mkdir()
    Path("run/prior_scale_trials.json").write_text(content)
    flags = ("--prior", "normal", "--prior-scale", "auto", "--prior-scale-steps", "6")
    assert workspace.train("sghmc", *flags) == 0
    for trials in ([5], [{"scale": "x", "steps": 1}], [{"scale": 1.0, "steps": None}], [{}], 7):
        of: dict[str, Any] = {"a": 1}
        Path("run/prior_scale_trials.json").write_text(json.dumps({"of": of, "trials": trials}))
        assert prior_scale.Trials.read("run", of).found == {}


def test_trials_are_there_until_the_run_is(workspace: Workspace, capsys: Capture) -> None:
    """What was refused after them does not cost them."""
    flags = ("--prior", "normal", "--prior-scale", "auto", "--prior-scale-steps", "6", "--eval",
             "--eval-num-posterior-samples")  # fmt: skip
    assert workspace.train("sghmc", *flags, "9999") == 2
    assert len(json.loads(Path("run/prior_scale_trials.json").read_text())["trials"]) >= 7
    assert workspace.train("sghmc", *flags, "1") == 0
    assert not Path("run/prior_scale_trials.json").exists()


def test_a_folder_that_cannot_be_made_is_told_before_the_trials(
    workspace: Workspace, capsys: Capture
) -> None:
    Path("file").touch()
    flags = ("--prior", "normal", "--prior-scale", "auto", "--out", "file/run")
    assert workspace.train("sghmc", *flags) == 2
    said = capsys.readouterr().err
    assert "--out: cannot write to 'file/run'" in said
    assert "λ" not in said


def test_each_scale_is_tried_as_it_will_run(workspace: Workspace) -> None:
    """The short run at the chosen λ is the run itself, where it is as long."""
    assert learn() == 0
    swag = ("--prior", "swag", "--prior-path", "upstream", "--log-every", "1")
    auto = ("--prior-scale", "auto", "--prior-scale-steps", "12")
    assert workspace.train("sghmc", *swag, *auto) == 0
    curve = json.loads(Path("run/prior_scale.json").read_text())
    scale = str(curve["chosen"])
    flags = ("--prior-scale", scale, "--eval", "--eval-splits", "val", "--out", "plain")
    assert workspace.train("sghmc", *swag, *flags) == 0
    bma = workspace.json("plain/bayesian_eval_*.json")["splits"]["val"]["predictors"]["bma"]
    (trial,) = [t for t in curve["curve"] if t["scale"] == curve["chosen"]]
    assert trial["nll"] == pytest.approx(bma["nll"], rel=1e-6)


def test_what_cannot_work_is_refused_before_the_short_runs(
    workspace: Workspace, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert workspace.train("sghmc") == 0
    monkeypatch.setattr("bayesgen.workflow.session.choose_scale", None)
    capsys.readouterr()
    assert workspace.train("sghmc", "--prior", "pretrained", "--prior-scale", "auto") == 2
    assert "already holds a run" in capsys.readouterr().err.splitlines()[-1]


def test_rows_that_chose_are_not_for_a_report(
    workspace: Workspace, capsys: pytest.CaptureFixture[str]
) -> None:
    flags = ("--prior", "pretrained", "--prior-scale", "auto", "--prior-scale-steps", "2")
    assert workspace.train("sghmc", *flags, "--eval") == 0
    assert "the validation rows chose λ, too" in capsys.readouterr().err
    assert workspace.train("sghmc", *flags, "--eval", "--eval-splits", "train", "--out", "b") == 0
    assert "the validation rows chose λ, too" not in capsys.readouterr().err


def test_a_run_goes_on_under_its_own_prior_only(
    workspace: Workspace, capsys: pytest.CaptureFixture[str]
) -> None:
    assert learn() == 0
    assert workspace.train("sghmc", "--prior", "swag", "--prior-path", "upstream") == 0
    again = ("--prior", "swag", "--prior-path", "upstream", "--resume", "run")
    assert workspace.train("sghmc", *again) == 0
    prior = read_prior(Path("upstream"))
    write_prior(replace(prior, variance=2 * prior.variance), Path("upstream/prior.safetensors"))
    capsys.readouterr()
    assert workspace.train("sghmc", *again) == 2
    assert "is not the prior that the run started with" in capsys.readouterr().err


def test_a_model_that_was_trained_apart_is_refused(
    workspace: Workspace, capsys: pytest.CaptureFixture[str]
) -> None:
    assert learn() == 0
    prior = read_prior(Path("upstream"))
    noise = torch.randn(len(prior.mean), generator=torch.Generator().manual_seed(0))
    other = prior.mean.norm() * noise / noise.norm()
    write_prior(replace(prior, mean=other), Path("other.safetensors"))
    flags = ("--prior", "swag", "--prior-path", "other.safetensors")
    assert workspace.train("sghmc", *flags) == 2
    line = capsys.readouterr().err.strip().splitlines()[-1]
    assert "the prior is of another model: its mean lies" in line


def test_a_chain_under_the_prior_has_the_density_of_the_file(workspace: Workspace) -> None:
    """The log prior that a run logs, from the file and torch.distributions alone."""
    assert learn() == 0
    flags = ("--prior", "swag", "--prior-path", "upstream/prior.safetensors",
             "--prior-scale", "30", "--prior-epsilon", "1e-4", "--learning-rate", "0",
             "--log-every", "12")  # fmt: skip
    assert workspace.train("sgld", *flags) == 0
    file = load_file("upstream/prior.safetensors")
    theta = load_model("model.pt").theta
    dense = torch.distributions.LowRankMultivariateNormal(
        file["mean"].double(),
        (15.0**0.5 * file["deviations"].double()).T,
        15.0 * file["variance"].double() + 1e-4,
    )
    (row,) = rows("run")
    n = json.loads(Path("run/run.json").read_text())["num_observations"]
    assert row["log_prior"] == pytest.approx(float(dense.log_prob(theta.double())) / n, rel=1e-4)


@pytest.mark.parametrize(
    ("flags", "says"),
    [
        (["--rank", "13"], "--rank 13: only 12 models would be collected"),
        (["--sampler", "sghmc"], "this is always swag"),
        (["--validation-every", "0", "--validation-samples", "5"], "needs --validation-every"),
        (["--optimizer", "adamw", "--momentum", "0.5"], "needs --optimizer sgd"),
    ],
)
def test_bad_input_is_one_line(
    workspace: Workspace, capfd: pytest.CaptureFixture[str], flags: list[str], says: str
) -> None:
    assert learn(*flags) == 2
    (line,) = capfd.readouterr().err.strip().splitlines()
    assert line.startswith("error: ")
    assert says in line
    assert not Path("upstream").exists()


NORMAL = ("--prior", "normal", "--prior-std", "0.2")


@pytest.fixture
def laplace(workspace: Workspace) -> Path:
    """A run of Laplace on the first corpus, under the prior N(0, 0.2²)."""
    assert workspace.train("laplace", *NORMAL) == 0
    return Path("run").rename("first")


def precision(run: Path) -> torch.Tensor:
    """Of the Gaussian that a run led to."""
    return load_file(run / "gaussian-c0.safetensors")["sd"].double().pow(-2)


def test_the_posterior_of_laplace_is_the_prior_of_the_next(
    workspace: Workspace, laplace: Path
) -> None:
    """Σ⁻¹ after both texts is the sum of what each of them adds."""
    assert workspace.train("laplace", "--train-samples", "5", *NORMAL) == 0
    alone = precision(Path("run").rename("alone"))
    prior = ("--prior", "laplace", "--prior-path", str(laplace), "--prior-epsilon", "1e-12")
    assert workspace.train("laplace", "--train-samples", "5", *prior) == 0
    both = precision(Path("run"))
    assert not torch.allclose(both, alone, rtol=1e-2)
    torch.testing.assert_close(both, alone - 0.2**-2 + precision(laplace), rtol=1e-4, atol=0)
    file = read_prior(laplace)
    assert file.rank == 0
    assert file.record["upstream"]["settings"]["prior_std"] == 0.2


def test_a_chain_moves_under_a_prior_of_laplace(workspace: Workspace, laplace: Path) -> None:
    flags = ("--prior", "laplace", "--prior-path", str(laplace), "--prior-scale", "auto",
             "--prior-scale-steps", "6", "--learning-rate", "0", "--log-every", "12")  # fmt: skip
    assert workspace.train("sgld", *flags) == 0
    theta = load_model("model.pt").theta.double()
    record = json.loads(Path("run/run.json").read_text())
    scale = json.loads(Path("run/prior_scale.json").read_text())["chosen"]
    sd = (scale / precision(laplace) + 1e-6).sqrt()
    expected = torch.distributions.Normal(theta, sd).log_prob(theta).sum()
    (row,) = rows("run")
    assert row["log_prior"] == pytest.approx(float(expected) / record["num_observations"], rel=1e-4)


def test_a_prior_is_called_by_how_it_was_learned(
    workspace: Workspace, laplace: Path, capsys: Capture
) -> None:
    assert workspace.train("sgld", "--prior", "swag", "--prior-path", str(laplace)) == 2
    assert "was learned by laplace; say --prior laplace" in capsys.readouterr().err
    assert learn() == 0
    assert workspace.train("sgld", "--prior", "laplace", "--prior-path", "upstream") == 2
    assert "was learned by swag; say --prior swag" in capsys.readouterr().err
    assert workspace.train("sgld", "--prior", "laplace") == 2
    assert "(a run with --sampler laplace writes one)" in capsys.readouterr().err


@pytest.mark.parametrize("prior", ["swag", "pretrained"])
def test_what_a_prior_and_a_model_do_not_share_is_told(
    prior: str, workspace: Workspace, capsys: Capture
) -> None:
    assert learn() == 0
    capsys.readouterr()
    flags = ("--prior", prior, "--prior-path", "upstream")
    assert workspace.train("sgld", *flags, "--parameters", "*.h.0.*") == 0
    shown = capsys.readouterr().err
    assert "prior alone has" in shown
    assert "prior's mean    lies" in shown
    record = json.loads(Path("run/run.json").read_text())["prior"]
    assert record["extra"]
    model = load_model("model.pt", parameters="*.h.0.*")
    found = read_prior(Path("upstream")).match(Weights(model.theta, model.layout))
    away = float((model.theta - found.mean).norm() / model.theta.norm())
    assert record["distance"] == pytest.approx(away, rel=1e-5)
    checked = ("--model", "model.pt", "--corpus", "corpus.txt", "--parameters", "*.h.0.*")
    assert run_command("prior check", [*checked, *flags]) == 0
    assert "prior alone has: " in capsys.readouterr().out


@pytest.mark.usefixtures("workspace")
def test_a_diagonal_prior_is_the_diagonal_posterior() -> None:
    flags = ("--sampler", "swag", "--model", "model.pt", "--corpus", "corpus.txt", "--out", "run",
             "--warmup-steps", "2", "--sampling-steps", "8", "--thinning", "2", "--covariance",
             "diag")  # fmt: skip
    assert run_command("train", list(flags)) == 0
    model, prior = load_model("model.pt"), read_prior(Path("run"))
    found = prior.match(Weights(model.theta, model.layout))
    density = found.density(1.0, epsilon=1e-30, head_std=1.0)
    gaussian = density.diagonal()
    assert gaussian is not None
    sd = load_file("run/gaussian-c0.safetensors")["sd"]
    torch.testing.assert_close(gaussian.variance.sqrt(), sd, rtol=1e-5, atol=1e-12)
