"""The Python API, as a notebook uses it: one call that samples, and plain objects that answer."""

from __future__ import annotations

import gc
import math
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

import bayesgen
from bayesgen.cli.main import main
from bayesgen.errors import UserError
from tests.encoder import CLASSES, save_encoder, write_rows
from tests.workspace import furnished

SHORT: dict[str, Any] = {
    "warmup_steps": 4, "sampling_steps": 8, "thinning": 4, "batch_size": 4,
}  # fmt: skip


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    furnished(tmp_path)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_five_lines(here: Path) -> None:
    model = bayesgen.load_model("model.pt")
    posterior = bayesgen.sample(model, "corpus.txt", sampler="sghmc", out="runs/x", **SHORT)
    report = bayesgen.evaluate(posterior, splits=["val"])
    p = posterior.predict(["the quick", "a cat"])
    text = posterior.generate("the ", max_new_tokens=5)

    assert len(posterior) == 2
    assert repr(posterior).startswith("Posterior(sghmc, 2 draws of ")
    assert set(report.predictors()) == {
        "deterministic", "temperature_scaled", "posterior_mean", "mean_of_draws", "bma",
    }  # fmt: skip
    assert "bma" in str(report)
    assert report.to_pandas().loc[("val", "bma"), "nll"] == report.predictors("val")["bma"]["nll"]
    assert p.probs.shape == (2, model.tokenizer.vocab_size)  # type: ignore[union-attr]
    assert torch.allclose(p.probs.sum(-1), torch.ones(2))
    assert bool((p.epistemic >= 0).all())
    assert len(text.tokens) == 5


def test_the_same_run_as_that_of_the_command_line(here: Path) -> None:
    assert (
        main(
            ["train", "--model", "model.pt", "--corpus", "corpus.txt", "--out", "run",
             "--warmup-steps", "4", "--sampling-steps", "8", "--thinning", "4",
             "--batch-size", "4"]
        )
        == 0
    )  # fmt: skip
    command = bayesgen.load("run")
    call = bayesgen.sample(bayesgen.load_model("model.pt"), "corpus.txt", **SHORT)
    assert all(torch.equal(a, b) for a, b in zip(command, call, strict=True))
    batch = {"input_ids": torch.tensor([[1, 2, 3]])}
    assert torch.equal(command.predict(batch).log_probs, call.predict(batch).log_probs)


def test_draws_without_a_folder_live_as_long_as_the_posterior(here: Path) -> None:
    posterior = bayesgen.sample("model.pt", "corpus.txt", **SHORT)
    folder = posterior.run.path  # type: ignore[union-attr]
    kept = posterior.thin(1)
    del posterior
    gc.collect()
    assert folder.exists()
    assert len(kept[0]) == kept.layout.size
    del kept
    gc.collect()
    assert not folder.exists()


def test_a_finished_run_is_opened_and_another_refused(here: Path) -> None:
    model = bayesgen.load_model("model.pt")
    first = bayesgen.sample(model, "corpus.txt", out="run", **SHORT)
    again = bayesgen.sample(model, "corpus.txt", out="run", **SHORT)
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    with pytest.raises(UserError, match=r"^`seed=3`: 'run' was started with 0; a resumed"):
        bayesgen.sample(model, "corpus.txt", out="run", seed=3, **SHORT)
    with pytest.raises(UserError, match="already holds a run"):
        bayesgen.sample(model, "corpus.txt", out="run", resume=False, **SHORT)


def test_a_misspelled_setting_names_the_nearest(here: Path) -> None:
    model = bayesgen.load_model("model.pt")
    with pytest.raises(UserError, match=r"`learing_rate` is no setting of sghmc; did you mean lea"):
        bayesgen.sample(model, "corpus.txt", learing_rate=0.1)
    with pytest.raises(UserError, match=r"^`learning_rate` must be at least 0"):
        bayesgen.sample(model, "corpus.txt", learning_rate=-1.0)
    with pytest.raises(UserError, match="sghmc"):
        bayesgen.sample(model, "corpus.txt", sampler="sgmhc")


def test_texts_instead_of_a_name(here: Path) -> None:
    texts = ["the quick brown fox jumps over the lazy dog " * 20]
    posterior = bayesgen.sample("model.pt", texts, **SHORT)
    report = bayesgen.evaluate(posterior, texts)
    assert list(report.splits) == ["data"]
    assert math.isfinite(report.predictors()["bma"]["nll"] or math.nan)
    with pytest.raises(UserError, match=r"^`data`: .* given in Python; give them"):
        bayesgen.evaluate(posterior)


