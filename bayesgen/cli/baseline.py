"""`bayesgen baseline`: train the network that posteriors start from."""

from __future__ import annotations

import time

from bayesgen.cli.command import Command, Given, typed
from bayesgen.config import described
from bayesgen.config.jobs import GPU_RECIPE, BaselineSettings
from bayesgen.errors import UserError
from bayesgen.inference.registry import settings_classes


def _run(given: Given[BaselineSettings]) -> str:
    settings = given.settings
    if settings.architecture == "gpt2" and "bias" in given.flags:
        raise UserError("`bias`: a gpt2 always has biases; leave it out")

    from bayesgen.workflow.baseline import make_baseline

    began = time.monotonic()
    report = make_baseline(settings)
    for step, train, val in report.curve:
        print(f"step {step}: train loss {train:.4f}, val loss {val:.4f}")
    print(
        f"{report.path}: step {report.best_step}, validation loss {report.best_val_loss:.4f}"
        f" ({time.monotonic() - began:.0f} s)"
    )
    return typed("train", "--model", report.path, "--corpus", settings.corpus, "--eval")


def _elsewhere(setting: str) -> str | None:
    of_samplers = any(setting in described(cls) for cls in settings_classes().values())
    return "is a setting of bayesgen train, not of the baseline" if of_samplers else None


COMMAND = Command(
    name="baseline",
    description="Train the deterministic baseline: nanoGPT's recipe, step for step.",
    settings=BaselineSettings,
    run=_run,
    defaults=lambda given: GPU_RECIPE if given.get("recipe") == "gpu" else {},
    preset="CONFIG_BASELINE",
    elsewhere=_elsewhere,
    examples="""
# the built-in corpus, nothing to download
bayesgen baseline
# nanoGPT's GPU recipe (10.65 M parameters)
bayesgen baseline --recipe gpu --corpus shakespeare --device cuda
# a warm start inside a longer schedule, for a sampler to start from
bayesgen baseline --corpus shakespeare --max-iters 6000 --stop-at 3000
# a small Llama over GPT-2's byte pairs, as a Hugging Face model
bayesgen baseline --architecture llama --tokenizer gpt2 --corpus shakespeare
""",
)
