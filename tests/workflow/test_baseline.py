"""nanoGPT's recipe: its schedule, its optimizer groups, its checkpoints."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from bayesgen.config.jobs import BaselineSettings
from bayesgen.data.corpora import Corpus, load_corpus
from bayesgen.errors import UserError
from bayesgen.models import load_model
from bayesgen.models.nanogpt import GPT, GPTConfig
from bayesgen.models.networks import HuggingFace
from bayesgen.workflow.baseline import (
    adamw,
    checkpoint_path,
    estimate,
    learning_rate,
    train_baseline,
)

TINY = BaselineSettings(
    n_layer=1, n_head=2, n_embd=16, block_size=8, batch_size=4, max_iters=60, warmup_iters=10,
    eval_interval=20, eval_iters=4, learning_rate=1e-2,
)  # fmt: skip
CPU = torch.device("cpu")


@pytest.fixture
def corpus(tmp_path: Path) -> Corpus:
    (tmp_path / "text.txt").write_text("the quick brown fox jumps over the lazy dog. " * 30)
    return load_corpus(str(tmp_path / "text.txt"))


def test_schedule_is_nanogpts() -> None:
    """get_lr of nanoGPT's train.py at the points that define it."""
    settings = replace(BaselineSettings(), max_iters=2000, warmup_iters=100, learning_rate=1e-3)
    assert learning_rate(settings, 0) == pytest.approx(1e-3 / 101)
    assert learning_rate(settings, 99) == pytest.approx(1e-3 * 100 / 101)
    assert learning_rate(settings, 100) == pytest.approx(1e-3)
    assert learning_rate(settings, 1050) == pytest.approx((1e-3 + 1e-4) / 2)
    assert learning_rate(settings, 2000) == pytest.approx(1e-4)


def test_only_matrices_decay() -> None:
    optimizer = adamw(GPT(GPTConfig(8, 11, 1, 2, 16, bias=True)), TINY)
    matrices, vectors = optimizer.param_groups
    assert all(p.dim() >= 2 for p in matrices["params"])
    assert all(p.dim() < 2 for p in vectors["params"])
    assert (matrices["weight_decay"], vectors["weight_decay"]) == (0.1, 0.0)
    assert matrices["betas"] == (0.9, 0.99)


def test_training_learns_and_keeps_the_best(corpus: Corpus, tmp_path: Path) -> None:
    path = tmp_path / "models" / "model.pt"
    report = train_baseline(TINY, corpus, path, CPU)
    losses = {step: val for step, _, val in report.curve}
    assert set(losses) == {0, 20, 40, 60}
    assert losses[0] == pytest.approx(math.log(corpus.tokenizer.vocab_size), abs=0.2)
    assert report.best_val_loss == min(losses.values()) < losses[0] - 0.5
    raw = torch.load(path, weights_only=True)
    assert {"model", "optimizer", "model_args", "iter_num", "best_val_loss", "config"} <= raw.keys()
    assert raw["iter_num"] == report.best_step
    model = load_model(path)
    assert model.tokenizer == corpus.tokenizer


@pytest.mark.parametrize("architecture", ["gpt2", "llama"])
def test_a_hugging_face_model_learns_and_keeps_the_best(
    architecture: Any, corpus: Corpus, tmp_path: Path
) -> None:
    pytest.importorskip("transformers")
    settings = replace(TINY, architecture=architecture)
    report = train_baseline(settings, corpus, tmp_path / "model", CPU)
    losses = {step: val for step, _, val in report.curve}
    assert losses[0] == pytest.approx(math.log(corpus.tokenizer.vocab_size), abs=0.2)
    assert report.best_val_loss == min(losses.values()) < losses[0] - 0.5
    model = load_model(tmp_path / "model")
    written = HuggingFace(model.module, tokenizer=None)
    assert estimate(written, settings, corpus.val, CPU) == report.best_val_loss


def test_a_warm_start_is_the_state_inside_the_longer_schedule(
    corpus: Corpus, tmp_path: Path
) -> None:
    one_step = replace(TINY, max_iters=60, stop_at=1)
    train_baseline(one_step, corpus, tmp_path / "one.pt", CPU)
    train_baseline(replace(TINY, stop_at=30), corpus, tmp_path / "a.pt", CPU)
    train_baseline(replace(TINY, stop_at=30, eval_interval=7), corpus, tmp_path / "b.pt", CPU)
    a, b = (torch.load(tmp_path / f"{name}.pt", weights_only=True) for name in "ab")
    assert a["iter_num"] == 30
    assert all(torch.equal(a["model"][k], b["model"][k]) for k in a["model"])
    last = max(a["optimizer"]["param_groups"], key=lambda g: float(g["lr"]))
    assert last["lr"] == pytest.approx(learning_rate(TINY, 29))
    first = torch.load(tmp_path / "one.pt", weights_only=True)
    assert not torch.equal(first["model"]["lm_head.weight"], a["model"]["lm_head.weight"])


def test_checkpoints_are_named_by_their_steps() -> None:
    folder = Path("checkpoints/baseline/models")
    settings = BaselineSettings()
    assert checkpoint_path(settings, Path()) == folder / "baseline_model_2k.pt"
    warm = replace(settings, max_iters=6000, stop_at=3000)
    assert checkpoint_path(warm, Path()) == folder / "baseline_model_3k_of_6k.pt"
    odd = replace(settings, max_iters=1500)
    assert checkpoint_path(odd, Path()) == folder / "baseline_model_1500.pt"
    llama = replace(settings, architecture="llama")
    assert checkpoint_path(llama, Path()) == folder / "baseline_llama_2k"
    gpt2 = replace(warm, architecture="gpt2")
    assert checkpoint_path(gpt2, Path()) == folder / "baseline_gpt2_3k_of_6k"
    pieces = replace(llama, tokenizer="gpt2")
    assert checkpoint_path(pieces, Path()) == folder / "baseline_llama_bpe_2k"
    nanogpt = replace(settings, tokenizer="gpt2")
    assert checkpoint_path(nanogpt, Path()) == folder / "baseline_model_bpe_2k.pt"


def test_a_checkpoint_of_the_other_kind_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="to a file"):
        checkpoint_path(replace(TINY, out=str(tmp_path)), Path())
    for out in ("model.pt", str(tmp_path / "notes.txt")):
        (tmp_path / "notes.txt").touch()
        with pytest.raises(UserError, match="to a folder"):
            checkpoint_path(replace(TINY, architecture="gpt2", out=out), Path())
