"""A prior learned from pretraining against isotropic ones, where the task has few data.

- `ag_news`, `sst2`: all-MiniLM-L6-v2 is trained further on masked words in the texts of the
  training file, without labels, and SWAG learns a prior from the path of the weights. The task is a
  new linear head on the mean over a text's tokens; its data are a number of labelled rows.
- `shakespeare`: nanoGPT's CPU model is trained on `python-docs`, and SWAG continues from there. The
  task is another text, TinyShakespeare (without the dollar sign, which is not in the network's
  vocabulary), of which it gets a number of windows of 64 characters.

All arms start at the mean of that path, train the same parameters and take the same number of
gradients (except AdamW where it stops early):

- `adamw`: AdamW without a prior; weight decay, step size and when it stops are tuned;
- `map_isotropic`, `map_learned`: AdamW on the log posterior, N(μ, σ²) or the learned prior;
- `swag_isotropic`, `swag_learned`: SWAG with the same priors: as MAP for half of the steps, then at
  a constant step size; the mixture of ten draws from the Gaussian of the second half;
- `sghmc_isotropic`, `sghmc_learned`: SGHMC with the same priors, the mixture of its ten draws.

Everything is chosen by NLL on at most 1,000 validation rows, for each number of rows, with seed 0.
AdamW has nine settings. MAP and SGHMC have seven λ (which multiplies the prior's covariance), up to
three more beyond an end of the grid that is best, and with the best of them three other step sizes
(MAP) or temperatures (SGHMC, at first T = 0.01). SWAG takes MAP's λ and has three step sizes. Fixed
are SGHMC's step size (smaller where the prior alone would make it unstable), σ = 0.05 (times √λ)
and σ = 0.5 for a new head, which gives a logit an sd of about 2 a priori. (Under N(μ, σ² I) without
a head the preconditioner is that of the likelihood alone.) Test rows are scored once, at the end.
Every other seed draws its own training rows, the same for all arms.

With 1,000 labels, each of which is in about two of the 240 batches, SGHMC's step size is too large:
under the priors that are best for MAP a chain leaves the mode (validation NLL above 1), and the λ
that is chosen nearly fixes the encoder. (No arm is bold where one is missing: SWAG, which takes
MAP's λ, was not run with 2,000 windows.) Test rows are not distributed like validation rows: those
of AG News come from another file, those of TinyShakespeare later in the text.

Every run is kept under --folder and reused, and its scores are kept in transfer.json; --table-only
writes table and picture from what is there.

    python results/transfer.py --model models/all-MiniLM-L6-v2
"""

from __future__ import annotations

import argparse
import hashlib
import json
import math
import statistics
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
from common import DATA_DIR, baseline, report, sample, script
from scipy import stats

import bayesgen
from bayesgen.data.corpora import corpus_text
from bayesgen.runs import Run
from bayesgen.runs.files import file_sha256

TABLE = Path(__file__).with_suffix(".md")
PICTURE = Path(__file__).with_suffix(".png")
SCORES = Path(__file__).with_suffix(".json")
ARMS = (
    "adamw", "map_isotropic", "map_learned", "swag_isotropic", "swag_learned", "sghmc_isotropic",
    "sghmc_learned",
)  # fmt: skip
OURS = "swag_learned"
"""What the table compares the others with."""
STEPS = 240
"""Gradients of every run, of which SGHMC's preconditioner takes 30."""
MASKED_HEAD = "cls.predictions.transform*,cls.predictions.bias"
"""Parameters of the head for masked words that are not tied to the word embeddings."""
TEMPERATURES = (0.01, 0.001, 0.1, 1.0)
"""Of SGHMC; λ is chosen with the first."""
FACTORS = (1.0, 3.0, 0.3, 0.1)
"""Step sizes of MAP as multiples of the task's; λ is chosen with the first."""
PATHS = FACTORS[:3]
"""The same of SWAG."""
ADAMW = (
    (1.0, 0.0, 240), (1.0, 10.0, 240), (0.3, 1.0, 240), (0.1, 0.0, 240),
    (1.0, 0.0, 24), (0.3, 0.0, 60), (0.1, 0.0, 60), (0.1, 0.0, 120), (0.03, 0.0, 240),
)  # fmt: skip
"""Step size as a multiple of the task's, weight decay, and steps, fewer to stop early."""
Settings = dict[str, Any]
"""Of `bayesgen.sample`, by name."""


LEARN_PRIOR: Settings = {"validation_every": 100, "num_draws": 1}
"""What `bayesgen prior learn` asks of SWAG."""


