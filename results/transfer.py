"""A prior learned from pretraining against isotropic ones, with few labels.

all-MiniLM-L6-v2 goes on with masked words on the texts of the training file, no label read, and
SWAG learns a prior from its path. All arms start at the mean of that path with a new linear head on
the mean-pooled embedding, and move the same parameters with the same number of gradients:

- `adamw`: AdamW without a prior, its weight decay tuned;
- `map_isotropic`, `map_learned`: AdamW on the log posterior, N(μ, σ²) or the learned prior;
- `sghmc_isotropic`, `sghmc_learned`: SGHMC at T = 1 with the same priors, the mixture of its draws.

λ (of the isotropic priors: of σ²) and the weight decay are chosen by validation NLL for each number
of labels, on the first seed; the test rows are looked at once, at the end. Each seed draws its own
labelled rows, the same for all arms.

Every run is kept under --folder and not made again; --table-only writes table and picture from what
is there.

    python results/transfer.py --model models/all-MiniLM-L6-v2 --sets ag_news sst2
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from common import call, report, sample
from scipy import stats

from bayesgen.runs import Run

TABLE = Path(__file__).with_suffix(".md")
PICTURE = Path(__file__).with_suffix(".png")
TASK = ("--task", "sentence-classification")
ARMS = ("adamw", "map_isotropic", "map_learned", "sghmc_isotropic", "sghmc_learned")
SCORES = ("accuracy", "nll", "ece")
BATCH = 16
STEPS = 240
"""Gradients of every run: SGHMC's preconditioner takes 30 of them."""
TEST_ROWS = 2000
WEIGHT_DECAYS = (0.0, 0.1, 1.0, 10.0)
FLAT = ("--prior", "normal", "--prior-std", "1e6")


@dataclass(frozen=True)
class Study:
    """What all runs have in common.

    Attributes:
        parameters: which are Bayesian.
    """

    model: str
    data_dir: str | None
    folder: Path
    parameters: str

    @property
    def where(self) -> tuple[str, ...]:
        return () if self.data_dir is None else ("--data-dir", self.data_dir)

    def upstream(self, data: str) -> Path:
        """Continued pretraining on the texts of `data`: prior and mean."""
        out = self.folder / data / "upstream"
        flags = (
            "--model", self.model, "--task", "masked-lm", "--corpus", data, *self.where,
            "--block-size", "64", "--batch-size", "16", "--learning-rate", "1e-4",
            "--warmup-steps", "400", "--sampling-steps", "400", "--thinning", "20", "--rank", "20",
            "--precision", "bf16", "--validation-every", "100",
        )  # fmt: skip
        if not (out / "run.json").is_file():
            call("prior_learn", *flags, "--out", str(out))
        elif not Run(out).finished:
            call("prior_learn", "--resume", str(out))
        return out

    def flags(self, data: str, labels: int, seed: int) -> tuple[str, ...]:
        return (
            "--model", str(self.upstream(data) / "mean"), "--data", data, *self.where, *TASK,
            "--parameters", self.parameters, "--train-samples", str(labels), "--block-size", "64",
            "--batch-size", str(BATCH), "--precision", "bf16", "--eval-precision", "bf16",
            "--seed", str(seed),
        )  # fmt: skip

    def arm(self, arm: str, data: str, labels: int) -> tuple[str, ...]:
        """Sampler and prior."""
        method, _, prior = arm.partition("_")
        batches = math.ceil(labels / BATCH)
        move = (
            ("--sampler", "sghmc", "--temperature", "1", "--warmup-steps", "60",
             "--sampling-steps", str(STEPS - 90), "--thinning", "15", "--learning-rate", "0.3")
            if method == "sghmc"
            else ("--sampler", "map", "--learning-rate", "2e-4", "--epochs", str(STEPS / batches))
        )  # fmt: skip
        density = {
            "": FLAT,
            "isotropic": ("--prior", "pretrained", "--prior-std", "0.05"),
            "learned": ("--prior", "swag", "--prior-path", str(self.upstream(data))),
        }[prior]
        return (*move, *density, "--head-prior-std", "0.2") if prior else (*move, *density)

    def tuned(self, arm: str, data: str, labels: int) -> tuple[str, ...]:
        """The flag of the strength that validation rows choose."""
        folder = self.folder / data / str(labels)
        flags = (*self.flags(data, labels, 0), *self.arm(arm, data, labels))
        look = ("--eval", "--eval-splits", "val")
        if arm == "adamw":
            found = {}
            for decay in WEIGHT_DECAYS:
                out = folder / f"tune_{arm}_{decay:g}"
                sample(out, *flags, *look, "--weight-decay", str(decay))
                scores = report(out, "val")
                assert scores is not None
                found[decay] = scores["predictors"]["bma"]["nll"]
            return ("--weight-decay", str(min(found, key=lambda decay: found[decay])))
        out = folder / f"tune_{arm}"
        steps = ("--prior-scale", "auto", "--prior-scale-steps", str(STEPS))
        sample(out, *flags, *steps, *look)
        chosen = json.loads((out / "prior_scale.json").read_text())["chosen"]
        return ("--prior-scale", str(chosen))

    def run(self, arm: str, data: str, labels: int, seed: int) -> Path:
        return self.folder / data / str(labels) / f"{arm}_{seed}"

    def score(self, arm: str, data: str, labels: int, seed: int) -> None:
        out = self.run(arm, data, labels, seed)
        if not (out / "run.json").is_file() or not Run(out).finished:
            sample(
                out, *self.flags(data, labels, seed), *self.arm(arm, data, labels),
                *self.tuned(arm, data, labels), "--eval", "--eval-splits", "test",
                "--eval-max-samples", str(TEST_ROWS),
            )  # fmt: skip