def test_labelled_rows(here: Path) -> None:
    save_encoder(here / "encoder")
    write_rows(here / "rows.tsv", 40)
    lines = (here / "rows.tsv").read_text().splitlines()[1:]
    rows = [tuple(line.split("\t")) for line in lines]
    model = bayesgen.load_model("encoder", task="sequence-classification", num_labels=3)
    posterior = bayesgen.sample(model, rows, sampler="sghmc", out="run", **SHORT)
    # what is Bayesian follows the task's presets where load_model was told nothing
    assert posterior.layout.size < model.layout.size
    p = posterior.predict(["a fox", "the old oak near a rose"])
    assert p.probs.shape == (2, 3)
    assert set(p.labels) <= set(CLASSES)
    report = bayesgen.evaluate(posterior, rows[:10])
    assert report.splits["data"]["num_tokens"] == 10
    assert "macro_f1" in report.splits["data"]
    one = posterior.predict("a fox")
    assert torch.allclose(one.log_probs[0], p.log_probs[0], atol=1e-5)


class Poisson:
    """Counts: log p(y | output) with rate exp(output)."""

    def per_sequence(self, outputs: Tensor, labels: Tensor) -> Tensor:
        return labels * outputs[:, 0] - outputs[:, 0].exp() - torch.lgamma(labels + 1)

    def total(self, outputs: Tensor, labels: Tensor) -> Tensor:
        return self.per_sequence(outputs, labels).sum()

    def count(self, labels: Tensor) -> Tensor:
        return torch.tensor(labels.numel())


def test_a_network_of_ones_own(here: Path) -> None:
    torch.manual_seed(0)
    x = torch.randn(64, 3)
    y = torch.poisson((x @ torch.tensor([[0.5], [-0.5], [0.2]])).exp()).flatten()
    net = nn.Linear(3, 1)
    model = bayesgen.FunctionalModel(
        net, lambda apply, batch: apply(batch["inputs"]), likelihood=Poisson()
    )
    short = {**SHORT, "learning_rate": 0.05}
    posterior = bayesgen.sample(model, (x, y), sampler="sgld", out="run", **short)
    assert posterior.layout.size == 4
    of_batches = bayesgen.sample(
        model, DataLoader(TensorDataset(x, y), batch_size=16), sampler="sgld", **short
    )
    of_rows = bayesgen.sample(model, TensorDataset(x, y), sampler="sgld", **short)
    for other in (of_batches, of_rows):
        assert all(torch.equal(a, b) for a, b in zip(posterior, other, strict=True))
    opened = bayesgen.load("run", model=model)
    assert torch.equal(opened[0], posterior[0])
    with pytest.raises(UserError, match="`model`: give the FunctionalModel"):
        bayesgen.load("run")


def test_a_regression_of_ones_own(here: Path) -> None:
    torch.manual_seed(0)
    x = torch.randn(64, 2)
    y = x.sum(1) + 0.1 * torch.randn(64)
    model = bayesgen.FunctionalModel(
        nn.Linear(2, 1),
        lambda apply, batch: apply(batch["inputs"]),
        likelihood=bayesgen.Gaussian(0.1),
    )
    posterior = bayesgen.sample(model, (x, y), sampler="laplace", prior="normal", batch_size=8)
    p = posterior.predict({"inputs": x[:5]})
    low, high = p.interval(0.9)
    assert p.mean.shape == (5,)
    assert bool(((low < p.mean) & (p.mean < high)).all())
    assert torch.allclose(p.total, p.aleatoric + p.epistemic)
    report = bayesgen.evaluate(posterior, (x, y))
    assert report.predictors()["bma"]["rmse"] is not None


def test_a_prior_object(here: Path) -> None:
    class Cauchy(bayesgen.Prior):
        """Heavy tails: log p(θ) = −Σ log(π (1 + θ²))."""

        def log_prob(self, theta: Tensor) -> Tensor:
            return -(math.pi * (1 + theta.square())).log().sum()

        def describe(self) -> str:
            return "Cauchy(0, 1)"

    posterior = bayesgen.sample("model.pt", "corpus.txt", prior=Cauchy(), **SHORT)
    assert posterior.info.prior["density"] == "Cauchy(0, 1)"


