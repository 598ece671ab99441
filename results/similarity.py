"""STS-B: the similarity of two sentences by all-MiniLM-L6-v2, and a posterior over it.

The encoder embeds each sentence by the mean of its tokens; the score of a pair is a line in the
cosine of the two. It is fine-tuned for two epochs on 5,174 of the training pairs; the others choose
the best epoch and the width σ of the noise. Then SGHMC samples its last two blocks. Both are scored
on the 1,500 pairs of the dev file. Each seed has its own order of the pairs and its own chain.

Coverage is the share of labels inside the central intervals of the predicted score.

Every fine-tune and run is kept under --folder and not made again; --table-only writes the table
from what is there.

    python results/similarity.py --model models/all-MiniLM-L6-v2 --seeds 1 2 3
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from common import finetune, interval, mean_sd, report, sample

TABLE = Path(__file__).with_suffix(".md")
PREDICTORS = ("deterministic", "temperature_scaled", "posterior_mean", "mean_of_draws", "bma")
COLUMNS = ("spearman", "pearson", "rmse", "nll", "ece")


def run(folder: Path, seed: int) -> Path:
    return folder / f"sghmc_{seed}"


def posterior(model: str, data: Sequence[str], folder: Path, seed: int) -> None:
    task = ("--task", "sentence-similarity", "--data", "stsb", *data, "--seed", str(seed))
    tuned = finetune(
        folder / f"finetuned_{seed}", "--model", model, *task, "--num-train-epochs", "2",
        "--learning-rate", "5e-5", "--per-device-train-batch-size", "32", "--bf16",
    )  # fmt: skip
    sample(
        run(folder, seed), "--sampler", "sghmc", "--model", str(tuned), *task,
        "--parameters", "layers=-2:", "--precision", "bf16", "--eval",
    )  # fmt: skip


def table(found: Sequence[dict[str, Any]]) -> str:
    first = found[0]
    lines = [
        f"{first['num_tokens']:,} pairs, {first['num_draws']} draws; mean ± standard deviation over"
        f" {len(found)} seeds; 95 % intervals of bma's NLL minus it, one for each seed.\n",
        "| predictor | Spearman | Pearson | RMSE | NLL | ECE | bma's NLL minus it |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    for name in PREDICTORS:
        each = [r["predictors"][name] for r in found]
        shown = [
            mean_sd([e[c] for e in each]) if None not in [e[c] for e in each] else ""
            for c in COLUMNS
        ]
        minus = [r["bma_minus"].get(name) for r in found]
        shown.append("" if None in minus else ", ".join(interval(d) for d in minus))
        lines.append(f"| `{name}` | {' | '.join(shown)} |")
    return "\n".join([*lines, ""])


def coverage(found: Sequence[dict[str, Any]]) -> str:
    levels = [c["level"] for c in found[0]["coverage"]["bma"]]
    lines = [
        "| predictor | " + " | ".join(f"{level:.0%} interval, width" for level in levels) + " |",
        "| --- " * (len(levels) + 1) + "|",
    ]
    for name in found[0]["coverage"]:
        cells = []
        for i in range(len(levels)):
            each = [r["coverage"][name][i] for r in found]
            kept = mean_sd([100 * c["coverage"] for c in each], 1)
            cells.append(f"{kept} %, {mean_sd([c['width'] for c in each], 2)}")
        lines.append(f"| `{name}` | {' | '.join(cells)} |")
    return "\n".join([*lines, ""])


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    parser.add_argument("--model", default="sentence-transformers/all-MiniLM-L6-v2")
    parser.add_argument("--data-dir", help="holds the folder stsb")
    parser.add_argument("--folder", type=Path, default=Path("checkpoints/results/stsb"))
    parser.add_argument("--table-only", action="store_true", help="only write the table")
    options = parser.parse_args()
    data = () if options.data_dir is None else ("--data-dir", options.data_dir)
    if not options.table_only:
        for seed in options.seeds:
            posterior(options.model, data, options.folder, seed)
    found = [r for s in options.seeds if (r := report(run(options.folder, s), "test")) is not None]
    text = f"{__doc__}\n## Scores\n\n{table(found)}\n## Coverage\n\n{coverage(found)}"
    TABLE.write_text(text)
    print(text)


if __name__ == "__main__":
    main()
