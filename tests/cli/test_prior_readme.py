"""From an encoder to a classifier with nothing in between: the two commands of the README."""

from __future__ import annotations

import json
import shlex
from pathlib import Path

import pytest

from bayesgen.cli.main import door
from bayesgen.cli.prior_learn import DOOR
from bayesgen.cli.train import choose
from bayesgen.inference.registry import SAMPLERS
from bayesgen.inference.swag import SWAGSettings
from bayesgen.priors import LearnedPrior
from tests.masked import WORDS, save_bert

pytest.importorskip("transformers")

README = Path(__file__).parents[2] / "README.md"
DOORS = {
    "learn_prior.py": "prior_learn", "bayesian_training_script.py": "train", "prior": "prior",
}  # fmt: skip
SHORT = {
    "learn_prior.py": ("--block-size", "16", "--batch-size", "4", "--warmup-steps", "4",
                       "--sampling-steps", "24", "--thinning", "1", "--precision", "fp32"),
    "bayesian_training_script.py": ("--train-samples", "12", "--batch-size", "4",
                                    "--block-size", "16", "--precision", "fp32",
                                    "--warmup-steps", "4", "--sampling-steps", "20",
                                    "--thinning", "1",
                                    "--prior-scale-steps", "8", "--out", "run"),
}  # fmt: skip


def commands() -> list[tuple[str, list[str]]]:
    """Script or command, and flags, of the README's lines that make and use an encoder's prior."""
    text = README.read_text().replace("\\\n", " ")
    found = [
        shlex.split(line, comments=True) for line in text.splitlines() if "priors/news" in line
    ]
    return [
        (Path(words[1]).name, words[2:]) for words in found if words[0] in {"python", "bayesgen"}
    ]


def test_the_flags_of_the_readme_make_plans() -> None:
    """As they stand: as many models are collected as the prior has directions, and draws are."""
    (_, learn), (_, use), *_ = commands()
    upstream = choose(learn, DOOR).chosen.settings
    assert isinstance(upstream, SWAGSettings)
    assert int(SAMPLERS["swag"].plan(upstream, 1).collect.sum()) >= upstream.rank
    command = choose(use)
    assert SAMPLERS[command.sampler].plan(command.chosen.settings, 1).num_draws >= 10


def test_the_two_commands_of_the_readme(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    save_bert(tmp_path / "encoder", head=False)
    lines = [f"{WORDS[i % 18]} {WORDS[(i + 5) % 18]} sat on the mat\t{i % 3}" for i in range(80)]
    (tmp_path / "rows.tsv").write_text("text\tlabel\n" + "\n".join(lines))
    ours = {"$ENCODER": "encoder", "ag_news": "rows.tsv"}
    scripts = []
    for script, flags in commands():
        argv = [ours.get(flag, flag) for flag in flags]
        assert door(DOORS[script], [*argv, *SHORT.get(script, ())]) == 0
        scripts.append(script)
    assert scripts == [*DOORS, "prior"]

    prior = LearnedPrior.read(Path("checkpoints/priors/news"))
    assert prior.rank == 20
    assert prior.record["upstream"]["task"] == "masked-lm"
    record = json.loads(Path("run/run.json").read_text())
    assert record["model"]["task"] == "sentence-classification"
    assert record["prior"]["missing"] == ["classifier.weight", "classifier.bias"]
    assert all("predictions" in name for name in record["prior"]["extra"])
    curve = json.loads(Path("run/prior_scale.json").read_text())
    assert f"λ = {curve['chosen']:g}" in record["prior"]["density"]
    (evaluation,) = Path("run").glob("bayesian_eval_*[0-9].json")
    (split,) = json.loads(evaluation.read_text())["splits"].values()
    assert split["num_draws"] == 10
    assert split["predictors"]["bma"]["nll"] > 0