@dataclass(frozen=True)
class Task:
    """A task with few data; its repr is a part of the names of folders.

    Attributes:
        scores: what its table shows.
        sizes: numbers of rows (or windows) to learn from.
        rate: AdamW's step size.
        length: tokens of a text, the rest is cut.
    """

    name: str
    scores: tuple[str, ...]
    sizes: tuple[int, ...]
    batch: int
    rate: float
    length: str = "64"


CLASSES = ("accuracy", "nll", "ece")
TASKS = {
    "ag_news": Task("ag_news", CLASSES, (10, 100, 1000), 8, 2e-4, "40"),
    "sst2": Task("sst2", CLASSES, (10, 100, 1000), 8, 2e-4, "32"),
    "shakespeare": Task("shakespeare", ("perplexity", "nll", "ece"), (20, 200, 2000), 12, 1e-3),
}
TEST_ROWS = 1000
VERSION = 3
"""Raised whenever the same settings come to mean another run, so that all are made again."""
PIECE = 300_000
"""Characters of TinyShakespeare for learning and tuning; as many after them are the test."""


@dataclass(frozen=True)
class Study:
    """One task with its upstream model and where results are kept.

    Attributes:
        layers: which are Bayesian, of the encoder.
    """

    task: Task
    model: str
    data_dir: str | None
    folder: Path
    layers: str

    @property
    def text(self) -> bool:
        return self.task.name == "shakespeare"

    @property
    def _precision(self) -> Settings:
        """Of what is scored."""
        return {} if self.text else {"eval_precision": "bf16"}

    def upstream(self) -> Path:
        """Continued pretraining: the prior, and its mean as a model."""
        if self.text:
            self._cut_texts()
            if not self._network.is_file():
                baseline(corpus="python-docs", out=str(self._network))
        return sample(
            self._upstream, **self._learning, **LEARN_PRIOR, sampler="swag",
            model=self._network if self.text else self.model,
            data_dir=None if self.text else self.data_dir,
        )  # fmt: skip

    @property
    def _learning(self) -> Settings:
        """Settings of it that the name of its folder depends on."""
        if self.text:
            return {
                "corpus": "python-docs", "learning_rate": 3e-4, "warmup_steps": 1000,
                "sampling_steps": 1000, "thinning": 25, "rank": 20,
            }  # fmt: skip
        return {
            "task": "masked-lm", "corpus": self.task.name,
            "parameters": f"{self.layers},{MASKED_HEAD}", "block_size": 64, "batch_size": 16,
            "learning_rate": 2e-4, "warmup_steps": 500, "sampling_steps": 500, "thinning": 25,
            "precision": "bf16", "rank": 20,
        }  # fmt: skip

    @cached_property
    def _upstream(self) -> Path:
        """Folder of what was learned from one model in one way."""
        weights = Path(self.model) / "model.safetensors"
        start = "baseline" if self.text else file_sha256(weights)
        return self.folder / self.task.name / f"upstream_{digest(start, words(self._learning))}"

    @property
    def _network(self) -> Path:
        """nanoGPT's CPU model, trained on python-docs."""
        return self.folder / self.task.name / "baseline.pt"

    @property
    def _texts(self) -> tuple[Path, Path]:
        """What is learned from, and the test text."""
        where = self.folder / self.task.name
        return where / f"learn_{PIECE}.txt", where / f"test_{PIECE}.txt"

    def _cut_texts(self) -> None:
        _, text = corpus_text("shakespeare", Path(self.data_dir) if self.data_dir else None)
        text = text.replace("$", "")
        for number, file in enumerate(self._texts):
            if not file.is_file():
                file.parent.mkdir(parents=True, exist_ok=True)
                file.write_text(text[number * PIECE : (number + 1) * PIECE])

    def _data(self, size: int, seed: int) -> Settings:
        mean = self._upstream / ("mean.pt" if self.text else "mean")
        common = {
            "model": mean, "train_samples": size, "seed": seed, "batch_size": self.task.batch,
        }  # fmt: skip
        if self.text:
            return {**common, "corpus": str(self._texts[0])}
        return {
            **common, "data": self.task.name, "data_dir": self.data_dir,
            "task": "sentence-classification", "parameters": f"{self.layers},head",
            "block_size": int(self.task.length), "precision": "bf16",
        }  # fmt: skip

    def _arm(self, arm: str, prior_path: str) -> Settings:
        """Sampler and prior, without what is chosen on validation rows."""
        method, _, prior = arm.partition("_")
        density: Settings = {
            "": {"prior": "normal", "prior_std": 1e6},
            "isotropic": {"prior": "pretrained", "prior_std": 0.05},
            "learned": {"prior": "swag", "prior_path": prior_path},
        }[prior]
        if prior and not self.text:
            density["head_prior_std"] = 0.5
        if method == "swag":
            return {
                "sampler": "swag", "warmup_steps": STEPS // 2, "ramp_fraction": 0.1,
                "sampling_steps": STEPS // 2, "thinning": STEPS // 40, "num_draws": 10, **density,
            }  # fmt: skip
        if method != "sghmc":
            return {"sampler": "map", **density}
        return {
            "sampler": "sghmc", "warmup_steps": 60, "sampling_steps": STEPS - 90, "thinning": 15,
            "learning_rate": 1.0, **density,
        }  # fmt: skip

    def _tuned(self, arm: str, size: int) -> Settings:
        """The settings that validation rows choose."""

        def best(settings: Iterable[Settings]) -> Settings:
            return min(settings, key=lambda chosen: self._nll(arm, size, chosen))

        if arm == "adamw":
            return best(self._adamw(size, *setting) for setting in ADAMW)
        method, _, prior = arm.partition("_")
        if method == "swag":  # on the path of MAP
            scale = self._tuned(f"map_{prior}", size)["prior_scale"]
            rates = [self._rate(factor) for factor in PATHS]
            return best({"learning_rate": rate, "prior_scale": scale} for rate in rates)
        settings: list[Settings]
        if method == "sghmc":
            settings = [{"temperature": temperature} for temperature in TEMPERATURES]
        else:
            settings = [self._adamw(size, factor, 0.0, STEPS) for factor in FACTORS]
        auto = {**settings[0], "prior_scale": "auto", "prior_scale_steps": STEPS}
        found = [self._nll(arm, size, auto)]
        curve = json.loads((self._trial(arm, size, auto) / "prior_scale.json").read_text())
        settings = [{**each, "prior_scale": curve["chosen"]} for each in settings]
        found += [self._nll(arm, size, each) for each in settings[1:]]
        return settings[found.index(min(found))]

    def _trial(self, arm: str, size: int, chosen: Settings) -> Path:
        """Of a run that something is chosen by."""
        short = {"learning_rate", "weight_decay", "temperature"}
        values = (f"{v:g}" if name in short else str(v) for name, v in chosen.items())
        return self._place(arm, size, "_".join(("tune", arm, *values)))

    def _nll(self, arm: str, size: int, chosen: Settings) -> float:
        """Of validation rows, with seed 0."""
        out = self._trial(arm, size, chosen)
        sample(
            out, **self._data(size, 0), **self._arm(arm, str(self._upstream)), **chosen,
            eval=True, eval_splits=("val",), eval_max_samples=1000, **self._precision,
        )  # fmt: skip
        scores = report(out, "val")
        assert scores is not None
        return float(scores["predictors"]["bma"]["nll"])

    def _rate(self, factor: float) -> float:
        """A step size, in the digits that names of folders and tables show."""
        return float(f"{factor * self.task.rate:g}")

    def _adamw(self, size: int, factor: float, decay: float, steps: int) -> Settings:
        epochs = steps / math.ceil(size / self.task.batch)
        return {"learning_rate": self._rate(factor), "weight_decay": decay, "epochs": epochs}

    def protocol(self, arm: str) -> str:
        """Short name of everything that the runs of one method depend on."""
        method = arm.partition("_")[0]
        arms = [words(self._arm(a, "prior")) for a in ARMS if a.startswith(method)]
        temperatures = tuple(f"{t:g}" for t in TEMPERATURES)
        grids = {"adamw": ADAMW, "map": FACTORS, "swag": (*PATHS, *FACTORS), "sghmc": temperatures}
        grid = grids[method]
        return digest(VERSION, self._upstream.name, self.task, STEPS, TEST_ROWS, PIECE, arms, grid)

    def strength(self, arm: str, size: int, seed: int) -> str:
        """What was chosen, as the run was given it."""
        settings = Run(self.run(arm, size, seed)).record().settings
        rate, decay = settings["learning_rate"], settings.get("weight_decay")
        if arm == "adamw":
            steps = round(settings["epochs"] * math.ceil(size / self.task.batch))
            return f"step size {rate:g}, decay {decay:g}, {steps} steps"
        scale = f"λ {float(settings['prior_scale']):g}"
        if not arm.startswith("sghmc"):
            return f"{scale}, step size {rate:g}"
        return f"{scale}, T {settings['temperature']:g}"

    def _place(self, arm: str, size: int, name: str) -> Path:
        """Of a run: those of another protocol lie elsewhere."""
        return self.folder / self.task.name / self.protocol(arm) / str(size) / name

    def run(self, arm: str, size: int, seed: int) -> Path:
        return self._place(arm, size, f"{arm}_{seed}")

    def score(self, arm: str, size: int, seed: int) -> None:
        """Make a run, and score it on the test rows."""
        out = self.run(arm, size, seed)
        if self.result(arm, size, seed) is not None:
            return
        self.upstream()
        test: Settings = {}
        if not self.text:
            test = {
                "eval": True, "eval_splits": ("test",), "eval_max_samples": TEST_ROWS,
                **self._precision,
            }  # fmt: skip
        method = self._arm(arm, str(self._upstream))
        sample(out, **self._data(size, seed), **method, **self._tuned(arm, size), **test)
        if self.text:
            text = self._texts[1]
            bayesgen.evaluate(out, text=text, splits=["val"], max_samples=TEST_ROWS)

    def result(self, arm: str, size: int, seed: int) -> dict[str, Any] | None:
        """What the mixture scores on the test rows; of AdamW and MAP their one set of weights."""
        out = self.run(arm, size, seed)
        if not any(out.glob("bayesian_eval_*[0-9].json")):
            return None
        scores = report(out, "text" if self.text else "test")
        return None if scores is None else dict(scores["predictors"]["bma"])


