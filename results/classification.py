"""AG News and SST-2: all-MiniLM-L6-v2 fine-tuned, then a posterior over its weights.

Each seed has its own fine-tune (AdamW by transformers' Trainer: order of the rows and dropout; the
new head starts the same) and its own chain. AG News: 9,001 training rows, 1,000 of its training
file held back for validation, scored on the 7,600 rows of its test file. SST-2: 30,000 of its
60,614 training rows, drawn by seed, a tenth of all held back, scored on the 6,735 rows of its dev
file. The temperature of `temperature_scaled` is fitted on validation rows.

The chain's settings were chosen by validation NLL with seed 1: on AG News the presets; on SST-2,
where the best settings are level within the noise (0.2249 to 0.2254 with --eval-splits val
--eval-max-samples 2500; scaled temperature: 0.2234), the shortest chain of these. Two hotter and
longer ones had been scored on SST-2's test rows before (NLL 0.209, seed 1): its row is not blind.

Other sets of parameters (AG News, seed 1) have the same settings, which were not chosen for them. A
head alone drifts to where its fixed features, fitted to the training rows, make it surer than it
should be; for all 22.7 M parameters T = 0.5 is far too hot, as the opening of the run warns (P T/2N
is 630 nats an observation).

Texts of the other data set are the out-of-distribution ones, against all rows (first seed and first
set of parameters only): AUROC by the mixture's mutual information ("epistemic"), its entropy, and
the network's own entropy and largest probability.

Every fine-tune, run and score is kept under --folder and not made again, so that the command can be
stopped and repeated; --table-only writes the table from what is there.

    python results/classification.py --model models/all-MiniLM-L6-v2 --seeds 1 2 3
    python results/classification.py --model models/all-MiniLM-L6-v2 --seeds 1 --sets ag_news \\
        --parameters "layers=-2:,head" head lora all
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from common import call, finetune, interval, mean_sd, report, sample

TABLE = Path(__file__).with_suffix(".md")
TASK = ("--task", "sequence-classification")
PREDICTORS = ("deterministic", "temperature_scaled", "posterior_mean", "mean_of_draws", "bma")
COLUMNS = ("accuracy", "nll", "ece", "brier")


@dataclass(frozen=True)
class Data:
    """One data set.

    Attributes:
        finetune: flags of the fine-tune.
        chain: flags of the chain, where it is not the presets'.
        split: what is scored.
        far: the data set whose texts are out of distribution.
    """

    name: str
    finetune: tuple[str, ...]
    split: str
    far: str
    chain: tuple[str, ...] = ()


SETS = (
    Data("ag_news", ("--num-train-epochs", "2"), "test", "sst2"),
    Data(
        "sst2", ("--num-train-epochs", "1", "--train-samples", "30000"), "test", "ag_news",
        ("--temperature", "2", "--learning-rate", "0.1", "--warmup-steps", "20",
         "--sampling-steps", "120", "--thinning", "10"),
    ),
)  # fmt: skip


@dataclass(frozen=True)
class Study:
    """What all have in common: the pretrained encoder, where data lie, where results are kept."""

    model: str
    data_dir: str | None
    folder: Path

    def flags(self, data: Data) -> tuple[str, ...]:
        where = () if self.data_dir is None else ("--data-dir", self.data_dir)
        return ("--data", data.name, *where, *TASK)

    def finetuned(self, data: Data, seed: int) -> Path:
        return finetune(
            self.folder / data.name / f"finetuned_{seed}", "--model", self.model,
            *self.flags(data), *data.finetune, "--learning-rate", "1e-4",
            "--per-device-train-batch-size", "32", "--max-length", "64", "--bf16",
            "--seed", str(seed),
        )  # fmt: skip

    def posterior(self, data: Data, seed: int, parameters: str) -> Path:
        samples = data.finetune[-2:] if "--train-samples" in data.finetune else ()
        return sample(
            self.run(data, seed, parameters), "--model", str(self.finetuned(data, seed)),
            *self.flags(data), *samples, *data.chain, "--block-size", "64", "--sampler", "sghmc",
            "--parameters", parameters, "--precision", "bf16", "--seed", str(seed), "--eval",
            "--eval-precision", "bf16",
        )  # fmt: skip

    def outside(self, data: Data, seed: int, parameters: str) -> dict[str, Any] | None:
        """What tells texts of the other data set from the rows of this one."""
        out = self.run(data, seed, parameters)
        for path in sorted(out.glob("bayesian_eval_*[0-9].json")):
            found = json.loads(path.read_text())["splits"].get(data.split, {}).get("ood")
            if found is not None:
                return dict(found["scores"])
        return None

    def evaluate_outside(self, data: Data, seed: int, parameters: str) -> None:
        if self.outside(data, seed, parameters) is None:
            call(
                "evaluate", str(self.run(data, seed, parameters)), "--ood-data", data.far,
                "--eval-precision", "bf16", "--eval-splits", data.split,
            )  # fmt: skip

    def run(self, data: Data, seed: int, parameters: str) -> Path:
        name = "".join(c if c.isalnum() else "_" for c in parameters)
        return self.folder / data.name / f"sghmc_{name}_{seed}"


@dataclass(frozen=True)
class Row:
    """One run: what its evaluation says of the split."""

    seed: int
    report: dict[str, Any]

    def score(self, predictor: str, name: str) -> float:
        return float(self.report["predictors"][predictor][name])


def rows(study: Study, data: Data, seeds: Sequence[int], parameters: str) -> Iterator[Row]:
    for seed in seeds:
        found = report(study.run(data, seed, parameters), data.split)
        if found is not None:
            yield Row(seed, found)


def predictors(found: Sequence[Row]) -> list[str]:
    lines = [
        "| predictor | accuracy | macro-F1 | NLL | ECE | Brier | bma's NLL minus it |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    for name in PREDICTORS:
        columns = [[row.score(name, column) for row in found] for column in COLUMNS]
        f1 = [row.report["macro_f1"].get(name) for row in found]
        columns.insert(1, f1)
        shown = [mean_sd(c) if None not in c else "" for c in columns]
        minus = [row.report["bma_minus"].get(name) for row in found]
        if None not in minus:
            shown.append(", ".join(interval(d) for d in minus))
        else:
            shown.append("")
        lines.append(f"| `{name}` | {' | '.join(shown)} |")
    return lines


def trust(found: Sequence[Row], outside: dict[str, Any] | None) -> list[str]:
    """Accuracy where the least certain fifth is left out, and detection of the other data set."""
    lines = [
        "| ranked by | accuracy at 80 % | OOD AUROC | FPR at 95 % TPR |",
        "| --- | --- | --- | --- |",
    ]
    for name in found[0].report["selective"]:
        kept = [row.report["selective"][name]["accuracy_at_80"]["estimate"] for row in found]
        shown = [mean_sd(kept), "", ""]
        if outside is not None and name in outside:
            far = outside[name]
            shown[1] = "{estimate:.4f} [{low:.4f}, {high:.4f}]".format(**far["auroc"])
            shown[2] = f"{far['fpr95']['estimate']:.3f}"
        lines.append(f"| {name.replace('_', ' ')} | {' | '.join(shown)} |")
    return lines


def table(study: Study, seeds: Sequence[int], kinds: Sequence[str]) -> str:
    lines: list[str] = []
    for data in SETS:
        for parameters in kinds:
            found = list(rows(study, data, seeds, parameters))
            if not found:
                continue
            first = found[0].report
            lines += [
                f"\n## {data.name}, Bayesian parameters: {parameters}\n",
                f"Seeds {', '.join(str(row.seed) for row in found)}; {first['num_tokens']:,} rows;"
                f" {first['num_draws']} draws; mean ± standard deviation over seeds; 95 % intervals"
                " of the difference for each seed.\n",
                *predictors(found), "",
                *trust(found, study.outside(data, seeds[0], parameters)),
            ]  # fmt: skip
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    parser.add_argument("--model", default="sentence-transformers/all-MiniLM-L6-v2")
    parser.add_argument("--data-dir", help="holds the folders ag_news and sst2")
    parser.add_argument("--sets", nargs="+", choices=[d.name for d in SETS], default=[])
    parser.add_argument(
        "--parameters", nargs="+", default=["layers=-2:,head"], help="what is Bayesian"
    )
    parser.add_argument("--folder", type=Path, default=Path("checkpoints/results"))
    parser.add_argument("--table-only", action="store_true", help="only write the table")
    options = parser.parse_args()
    study = Study(options.model, options.data_dir, options.folder)
    if not options.table_only:
        for parameters in options.parameters:
            for seed in options.seeds:
                for data in SETS:
                    if data.name in (options.sets or [data.name]):
                        study.posterior(data, seed, parameters)
                        if (parameters, seed) == (options.parameters[0], options.seeds[0]):
                            study.evaluate_outside(data, seed, parameters)
    text = f"{__doc__}{table(study, options.seeds, options.parameters)}"
    TABLE.write_text(text)
    print(text)


if __name__ == "__main__":
    main()
