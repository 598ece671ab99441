"""Posteriors against AdamW on TinyShakespeare, at equal numbers of gradient evaluations.

nanoGPT's CPU model (804,096 parameters). Two starts, each seed with its own networks and batches:

- warm: AdamW stopped after 3,000 steps of a 6,000-step schedule, then 3,000 gradient evaluations of
  a sampler; against AdamW to the end of that schedule.
- finished: a finished 2,000-step recipe, then 2,000 gradient evaluations; against AdamW with a
  4,000-step schedule.

The gradients that the preconditioner is measured with are part of the budget. The presets were
chosen by validation NLL on this corpus with seed 1 and one more; seeds 2 and 3 had no part in it.
(SGLD's step size was raised from 2.0 to 2.5 on seed 1 after a first table of all three.) AdamW has
nanoGPT's settings; its best checkpoint by validation loss is kept.

Every network and run is kept under --folder and reused, so the command can be stopped and repeated;
--table-only writes the table from what is there.

    python results/shakespeare.py --seeds 1 2 3
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from common import PREDICTORS, mean_sd, sample, script
from common import baseline as train_baseline
from safetensors.torch import load_file, save_file

import bayesgen
from bayesgen.config import ChainSettings
from bayesgen.data.corpora import load_corpus
from bayesgen.data.windows import Windows
from bayesgen.evaluation import score_checkpoint
from bayesgen.evaluation.metrics import paired_difference
from bayesgen.runs import Run

CHAINS = ("sgld", "sghmc", "baoa")
OTHERS = ("ekf", "laplace", "vi")
TABLE = Path(__file__).with_suffix(".md")


@dataclass(frozen=True)
class Start:
    """Where chains start, their budget, and the AdamW run of the same budget.

    Attributes:
        checkpoint, adamw: settings of the recipe that trains them.
        budget: gradient evaluations.
    """

    name: str
    checkpoint: Mapping[str, int]
    adamw: Mapping[str, int]
    budget: int


STARTS = (
    Start("warm", {"max_iters": 6000, "stop_at": 3000}, {"max_iters": 6000}, 3000),
    Start("finished", {"max_iters": 2000}, {"max_iters": 4000}, 2000),
)


def baseline(settings: Mapping[str, int], seed: int, path: Path) -> Path:
    """Train a network, or take the one that is there."""
    if not path.is_file():
        # training keeps its best so far under the name it is given: only a finished one counts
        unfinished = path.with_suffix(".unfinished.pt")
        train_baseline(**settings, corpus="shakespeare", seed=seed, out=str(unfinished))
        unfinished.replace(path)
    return path


def posterior(start: Start, sampler: str, seed: int, folder: Path, checkpoint: Path) -> Path:
    """Run a sampler with its preset, or take or continue the run that is there."""
    length: dict[str, Any] = {}
    if sampler not in OTHERS:
        steps = start.budget - ChainSettings.preconditioner_batches
        length = {"warmup_steps": steps * 3 // 4, "sampling_steps": steps - steps * 3 // 4}
    elif sampler == "vi":
        length = {"epochs": 1.53}  # 2,000 steps of 12 windows
    return sample(
        folder / f"{start.name}_{sampler}", model=checkpoint, data="shakespeare",
        sampler=sampler, seed=seed, eval=True, **length,
    )  # fmt: skip


def adamw_nll(checkpoint: Path) -> torch.Tensor:
    """Summed validation NLL of each window [windows], kept beside the checkpoint."""
    kept = checkpoint.with_suffix(".nll.safetensors")
    if not kept.is_file():
        model = bayesgen.load_model(checkpoint)
        corpus = load_corpus("shakespeare", tokenizer=model.tokenizer)
        windows = Windows.tiled(corpus.val, 64, split="val")
        save_file({"nll": score_checkpoint(model, windows).window_nll}, kept)
    return load_file(kept)["nll"]


def run_seed(seed: int, folder: Path) -> None:
    place = folder / f"seed_{seed}"
    for start in STARTS:
        checkpoint = baseline(start.checkpoint, seed, place / f"{start.name}.pt")
        adamw_nll(baseline(start.adamw, seed, place / f"{start.name}_adamw.pt"))
        for sampler in CHAINS:
            posterior(start, sampler, seed, place, checkpoint)
    for sampler in OTHERS:
        posterior(STARTS[1], sampler, seed, place, place / "finished.pt")


@dataclass(frozen=True)
class Row:
    """One sampler from one start with one seed; NLLs in nats per token."""

    start: str
    sampler: str
    seed: int
    adamw: float
    scores: dict[str, float]
    minus: dict[str, dict[str, float]]


def rows(seeds: list[int], folder: Path) -> Iterator[Row]:
    for start in STARTS:
        for sampler in (*CHAINS, *(OTHERS if start.name == "finished" else ())):
            for seed in seeds:
                place = folder / f"seed_{seed}"
                out = place / f"{start.name}_{sampler}"
                if not Run(out).finished:
                    continue
                # the run's own; later ones may be of a part of the split
                evaluation = min(out.glob("bayesian_eval_*[0-9].json"))
                val = json.loads(evaluation.read_text())["splits"]["val"]
                windows = load_file(evaluation.with_suffix(".safetensors"))
                adamw = adamw_nll(place / f"{start.name}_adamw.pt")
                tokens = windows["val.tokens"]
                minus = dict(val["bma_minus"])
                minus["adamw"] = vars(paired_difference(windows["val.bma"], adamw, tokens))
                scores = {name: s["nll"] for name, s in val["predictors"].items()}
                yield Row(
                    start.name, sampler, seed, float(adamw.sum() / tokens.sum()), scores, minus
                )


def table(seeds: list[int], folder: Path) -> str:
    """The table in Markdown: each seed, then mean and standard deviation over the seeds."""
    names = PREDICTORS
    lines = [
        "| start | sampler | seed | AdamW | " + " | ".join(names) + " | bma − AdamW (95 %)"
        " | bma − deterministic | bma − mean_of_draws |",
        "| --- | --- | --- | " + "--- | " * (len(names) + 4),
    ]
    groups: dict[tuple[str, str], list[Row]] = {}
    for row in rows(seeds, folder):
        groups.setdefault((row.start, row.sampler), []).append(row)
    for (start, sampler), group in groups.items():
        for r in group:
            values = [r.adamw, *(r.scores[n] for n in names)]
            shown = " | ".join(f"{v:.4f}" for v in values)
            intervals = " | ".join(
                f"{d['estimate']:+.4f} [{d['low']:+.4f}, {d['high']:+.4f}]"
                for d in (r.minus["adamw"], r.minus["deterministic"], r.minus["mean_of_draws"])
            )
            lines.append(f"| {start} | {sampler} | {r.seed} | {shown} | {intervals} |")
        if len(group) < 2:
            continue
        columns = [[r.adamw for r in group], *([r.scores[n] for r in group] for n in names)]
        columns += [
            [r.minus[n]["estimate"] for r in group]
            for n in ("adamw", "deterministic", "mean_of_draws")
        ]
        shown = " | ".join(f"**{mean_sd(c)}**" for c in columns)
        lines.append(f"| {start} | **{sampler}** | mean ± sd | {shown} |")
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    parser.add_argument("--folder", type=Path, default=Path("checkpoints/results/shakespeare"))
    parser.add_argument("--table-only", action="store_true", help="only write the table")
    options = parser.parse_args()
    if not options.table_only:
        for seed in options.seeds:
            run_seed(seed, options.folder)
    text = f"{__doc__}\n## Validation NLL, nats per token\n\n{table(options.seeds, options.folder)}"
    TABLE.write_text(text)
    print(text)


if __name__ == "__main__":
    script(main)