def test_a_finished_run_is_not_opened_under_another_prior(here: Path) -> None:
    class Laplace(bayesgen.Prior):
        def __init__(self, scale: float) -> None:
            self.scale = scale

        def log_prob(self, theta: Tensor) -> Tensor:
            return -(theta.abs() / self.scale).sum()

        def describe(self) -> str:
            return f"Laplace({self.scale})"

    model = bayesgen.load_model("model.pt")
    bayesgen.sample(model, "corpus.txt", prior=Laplace(0.1), out="run", **SHORT)
    bayesgen.sample(model, "corpus.txt", prior=Laplace(0.1), out="run", **SHORT)
    with pytest.raises(UserError, match=r"started with Laplace\(0.1\), not Laplace\(0.2\)"):
        bayesgen.sample(model, "corpus.txt", prior=Laplace(0.2), out="run", **SHORT)
    with pytest.raises(UserError, match=r"^`prior_std` has no effect beside a prior of your own"):
        bayesgen.sample(model, "corpus.txt", prior=Laplace(0.1), prior_std=1.0, **SHORT)
    with pytest.raises(UserError, match=r"^`prior` must be a name or an object"):
        bayesgen.sample(model, "corpus.txt", prior=Laplace, **SHORT)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"learning_rate": "x"}, "^`learning_rate` must be of type float, not 'x'"),
        ({"learning_rate": None}, "^`learning_rate` must be of type float, not None"),
        ({"prior_scale": "aut"}, "^`prior_scale` must be of type float, not 'aut'"),
        ({"sampling_steps": 2.5}, "^`sampling_steps` must be of type int, not 2.5"),
        ({"sampling_steps": True}, "^`sampling_steps` must be of type int, not True"),
        ({"corpus": "x"}, "^`corpus`: the data are given already"),
    ],
)
def test_a_setting_of_another_type_is_refused(
    here: Path, settings: dict[str, Any], message: str
) -> None:
    with pytest.raises(UserError, match=message):
        bayesgen.sample("model.pt", "corpus.txt", **settings)


def test_what_generate_and_a_report_do_not_have_is_named(here: Path) -> None:
    posterior = bayesgen.sample("model.pt", "corpus.txt", **SHORT)
    with pytest.raises(UserError, match=r"^`max_new_token` is no .* did you mean max_new_tokens"):
        posterior.generate("the", max_new_token=2)
    with pytest.raises(UserError, match=r"^`max_new_tokens` must be of type int"):
        posterior.generate("the", max_new_tokens="2")
    with pytest.raises(UserError, match=r"^`prompt` must be a text"):
        posterior.generate(["the"])  # type: ignore[arg-type]
    report = bayesgen.evaluate(posterior, "corpus.txt", splits=["val"])
    with pytest.raises(UserError, match=r"^`split=test`: this report has val"):
        report.predictors("test")


def test_what_cannot_be_a_likelihood_or_rows_is_refused() -> None:
    net = torch.nn.Linear(2, 2)
    for wrong in ("poisson", bayesgen.Gaussian, object()):
        with pytest.raises(UserError, match=r"^`likelihood`: .* total, per_sequence and count"):
            bayesgen.FunctionalModel(net, likelihood=wrong)  # type: ignore[arg-type]
    rows = {"inputs": torch.zeros(20, 2), "labels": torch.zeros(5, dtype=torch.long)}
    with pytest.raises(UserError, match=r"^`data`: as many rows .* 20 of 'inputs', 5 of 'labels'"):
        bayesgen.sample(bayesgen.FunctionalModel(net), rows, **SHORT)


def test_rows_of_ones_own_are_held_back_and_a_start_leaves_the_network_alone(here: Path) -> None:
    torch.manual_seed(0)
    net = torch.nn.Linear(2, 2)
    model = bayesgen.FunctionalModel(net, lambda apply, batch: apply(batch["inputs"]))
    before = model.theta.clone()
    rows = (torch.randn(40, 2), torch.randint(0, 2, (40,)))
    short = {**SHORT, "validation": 0.3}
    bayesgen.sample(model, rows, sampler="map", out="mode", epochs=2, batch_size=4, validation=0.3)
    posterior = bayesgen.sample(model, rows, init_from="mode", out="run", **short)
    assert not torch.equal(posterior.model.theta, before)
    again = bayesgen.load("run", model=model)
    assert torch.equal(again.model.theta, posterior.model.theta)
    assert torch.equal(model.theta, before)
    assert torch.equal(model.layout.ravel(dict(net.named_parameters())), before)


def test_rooms_and_the_version_are_attributes() -> None:
    code = "import bayesgen; bayesgen.likelihoods.Categorical(); print(bayesgen.__version__)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == version("bayesgen")
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = bayesgen.nothing
