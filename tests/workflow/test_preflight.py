"""What a run needs is known from an outline, and refused where it is not there."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from bayesgen.errors import UserError
from bayesgen.inference.laplace import LaplaceSettings
from bayesgen.inference.registry import SAMPLERS
from bayesgen.inference.sgld import SGLDSettings
from bayesgen.models import load_model
from bayesgen.workflow import preflight
from bayesgen.workflow.preflight import estimate, require
from tests.workspace import Workspace

CPU = torch.device("cpu")


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_the_draws_are_as_many_as_a_run_leaves(sampler: str, workspace: Workspace) -> None:
    assert (
        workspace.train(sampler, *(() if sampler in {"laplace", "map"} else ("--chains", "2"))) == 0
    )
    record = workspace.json("run/run.json")
    settings = SAMPLERS[sampler].settings(
        **{k: tuple(v) if isinstance(v, list) else v for k, v in record["settings"].items()}
    )
    needs = estimate(sampler, settings, load_model(workspace.path / "model.pt", outline=True))
    files = list((workspace.path / "run" / "draws").glob("*.safetensors"))
    assert needs.draws == len(files)
    assert needs.disk == 4 * needs.bayesian * needs.draws
    assert 0 <= sum(f.stat().st_size for f in files) - needs.disk < 1024 * len(files)
    rows = dict(record["opening"]["rows"])
    assert rows["parameters θ"] == f"{needs.bayesian:,} of {needs.network:,} (100.0%)"
    assert rows["disk"].endswith(f"for {needs.draws:,} draws")


def test_frozen_parameters_cost_less(workspace: Workspace) -> None:
    path = workspace.path / "model.pt"
    whole, part = (
        estimate("sgld", SGLDSettings(), load_model(path, parameters=subset, outline=True))
        for subset in ("all", "*ln_f*")
    )
    assert part.network == whole.network
    assert part.bayesian == 16
    assert part.memory == 4 * int(10 * 16 + 3 * (whole.network - 16))
    assert whole.memory == 40 * whole.network


def test_the_directions_of_a_learned_prior_are_counted(workspace: Workspace) -> None:
    assert workspace.train("swag", "--rank", "4") == 0
    model = load_model(workspace.path / "model.pt", outline=True)
    size = model.layout.size
    swag = SAMPLERS["swag"].settings(rank=4)
    assert estimate("swag", swag, model).memory == 4 * (29 + 3 * 4) * size
    chain = SGLDSettings(prior="swag", prior_path=str(workspace.path / "run"))
    assert estimate("sgld", chain, model).memory == 4 * (10 + 2.5 + 2 * 4) * size


def test_a_start_elsewhere_is_counted(workspace: Workspace) -> None:
    model = load_model(workspace.path / "model.pt", outline=True)
    here, there = (estimate("sgld", SGLDSettings(init_from=run), model) for run in (None, "mode"))
    assert there.memory - here.memory == 4 * model.layout.size


def test_a_prior_without_directions_is_counted(workspace: Workspace) -> None:
    assert workspace.train("laplace") == 0
    model = load_model(workspace.path / "model.pt", outline=True)
    chain = SGLDSettings(prior="laplace", prior_path=str(workspace.path / "run"))
    assert estimate("sgld", chain, model).memory == 4 * (10 + 2.5) * model.layout.size


def test_per_example_gradients_are_counted_up_to_their_limit(workspace: Workspace) -> None:
    model = load_model(workspace.path / "model.pt", outline=True)
    small = estimate("laplace", LaplaceSettings(batch_size=3), model)
    assert small.memory == 4 * 13 * model.layout.size + 16 * model.layout.size * 3
    many = estimate("laplace", LaplaceSettings(batch_size=10**6, jacobian_memory=5), model)
    assert many.memory == 4 * 13 * model.layout.size + 5 * 2**20


@pytest.mark.parametrize(("what", "says"), [("memory", "cpu has"), ("disk", "the disk of")])
def test_what_does_not_fit_is_refused_before_the_weights_are_loaded(
    what: str,
    says: str,
    workspace: Workspace,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def load(*_: object, outline: bool = False, **__: object) -> object:
        assert outline, "weights were loaded"
        return load_model("model.pt", outline=True)

    monkeypatch.setattr("bayesgen.workflow.inputs.load_model", load)
    monkeypatch.setattr(preflight, f"free_{what}", lambda _: 1000)
    assert workspace.train("sghmc") == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert says in line
    assert "1,000.0 B" in line or "1000 B" in line
    assert not (workspace.path / "run").exists()


def test_enough_is_not_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    needs = preflight.Needs(bayesian=10, network=20, draws=2, memory=100, disk=80)
    monkeypatch.setattr(preflight, "free_memory", lambda _: 100)
    monkeypatch.setattr(preflight, "free_disk", lambda _: 80)
    require(needs, CPU, tmp_path)
    monkeypatch.setattr(preflight, "free_memory", lambda _: 99)
    with pytest.raises(UserError, match="weights and sampler need 100 B"):
        require(needs, CPU, tmp_path)


def test_free_space_of_a_folder_that_is_not_there_yet(tmp_path: Path) -> None:
    there = preflight.free_disk(tmp_path)
    assert preflight.free_disk(tmp_path / "not" / "yet") == pytest.approx(there, rel=0.1)
    assert there > 0
    memory = preflight.free_memory(CPU)
    assert memory is not None
    assert memory > 2**20


def test_a_large_run_says_what_it_needs_before_it_loads(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("bayesgen.workflow.session.LARGE", 1)
    assert workspace.train("sgld", "--corpus", "gone.txt") == 2
    lines = capsys.readouterr().err.splitlines()
    assert [line.split()[0] for line in lines] == ["sgld", "parameters", "memory", "disk", "error:"]
    assert workspace.train("sgld") == 0
    assert capsys.readouterr().err.count("memory ") == 1
