"""What a prior predicts before any data, on the command line."""

from __future__ import annotations

import math
import re
from pathlib import Path

import pytest

from bayesgen.cli.main import main
from tests.encoder import save_encoder, write_rows
from tests.workspace import Workspace


def check(*flags: str) -> int:
    return main(["prior", "check", *flags])


def line(out: str, start: str) -> list[float]:
    """Numbers of the row of the table that begins so."""
    (row,) = [row for row in out.splitlines() if row.strip().startswith(start)]
    return [float(n) for n in re.findall(r"-?\d+\.?\d*(?:e[-+]\d+)?", row.split(start)[1])]


def test_a_prior_without_width_predicts_as_the_weights_do(
    workspace: Workspace, capsys: pytest.CaptureFixture[str]
) -> None:
    flags = ("--model", "model.pt", "--corpus", "corpus.txt", "--prior", "pretrained")
    assert check(*flags, "--prior-std", "1e-9", "--num-draws", "3") == 0
    least, median, largest, mixture, loaded, uniform = line(
        capsys.readouterr().out, "NLL of a draw, nats"
    )
    assert least == median == largest == mixture == loaded
    assert uniform == pytest.approx(math.log(28), abs=1e-3)


def test_a_wide_one_is_sure_of_what_it_cannot_know(
    workspace: Workspace, capsys: pytest.CaptureFixture[str]
) -> None:
    flags = ("--model", "model.pt", "--corpus", "corpus.txt", "--prior", "normal")
    assert check(*flags, "--prior-std", "30", "--num-draws", "2") == 0
    found = capsys.readouterr()
    assert line(found.out, "mean largest probability")[0] > 0.9
    assert "worse" in found.err
    assert "lower --prior-scale" in found.err


def test_a_new_head_takes_the_classes_of_the_data(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("transformers")
    monkeypatch.chdir(tmp_path)
    save_encoder(tmp_path / "encoder")
    write_rows(tmp_path / "rows.tsv", 60)
    flags = ("--model", "encoder", "--task", "sequence-classification", "--data", "rows.tsv")
    narrow = ("--prior", "pretrained", "--prior-std", "1e-6", "--head-prior-std", "1e-6")
    assert check(*flags, *narrow, "--num-draws", "4") == 0
    out = capsys.readouterr().out
    # a head of zeros knows nothing at all
    assert line(out, "NLL of a draw, nats")[3] == pytest.approx(math.log(3), abs=1e-3)
    shares = [line(out, f"share of class {c}")[3] for c in range(3)]
    assert sum(shares) == pytest.approx(1, abs=1e-3)


@pytest.mark.parametrize(
    ("flags", "says"),
    [
        ([], "--prior swag, learned from the path of an optimizer in pretraining, needs its file"),
        (["--prior-path", "nowhere"], "no file at 'nowhere'"),
        (["--prior", "normal", "--prior-scale", "auto"], "choose a number"),
        (["--prior", "normal", "--batch-size", "3"], "has no effect here"),
        (["--prior", "normal", "--prior-epsilon", "3"], "needs --prior swag"),
        (["--prior", "normal", "--prior-path", "x"], "needs --prior swag, laplace or"),
        (["--prior", "normal", "--data", "ag_news"], "which takes --corpus"),
        (["--prior", "normal", "--prior-scale", "-1"], "--prior-scale must be at least"),
    ],
)
def test_bad_input_is_one_line(
    workspace: Workspace, capfd: pytest.CaptureFixture[str], flags: list[str], says: str
) -> None:
    assert check("--model", "model.pt", "--corpus", "corpus.txt", *flags) == 2
    (only,) = capfd.readouterr().err.strip().splitlines()
    assert only.startswith("error: ")
    assert says in only
