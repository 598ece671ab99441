"""Three heads on a frozen sentence encoder, on IMDB, and a posterior over each.

The encoder (by default all-MiniLM-L6-v2) is frozen: each review is embedded once, as the mean over
its first 128 tokens, and only heads are trained on the embeddings. They differ in the width of a
hidden layer (0: none), in dropout and in label smoothing. Each seed has its own order of the rows
and its own dropout; the initial head and the validation rows are the same for all. The best epoch
is that of the lowest validation loss, whose labels are smoothed as in training: compare it only
between heads of the same smoothing.

Then SGHMC samples each head (the encoder is not Bayesian; prior and length of the chain were chosen
by validation NLL with seed 1). The table shows the mixture's scores on the test reviews beside
those of the network that the chain started from, without and with one fitted temperature. The
posterior (prior N(0, 1), T = 0.3) is that of the labels as they are, not smoothed.

Every fine-tune and run is kept under --folder and reused, so the command can be stopped and
repeated; --table-only writes the table from what is there. With --train-samples the table is
printed and not written.

    python results/imdb.py --seeds 1 2 3
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from common import DATA_DIR, finetune, mean_sd, report, sample, script

MAX_LENGTH = 128
TASK = "sentence-classification"
TABLE = Path(__file__).with_suffix(".md")
PREDICTORS = ("deterministic", "temperature_scaled", "bma")
SCORES = ("accuracy", "nll", "ece")


@dataclass(frozen=True)
class Variant:
    """What one head is: width of its hidden layer, dropout, label smoothing."""

    hidden_size: int
    dropout: float
    smoothing: float

    @property
    def name(self) -> str:
        return f"hidden_{self.hidden_size}_dropout_{self.dropout:g}_smoothing_{self.smoothing:g}"

    def cells(self) -> str:
        return f"{self.hidden_size} | {self.dropout:g} | {self.smoothing:g}"


VARIANTS = (Variant(25, 0.1, 0.5), Variant(0, 0.1, 0.0), Variant(25, 0.0, 0.5))


@dataclass(frozen=True)
class Study:
    """What all fine-tunes and runs have in common.

    Attributes:
        data: settings that say which reviews are used.
        folder: where everything is kept.
    """

    model: str
    data: Mapping[str, Any]
    folder: Path

    def place(self, variant: Variant, seed: int) -> Path:
        return self.folder / f"seed_{seed}" / variant.name

    def finetuned(self, variant: Variant, seed: int) -> Path:
        return finetune(
            self.place(variant, seed) / "finetune", **self.data, model=self.model, task=TASK,
            max_length=MAX_LENGTH, freeze=("encoder.*",), head_hidden_size=variant.hidden_size,
            head_dropout=variant.dropout, label_smoothing_factor=variant.smoothing,
            learning_rate=3e-3, num_train_epochs=20.0, per_device_train_batch_size=32, seed=seed,
            eval_test=True,
        )  # fmt: skip

    def posterior(self, variant: Variant, seed: int) -> Path:
        return sample(
            self.place(variant, seed) / "sghmc", **self.data, model=self.finetuned(variant, seed),
            sampler="sghmc", task=TASK, block_size=MAX_LENGTH, parameters="head", prior="normal",
            prior_std=1.0, temperature=0.3, preconditioner_damping=0.01, warmup_steps=1000,
            sampling_steps=3000, thinning=100, seed=seed, eval=True,
        )  # fmt: skip


@dataclass(frozen=True)
class Row:
    """One head with one seed; None where the posterior is not there yet."""

    finetune: dict[str, Any]
    predictors: dict[str, dict[str, float]] | None


def rows(study: Study, variant: Variant, seeds: Sequence[int]) -> Iterator[Row]:
    for seed in seeds:
        place = study.place(variant, seed)
        record = place / "finetune" / "finetune.json"
        if not record.is_file():
            continue
        scored = report(place / "sghmc", "test")
        predictors = None if scored is None else scored["predictors"]
        yield Row(json.loads(record.read_text()), predictors)


def table(study: Study, seeds: Sequence[int]) -> str:
    """Both tables in Markdown: mean ± standard deviation over the seeds."""
    head = "| hidden size | dropout | label smoothing | seeds |"
    heads = [
        f"{head} test accuracy | test macro-F1 | validation loss |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    posteriors = [
        f"{head} predictor | test accuracy | test NLL | test ECE |",
        "| --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for variant in VARIANTS:
        found = list(rows(study, variant, seeds))
        if not found:
            continue
        columns = [[r.finetune["test"][name] for r in found] for name in ("accuracy", "macro_f1")]
        columns.append([r.finetune["best_val_loss"] for r in found])
        shown = " | ".join(mean_sd(column) for column in columns)
        heads.append(f"| {variant.cells()} | {len(found)} | {shown} |")
        sampled = [r.predictors for r in found if r.predictors is not None]
        for name in PREDICTORS if sampled else ():
            shown = " | ".join(mean_sd([p[name][score] for p in sampled]) for score in SCORES)
            posteriors.append(f"| {variant.cells()} | {len(sampled)} | `{name}` | {shown} |")
    return "\n".join(["## Heads\n", *heads, "\n## Posteriors over the heads\n", *posteriors, ""])


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    parser.add_argument("--model", default="sentence-transformers/all-MiniLM-L6-v2")
    parser.add_argument(
        "--data-dir", default=DATA_DIR, help="holds the folder imdb, and keeps the embeddings"
    )
    parser.add_argument("--train-samples", type=int, help="training reviews (default: all)")
    parser.add_argument("--folder", type=Path, default=Path("checkpoints/results/imdb"))
    parser.add_argument("--table-only", action="store_true", help="only write the table")
    options = parser.parse_args()
    samples = options.train_samples
    data = {"data": "imdb", "data_dir": options.data_dir, "train_samples": samples}
    part = "all" if samples is None else f"{samples}_reviews"
    study = Study(options.model, data, options.folder / part)
    if not options.table_only:
        for seed in options.seeds:
            for variant in VARIANTS:
                study.posterior(variant, seed)
    text = f"{__doc__}\n{table(study, options.seeds)}"
    if samples is None:
        TABLE.write_text(text)
    print(text)


if __name__ == "__main__":
    script(main)
