"""From an encoder to a classifier with nothing in between: the commands of docs/how-to."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from bayesgen.cli.main import main
from bayesgen.cli.prior import LEARN
from bayesgen.cli.train import COMMAND as TRAIN
from bayesgen.inference.registry import SAMPLERS
from bayesgen.inference.swag import SWAGSettings
from bayesgen.priors import read_prior
from tests.docs.pages import DOCS, blocks, commands
from tests.masked import WORDS, save_bert

pytest.importorskip("transformers")

PAGE = DOCS / "how-to" / "learn-prior.md"
SHORT = {
    ("prior", "learn"): ("--block-size", "16", "--batch-size", "4", "--warmup-steps", "4",
                         "--sampling-steps", "24", "--thinning", "1", "--precision", "fp32"),
    ("train",): ("--train-samples", "12", "--batch-size", "4", "--block-size", "16",
                 "--precision", "fp32", "--warmup-steps", "4", "--sampling-steps", "20",
                 "--thinning", "1", "--prior-scale-steps", "8", "--out", "run"),
}  # fmt: skip


def page_commands() -> list[tuple[tuple[str, ...], list[str]]]:
    """Command and flags of the lines of the page that make and use an encoder's prior."""
    found = [words for block in blocks(PAGE, "sh") for words in commands(block)]
    return [
        (tuple(words[: 2 if words[0] == "prior" else 1]), words[2 if words[0] == "prior" else 1 :])
        for words in found
        if any("priors/news" in word for word in words)
    ]


def test_the_flags_of_the_page_make_plans() -> None:
    """As they stand: as many models are collected as the prior has directions, and draws are."""
    (_, learn), (_, use), *_ = page_commands()
    upstream = LEARN.understand(learn).settings
    assert isinstance(upstream, SWAGSettings)
    assert int(SAMPLERS["swag"].plan(upstream, 1).collect.sum()) >= upstream.rank
    given = TRAIN.understand(use)
    sampler = SAMPLERS[given.words.get("sampler", "sghmc")]
    assert sampler.plan(given.settings, 1).num_draws >= 10


def test_the_commands_of_the_page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    save_bert(tmp_path / "encoder", head=False)
    lines = [f"{WORDS[i % 18]} {WORDS[(i + 5) % 18]} sat on the mat\t{i % 3}" for i in range(80)]
    (tmp_path / "rows.tsv").write_text("text\tlabel\n" + "\n".join(lines))
    ours = {"$ENCODER": "encoder", "ag_news": "rows.tsv"}
    names = []
    for name, flags in page_commands():
        argv = [ours.get(flag, flag) for flag in flags]
        assert main([*name, *argv, *SHORT.get(name, ())]) == 0
        names.append(" ".join(name))
    assert names == ["prior learn", "train", "prior show", "prior check"]

    prior = read_prior(Path("checkpoints/priors/news"))
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
