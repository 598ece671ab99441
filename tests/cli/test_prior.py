"""`bayesgen prior`: show and import, and everything that is refused."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import bayesgen
from bayesgen.cli.main import main, run_command
from bayesgen.config import described
from bayesgen.config.jobs import PriorImportSettings
from bayesgen.models.nanogpt import read_checkpoint
from bayesgen.priors import Weights, read_prior, write_prior
from bayesgen.tasks import TASKS
from tests.priors.files import RECORD, agree, exact, random_parts, random_prior
from tests.workspace import Workspace

Capture = pytest.CaptureFixture[str]
PATHS = ("--mean", "p_mean.pt", "--variance", "p_variance.pt", "--deviations", "p_covmat.pt")
GPT = ("--model", "model.pt", "--task", "causal-lm")


def refused(argv: list[str], capsys: Capture) -> str:
    """The one line of an error."""
    assert main(["prior", *argv]) == 2
    shown = capsys.readouterr().err
    lines = shown.strip().splitlines()
    assert len(lines) == 1, lines
    assert lines[0].startswith("error: ")
    return lines[0]


def save(path: Path, parts: tuple[Tensor, Tensor, Tensor], stem: str = "p") -> None:
    for name, tensor in zip(("mean", "variance", "covmat"), parts, strict=True):
        torch.save(tensor, path / f"{stem}_{name}.pt")


def wandering(module: torch.nn.Module, rank: int = 4) -> tuple[Tensor, Tensor, Tensor]:
    """Mean, variance and undivided deviations of weights that move around a module's own."""
    start = torch.nn.utils.parameters_to_vector(module.parameters()).detach()
    generator = torch.Generator().manual_seed(0)
    path = start + 0.01 * torch.randn(rank, len(start), generator=generator)
    return path.mean(0), path.var(0), path - path.mean(0)


@pytest.fixture
def gpt(workspace: Workspace) -> tuple[Tensor, Tensor, Tensor]:
    """Published files p_*.pt in the working directory, of the model in model.pt."""
    module = read_checkpoint(workspace.path / "model.pt").module
    parts = wandering(module)
    save(workspace.path, parts)
    torch.save(module.state_dict(), workspace.path / "p_model.pt")
    return parts


# -- import --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "files",
    [(*PATHS, "--model-file", "p_model.pt"), ("--published", "p"), ("--published", ".")],
)
def test_published_files_become_one_prior(
    files: tuple[str, ...], gpt: tuple[Tensor, ...], capsys: Capture
) -> None:
    mean, variance, rows = gpt
    flags = ["--rows", "undivided", *GPT, "--out", "new/prior.safetensors"]
    assert main(["prior", "import", *files, *flags]) == 0
    shown = capsys.readouterr()
    assert shown.err == ""
    assert "rank 4" in shown.out
    prior = read_prior(Path("new/prior.safetensors"))
    model = bayesgen.load_model("model.pt")
    found = prior.match(Weights(model.theta, model.layout))
    density = found.density(0.5, epsilon=1e-6, head_std=0.2)
    agree(density, exact(mean, variance, rows / 3**0.5, 0.5, 1e-6), model.theta)
    assert prior.record["model"]["sha256"] == model.info.sha256
    upstream = prior.record["upstream"]
    assert set(upstream["imported"]) == {
        f"p_{n}.pt" for n in ("mean", "variance", "covmat", "model")
    }
    start = model.theta.double()
    away = float((mean.double() - start).norm() / start.norm())
    assert upstream["shift"] == pytest.approx(away, rel=1e-5)
    assert f"the mean lies {100 * away:.2g} % of the length" in shown.out

    assert run_command("prior show", ["new/prior.safetensors"]) == 0
    assert "transformer.h.0" in capsys.readouterr().out


def test_the_rows_are_never_guessed(gpt: tuple[Tensor, ...], capsys: Capture) -> None:
    line = refused(["import", *PATHS, *GPT, "--out", "x"], capsys)
    assert "--rows: say whether" in line
    assert "sum to 3 times the variances" in line
    assert not Path("x").exists()
    assert main(["prior", "import", *PATHS, *GPT, "--rows", "divided", "--out", "x"]) == 0
    assert "warning: --rows divided: their squares sum to 3 times" in capsys.readouterr().err
    torch.save(gpt[2][:2], "p_covmat.pt")  # of two, both are the same
    assert "no effect on 2 deviations" in refused(
        ["import", *PATHS, *GPT, "--rows", "divided", "--out", "y"], capsys
    )
    assert main(["prior", "import", *PATHS, *GPT, "--out", "y"]) == 0