@dataclass(frozen=True)
class Cell:
    """One arm with one number of labels: a score for each seed."""

    arm: str
    labels: int
    scores: dict[str, list[float]]

    def interval(self, score: str) -> tuple[float, float]:
        """Mean over seeds, and half the width of its 95 % interval (Student's t)."""
        values = self.scores[score]
        if len(values) < 2:
            return values[0], math.nan
        half = stats.t.ppf(0.975, len(values) - 1) * statistics.stdev(values) / len(values) ** 0.5
        return statistics.mean(values), float(half)


def cells(study: Study, data: str, sizes: Sequence[int], seeds: Sequence[int]) -> Iterator[Cell]:
    for labels in sizes:
        for arm in ARMS:
            found: dict[str, list[float]] = {score: [] for score in SCORES}
            for seed in seeds:
                out = study.run(arm, data, labels, seed)
                scores = report(out, "test") if (out / "run.json").is_file() else None
                for score in SCORES if scores is not None else ():
                    assert scores is not None
                    found[score].append(scores["predictors"]["bma"][score])
            if found["nll"]:
                yield Cell(arm, labels, found)


def table(data: str, found: Sequence[Cell]) -> str:
    lines = [
        f"## {data}\n",
        f"{TEST_ROWS:,} test rows; mean over seeds and its 95 % interval (Student's t).\n",
        "| labels | arm | seeds | accuracy | NLL | ECE |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    for cell in found:
        best = min((c for c in found if c.labels == cell.labels), key=lambda c: c.interval("nll"))
        shown = ["{:.4f} ± {:.4f}".format(*cell.interval(score)) for score in SCORES]
        if cell is best:
            shown[1] = f"**{shown[1]}**"
        count = len(cell.scores["nll"])
        lines.append(f"| {cell.labels} | `{cell.arm}` | {count} | {' | '.join(shown)} |")
    return "\n".join([*lines, ""])


def picture(found: dict[str, list[Cell]]) -> None:
    """NLL and accuracy against the number of labels."""
    import matplotlib

    matplotlib.use("agg")
    from matplotlib import pyplot

    shown = ("nll", "accuracy", "ece")
    figure, axes = pyplot.subplots(
        len(found), len(shown), figsize=(4 * len(shown), 3.4 * len(found)), squeeze=False
    )
    for row, (data, every) in zip(axes, found.items(), strict=True):
        for axis, score in zip(row, shown, strict=True):
            for arm in ARMS:
                mine = [cell for cell in every if cell.arm == arm]
                middle, half = zip(*(cell.interval(score) for cell in mine), strict=True)
                style: dict[str, Any] = {"marker": "o", "capsize": 3, "label": arm}
                style["linestyle"] = "-" if arm.startswith("sghmc") else "--"
                axis.errorbar([cell.labels for cell in mine], middle, yerr=half, **style)
            axis.set(xscale="log", xlabel="labels", ylabel=score, title=data)
    axes[0, 0].legend(fontsize=8)
    figure.tight_layout()
    figure.savefig(PICTURE, dpi=150)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--model", required=True)
    parser.add_argument("--data-dir")
    parser.add_argument("--folder", type=Path, default=Path("checkpoints/results/transfer"))
    parser.add_argument("--sets", nargs="+", default=["ag_news", "sst2"])
    parser.add_argument("--labels", nargs="+", type=int, default=[10, 100, 1000])
    parser.add_argument("--seeds", nargs="+", type=int, default=[1, 2, 3, 4, 5])
    parser.add_argument("--arms", nargs="+", choices=ARMS, default=list(ARMS))
    parser.add_argument("--parameters", default="layers=-2:,head")
    parser.add_argument("--table-only", action="store_true", help="only write table and picture")
    options = parser.parse_args()
    study = Study(options.model, options.data_dir, options.folder, options.parameters)

    if not options.table_only:
        for data in options.sets:
            for labels in options.labels:
                for seed in options.seeds:
                    for arm in options.arms:
                        study.score(arm, data, labels, seed)
    found = {data: list(cells(study, data, options.labels, options.seeds)) for data in options.sets}
    found = {data: every for data, every in found.items() if every}
    tables = [table(data, every) for data, every in found.items()]
    assert __doc__ is not None
    TABLE.write_text("\n".join([__doc__.strip(), "", *tables]))
    picture(found)


if __name__ == "__main__":
    main()