@dataclass(frozen=True)
class Cell:
    """One arm with one number of data: what was chosen, and the scores of each seed."""

    arm: str
    size: int
    strength: str
    scores: dict[int, dict[str, float]]

    def interval(self, score: str) -> tuple[float, float]:
        """Mean over seeds, and half the width of its 95 % interval."""
        return interval([of[score] for of in self.scores.values()])

    def minus(self, other: Cell, score: str) -> tuple[float, float]:
        """The same of the difference from another arm, seed by seed."""
        both = self.scores.keys() & other.scores.keys()
        return interval([self.scores[seed][score] - other.scores[seed][score] for seed in both])


def words(settings: Settings) -> tuple[str, ...]:
    """`settings` as the command line has them, by which folders have been named from the start."""
    pairs = ((f"--{name.replace('_', '-')}", _word(value)) for name, value in settings.items())
    return tuple(word for pair in pairs for word in pair)


def _word(value: object) -> str:
    if not isinstance(value, float):
        return str(value)
    power = np.format_float_scientific(value, trim="-", exp_digits=1).replace("+", "")
    return min(f"{value:g}", power, key=len)


def digest(*parts: object) -> str:
    """A short name of all of them."""
    return hashlib.sha256(repr(parts).encode()).hexdigest()[:12]


