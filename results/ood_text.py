"""Out-of-distribution detection: TinyShakespeare's posteriors on Python's documentation.

The networks and runs are those of results/shakespeare.py (the finished start): each sampler's
posterior, and the deterministic network that it started from. In distribution: windows of 64
characters of TinyShakespeare's validation text. Out of distribution: as many windows of Python's
language reference, without the characters that are not in the model's vocabulary. A window's score
is the mean over its tokens. Intervals: percentile bootstrap over windows, 1,000 resamples.

Networks, runs and the scores of every token are kept under --folder and reused.

    python results/ood_text.py --seed 1
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import shakespeare
from common import script

import bayesgen

SAMPLERS = ("sgld", "sghmc", "baoa", "sgnht", "sglrw", "ekf", "laplace", "vi")
OOD = "python-docs"
TABLE = Path(__file__).with_suffix(".md")


def evaluated(run: Path, windows: int) -> dict[str, Any]:
    """The newest evaluation of `run` on this text and so many windows, made if need be."""

    def newest() -> dict[str, Any] | None:
        for path in sorted(run.glob("bayesian_eval_*[0-9].json"), reverse=True):
            content: dict[str, Any] = json.loads(path.read_text())
            other = content.get("ood_corpus", {}).get("name")
            if other == OOD and content["splits"]["val"]["num_windows"] == windows:
                return content
        return None

    content = newest()
    if content is None:
        bayesgen.evaluate(run, ood_corpus=OOD, max_samples=windows)
        content = newest()
    assert content is not None
    return content


def cell(interval: dict[str, float] | None, sign: str = "") -> str:
    if interval is None:
        return "undefined"
    values = (format(interval[k], f"{sign}.3f") for k in ("estimate", "low", "high"))
    return "{} [{}, {}]".format(*values)


def table(folder: Path, seed: int, windows: int) -> str:
    lines = [
        "| sampler | score of a window | AUROC | FPR at 95 % TPR | OOD / validation |"
        " AUROC of epistemic minus it |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    kept = ""
    for sampler in SAMPLERS:
        content = evaluated(folder / f"seed_{seed}" / f"finished_{sampler}", windows)
        found = content["splits"]["val"]["ood"]
        kept = f"{content['ood_corpus']['characters_kept']:.1%}"
        for name, d in found["scores"].items():
            if name.startswith("deterministic") and sampler != SAMPLERS[0]:
                continue  # the same network for all
            who = "(the network)" if name.startswith("deterministic") else sampler
            minus = found["epistemic_minus"].get(name)
            lines.append(
                f"| {who} | {name.removeprefix('bma_').replace('_', ' ')} | {cell(d['auroc'])} |"
                f" {cell(d['fpr95'])} | {cell(d['ratio'])} | {cell(minus, '+') if minus else ''} |"
            )
        minus = found["epistemic_minus"]["deterministic_entropy"]
        lines.append(f"| {sampler} | | | | | {cell(minus, '+')} against the network's entropy |")
    lines.append(f"\n{windows:,} windows of each text; {kept} of {OOD}'s characters kept.")
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--windows", type=int, default=1000)
    parser.add_argument("--folder", type=Path, default=Path("checkpoints/results/shakespeare"))
    options = parser.parse_args()
    start = shakespeare.STARTS[1]
    place = options.folder / f"seed_{options.seed}"
    checkpoint = shakespeare.baseline(start.checkpoint, options.seed, place / "finished.pt")
    for sampler in SAMPLERS:
        shakespeare.posterior(start, sampler, options.seed, place, checkpoint)
    text = f"{__doc__}\n{table(options.folder, options.seed, options.windows)}"
    TABLE.write_text(text)
    print(text)


if __name__ == "__main__":
    script(main)