def test_a_mean_that_is_far_from_the_model_is_reported(
    workspace: Workspace, gpt: tuple[Tensor, ...], capsys: Capture
) -> None:
    torch.save(gpt[0].flip(0) + 1, "p_mean.pt")
    flags = [*PATHS, *GPT, "--rows", "undivided", "--out", "x"]
    assert main(["prior", "import", *flags]) == 0
    assert "warning: --model: its weights are not near the prior's mean" in capsys.readouterr().err


def test_the_state_of_a_swag_module_becomes_a_prior(workspace: Workspace, capsys: Capture) -> None:
    module = read_checkpoint(workspace.path / "model.pt").module
    state: dict[str, Any] = {"n_models": torch.tensor([6]), "base.extra_sq_mean": torch.ones(2)}
    for name, parameter in module.named_parameters():
        size = parameter.numel()
        _, variance, rows = random_parts(size, 3)
        state[f"base.{name}_mean"] = parameter.detach()
        state[f"base.{name}_sq_mean"] = parameter.detach() ** 2 + variance.view_as(parameter)
        state[f"base.{name}_cov_mat_sqrt"] = rows
    torch.save({"epoch": 3, "state_dict": state}, "swag.pt")
    assert main(["prior", "import", "--swag-state", "swag.pt", *GPT, "--out", "x"]) == 0
    assert "left out, not among the chosen parameters: 'extra'" in capsys.readouterr().err
    prior = read_prior(Path("x"))
    assert prior.record["upstream"]["collected"] == 6
    here = prior.layout.entries[1]
    _, variance, rows = random_parts(here.numel, 3)
    found = prior.layout.views(prior.deviations)[here.name].flatten(1)
    torch.testing.assert_close(found, rows / 2**0.5)
    torch.testing.assert_close(
        prior.layout.views(prior.variance)[here.name].flatten(), variance, rtol=1e-3, atol=1e-5
    )