def interval(values: Sequence[float]) -> tuple[float, float]:
    """Mean, and half the width of its 95 % interval (Student's t)."""
    if len(values) < 2:
        return statistics.fmean(values) if values else math.nan, math.nan
    half = stats.t.ppf(0.975, len(values) - 1) * statistics.stdev(values) / len(values) ** 0.5
    return statistics.fmean(values), float(half)


def plus_minus(middle: float, half: float, sign: str = "") -> str:
    """Both as text; of one seed the first alone."""
    return f"{middle:{sign}.4f}" + ("" if math.isnan(half) else f" ± {half:.4f}")


def kept() -> dict[str, list[dict[str, Any]]]:
    """Task -> a record of each run, of all folders so far."""
    return dict(json.loads(SCORES.read_text())) if SCORES.is_file() else {}


def keep(study: Study, seeds: Sequence[int]) -> None:
    """Add the runs of a task; they replace those that were made in another way."""
    every = kept()
    key = ("size", "arm", "seed")
    if not any(study.result(*run) for run in product(ARMS, study.task.sizes, seeds)):
        return
    lines = {
        tuple(line[k] for k in key): line
        for line in every.get(study.task.name, ())
        if line["protocol"] == study.protocol(line["arm"])
    }
    for size, arm, seed in product(study.task.sizes, ARMS, seeds):
        found = study.result(arm, size, seed)
        if found is not None:
            chosen = study.strength(arm, size, seed)
            scores = {score: round(found[score], 6) for score in study.task.scores}
            lines[size, arm, seed] = dict(zip(key, (size, arm, seed), strict=True))
            lines[size, arm, seed] |= {
                "protocol": study.protocol(arm),
                "chosen": chosen,
                **scores,
            }
    every[study.task.name] = list(lines.values())
    SCORES.write_text(json.dumps(every, indent=1) + "\n")


def cells(task: Task, lines: Sequence[dict[str, Any]]) -> Iterator[Cell]:
    for size, arm in product(task.sizes, ARMS):
        mine = [line for line in lines if (line["size"], line["arm"]) == (size, arm)]
        if mine:
            scores = {line["seed"]: {score: line[score] for score in task.scores} for line in mine}
            (chosen,) = {line["chosen"] for line in mine}
            yield Cell(arm, size, chosen, scores)


def table(task: Task, found: Sequence[Cell]) -> str:
    """Of one task."""
    lines = [
        f"## {task.name}\n",
        f"At most {TEST_ROWS:,} test rows; mean over seeds and its 95 % interval (Student's t); the"
        " last column seed by seed.\n",
        f"| rows | arm | chosen | seeds | {' | '.join(task.scores)} | NLL minus `{OURS}`'s |",
        "| --- | --- | --- | --- | --- |" + " --- |" * len(task.scores),
    ]
    for cell in found:
        rivals = [c for c in found if c.size == cell.size]
        best = min(rivals, key=lambda c: c.interval("nll"))
        shown = [plus_minus(*cell.interval(score)) for score in task.scores]
        if cell is best and len(rivals) == len(ARMS):
            place = task.scores.index("nll")
            shown[place] = f"**{shown[place]}**"
        count = str(len(cell.scores))
        ours = [c for c in rivals if c.arm == OURS]
        shown += [plus_minus(*cell.minus(c, "nll"), "+") for c in ours if c is not cell]
        shown += [""] * (len(task.scores) + 1 - len(shown))
        columns = [str(cell.size), f"`{cell.arm}`", cell.strength, count, *shown]
        lines.append(f"| {' | '.join(columns)} |")
    return "\n".join([*lines, ""])


def picture(found: dict[str, list[Cell]]) -> None:
    """Every score against the number of data."""
    import matplotlib

    matplotlib.use("agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(len(found), 3, figsize=(12, 3.4 * len(found)), squeeze=False)
    for row, (name, every) in zip(axes, found.items(), strict=True):
        for axis, score in zip(row, TASKS[name].scores, strict=True):
            for number, arm in enumerate(ARMS):
                mine = [cell for cell in every if cell.arm == arm]
                aside = 1.06 ** (number - len(ARMS) // 2)  # so that all can be seen
                if not mine:
                    continue
                middle, half = zip(*(cell.interval(score) for cell in mine), strict=True)
                axis.errorbar(
                    [aside * cell.size for cell in mine], middle, yerr=half, marker="o", capsize=3,
                    label=arm, linestyle="--" if arm.startswith(("adamw", "map")) else "-",
                )  # fmt: skip
            axis.set(xscale="log", xlabel="training rows", ylabel=score, title=name)
    axes[0, 0].legend(fontsize=8)
    figure.tight_layout()
    figure.savefig(PICTURE, dpi=150)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--model", required=True, help="folder of the encoder")
    parser.add_argument("--data-dir", default=DATA_DIR)
    parser.add_argument("--folder", type=Path, default=Path("checkpoints/results/transfer"))
    parser.add_argument("--tasks", nargs="+", choices=TASKS, default=list(TASKS))
    parser.add_argument("--seeds", nargs="+", type=int, default=[1, 2, 3, 4, 5])
    parser.add_argument("--sizes", nargs="+", type=int, help="only these of its numbers of rows")
    parser.add_argument("--layers", default="layers=-2:", help="of the encoder that are Bayesian")
    parser.add_argument("--table-only", action="store_true", help="only write table and picture")
    options = parser.parse_args()
    studies = {
        name: Study(TASKS[name], options.model, options.data_dir, options.folder, options.layers)
        for name in options.tasks
    }

    for study in () if options.table_only else studies.values():
        for size in study.task.sizes:
            if options.sizes and size not in options.sizes:
                continue
            for seed in options.seeds:
                for arm in ARMS:
                    study.score(arm, size, seed)
    for study in studies.values():
        keep(study, options.seeds)
    lines = kept()
    found = {
        name: list(cells(task, lines[name])) for name, task in TASKS.items() if lines.get(name)
    }
    if not found:
        raise SystemExit(f"no run in '{options.folder}', and none in {SCORES.name}")
    tables = [table(TASKS[name], every) for name, every in found.items()]
    assert __doc__ is not None
    TABLE.write_text("\n".join([__doc__.strip(), "", *tables]))
    picture(found)


if __name__ == "__main__":
    script(main)