def test_an_encoder_learned_on_masked_tokens_is_found_under_a_classifier(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    transformers = pytest.importorskip("transformers")
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(0)
    config = transformers.BertConfig(
        vocab_size=20, hidden_size=8, num_hidden_layers=2, num_attention_heads=2,
        intermediate_size=16, max_position_embeddings=16,
    )  # fmt: skip
    masked = transformers.BertForMaskedLM(config)
    masked.save_pretrained("masked")
    capsys.readouterr()
    mean, variance, rows = wandering(masked)
    save(tmp_path, (mean, variance, rows / 3**0.5))
    flags = ["--model", "masked", "--task", "masked-lm", "--rows", "divided", "--out", "x"]
    assert main(["prior", "import", "--published", "p", *flags]) == 0
    assert capsys.readouterr().err == ""
    prior = read_prior(Path("x"))
    own = bayesgen.load_model("masked", task="masked-lm")
    found = prior.match(Weights(own.theta, own.layout, base="bert"))
    density = found.density(2.0, epsilon=1e-6, head_std=0.2)
    agree(density, exact(mean, variance, rows / 3**0.5, 2.0, 1e-6), own.theta)

    other = bayesgen.load_model("masked", task="sequence-classification", num_labels=3)
    found = prior.match(Weights(other.theta, other.layout, new=other.new, base="bert"))
    assert set(found.missing) == {
        "bert.pooler.dense.weight", "bert.pooler.dense.bias", "classifier.weight",
        "classifier.bias",
    }  # fmt: skip
    assert all(name.startswith("cls.") for name in found.extra)
    theirs = own.layout.views(mean)
    for name, part in other.layout.views(found.mean).items():
        if name not in found.missing:
            torch.testing.assert_close(part, theirs[name], rtol=0, atol=0)


def test_a_resnet_takes_the_part_and_the_order_that_are_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    transformers = pytest.importorskip("transformers")
    monkeypatch.chdir(tmp_path)
    config = transformers.ResNetConfig(
        embedding_size=8, hidden_sizes=[8, 16], depths=[1, 1], layer_type="basic", num_labels=3
    )
    module = transformers.ResNetForImageClassification(config)
    module.save_pretrained("resnet")
    backbone = {n: p for n, p in module.named_parameters() if n.startswith("resnet.")}
    size = sum(p.numel() for p in backbone.values())
    parts = random_parts(size, 2)
    save(tmp_path, parts)
    capsys.readouterr()
    flags = ["import", "--published", "p", "--model", "resnet", "--out", "x"]
    assert "--parameters 'resnet.*'" in refused(flags, capsys)
    flags += ["--parameters", "resnet.*"]
    assert "--order: a ResNet's shortcuts" in refused(flags, capsys)
    assert main(["prior", *flags, "--order", "torchvision"]) == 0
    layout = read_prior(Path("x")).layout
    assert set(layout.names) == set(backbone)
    assert layout.names[-3:] == tuple(
        f"resnet.encoder.stages.1.layers.0.shortcut.{end}"
        for end in ("convolution.weight", "normalization.weight", "normalization.bias")
    )


class Evil:
    """Leaves a mark where it is unpickled."""

    def __reduce__(self) -> Any:
        return os.mkdir, ("mark",)


@pytest.mark.parametrize(
    "flag", ["--mean", "--variance", "--deviations", "--model-file", "--swag-state", "--model"]
)
def test_nothing_in_a_file_is_executed(flag: str, gpt: tuple[Tensor, ...], capsys: Capture) -> None:
    torch.save({"n_models": 3, "more": Evil()}, "evil.pt")
    files = ["--swag-state", "evil.pt"] if flag == "--swag-state" else [*PATHS, flag, "evil.pt"]
    flags = [*GPT, *files, "--out", "x"]  # the later one wins
    line = refused(["import", *flags], capsys)
    assert line.startswith(f"error: {flag}: 'evil.pt' cannot be read")
    assert not Path("mark").exists()
    assert not Path("x").exists()


def with_file(name: str, content: Any) -> None:
    torch.save(content, name)


@pytest.mark.parametrize(
    ("flags", "says"),
    [
        (["--out", "x", *PATHS], "--model is missing"),
        ([*GPT, *PATHS], "--out is missing"),
        ([*GPT, "--out", "corpus.txt", *PATHS], "--out: 'corpus.txt' is there already"),
        ([*GPT, "--out", "x"], "--mean is missing: name --mean, --variance and --deviations, or"),
        ([*GPT, "--out", "x", *PATHS[:4]], "--deviations is missing"),
        ([*GPT, "--out", "x", *PATHS, "--published", "p"], "--mean has no effect beside --publi"),
        ([*GPT, "--out", "x", *PATHS, "--swag-state", "p"], "--mean has no effect beside --swag"),
        ([*GPT, "--out", "x", "--published", "p", "--swag-state", "p"], "give one of them"),
        ([*GPT, "--out", "x", "--swag-state", "p", "--rows", "divided"], "--rows has no effect"),
        ([*GPT, "--out", "x", "--published", "gone"], "no file at 'gone_mean.pt'"),
        ([*GPT, "--out", "x", "--published", "empty"], "'empty' holds no *_mean.pt"),
        ([*GPT, "--out", "x", "--published", "two"], "'two' holds 2 priors, such as 'two/a'"),
        ([*GPT, "--out", "x", "--published", "part"], "no file at 'part/a_variance.pt'"),
        ([*GPT, "--out", "x", *PATHS, "--mean", "gone.pt"], "--mean: no file at 'gone.pt'"),
        ([*GPT, "--out", "x", *PATHS, "--mean", "."], "--mean: no file at '.'"),
        ([*GPT, "--out", "x", *PATHS, "--mean", "corpus.txt"], "--mean: 'corpus.txt' cannot be"),
        ([*GPT, "--out", "x", *PATHS, "--mean", "list.pt"], "--mean: it holds no tensor"),
        ([*GPT, "--out", "x", *PATHS, "--model-file", "list.pt"], "--model-file: it is no state"),
        ([*GPT, "--out", "x", *PATHS, "--model-file", "sparse.pt"], "'w': it holds no tensor"),
        ([*GPT, "--out", "x", *PATHS, "--variance", "p_covmat.pt"], "--variance: its shape is"),
        ([*GPT, "--out", "x", *PATHS, "--mean", "short.pt"], "has 7 numbers, and the model 3,696"),
        ([*GPT, "--out", "x", *PATHS, "--parameters", "*.wte*"], "numbers, and the model"),
        ([*GPT, "--out", "x", *PATHS, "--parameters", "nothing"], "matches no parameter"),
        ([*GPT, "--out", "x", *PATHS, "--order", "module"], "this model has one order only"),
        ([*GPT, "--out", "x", *PATHS, "--rows", "both"], "--rows: invalid choice"),
        ([*GPT, "--out", "x", *PATHS, "--task", "masked-lm"], "a nanoGPT checkpoint, a causal-lm"),
        ([*GPT, "--out", "x", *PATHS, "--model", "gone.pt"], "--model: no checkpoint at 'gone.pt'"),
        ([*GPT, "--out", "x", *PATHS, "--model", "./gone"], "--model: no folder at './gone'"),
        ([*GPT, "--out", "x", "--swag-state", "list.pt"], "--swag-state: it is no state dict"),
        ([*GPT, "--out", "x", "--swag-state", "p_model.pt"], "no name ends with '_sq_mean'"),
        ([*GPT, "--out", "corpus.txt/x", *PATHS, "--rows", "undivided"], "corpus.txt"),
        ([*GPT, "--out", "x", *PATHS, "--colour", "red"], "unknown flag --colour"),
    ],
)  # fmt: skip
def test_bad_input_of_import_is_one_line(
    flags: list[str], says: str, gpt: tuple[Tensor, ...], capsys: Capture
) -> None:
    for folder, files in {"empty": (), "two": ("a", "b"), "part": ("a",)}.items():
        Path(folder).mkdir()
        for name in files:
            torch.save(gpt[0], f"{folder}/{name}_mean.pt")
    with_file("list.pt", [1, 2])
    with_file("short.pt", torch.zeros(7))
    with_file("sparse.pt", {"w": torch.eye(2).to_sparse()})
    assert says in refused(["import", *flags], capsys)
    assert not Path("x").exists()


def test_every_task_of_the_models_can_be_named() -> None:
    names = described(PriorImportSettings)["task"].names
    assert names is not None
    assert set(names.known()) == set(TASKS)


# -- show ----------------------------------------------------------------------------------------


def test_a_prior_is_explained(tmp_path: Path, capsys: Capture) -> None:
    path = tmp_path / "prior.safetensors"
    write_prior(random_prior(), path)
    for argument in (path, tmp_path):
        assert main(["prior", "show", str(argument)]) == 0
        shown = capsys.readouterr().out
        assert "tiny-bert" in shown
        assert "encoder.layer.1" in shown
    assert main(["prior", "show", str(path), "--json"]) == 0
    content = json.loads(capsys.readouterr().out)
    assert content["upstream"] == RECORD["upstream"]
    assert content["groups"][0]["name"] == "embeddings"


@pytest.mark.parametrize(
    ("argv", "says"),
    [
        (["show", "gone.safetensors"], "FILE: no file at 'gone.safetensors'"),
        (["show", "corpus.txt"], "FILE: 'corpus.txt' is damaged"),
        (["show"], "FILE"),
        (["show", "corpus.txt", "more"], "unexpected argument 'more'"),
        (["show", "corpus.txt", "--jsn"], "did you mean --json"),
        (["shwo", "corpus.txt"], "unknown command 'prior shwo'; did you mean show?"),
        (["--verbose"], "unknown command 'prior --verbose'"),
    ],
)
def test_bad_input_of_show_is_one_line(
    argv: list[str], says: str, workspace: Workspace, capsys: Capture
) -> None:
    assert says in refused(argv, capsys)


@pytest.mark.parametrize("command", ["show", "import"])
def test_help_of_a_command_has_every_flag_and_examples(command: str, capsys: Capture) -> None:
    with pytest.raises(SystemExit):
        main(["prior", command, "--help"])
    shown = capsys.readouterr().out
    assert "examples:" in shown
    if command == "import":
        for name in described(PriorImportSettings):
            assert f"--{name.replace('_', '-')}" in shown
        assert "λ² QᵀQ" in shown


def test_the_commands_are_listed_without_arguments(capsys: Capture) -> None:
    assert main(["prior"]) == 2
    assert "import" in capsys.readouterr().out
