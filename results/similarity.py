"""STS-B: the similarity of two sentences by all-MiniLM-L6-v2, and a posterior over it.

The encoder embeds each sentence as the mean over its tokens; the score of a pair is linear in the
cosine of the two embeddings. It is fine-tuned for two epochs on 5,174 of the training pairs; the
others choose the best epoch and the standard deviation σ of the noise. Then SGHMC samples its last
two blocks. Both are scored on the 1,500 pairs of the dev file. Each seed has its own order of the
pairs and its own chain.

Coverage is the share of labels inside the central intervals of the predicted score.

Every fine-tune and run is kept under --folder and reused; --table-only writes the table from what
is there.

    python results/similarity.py --model models/all-MiniLM-L6-v2 --seeds 1 2 3
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from common import (
    DATA_DIR,
    PREDICTORS,
    finetune,
    interval,
    mean_sd,
    report,
    sample,
    script,
)

TABLE = Path(__file__).with_suffix(".md")
COLUMNS = ("spearman", "pearson", "rmse", "nll", "ece")


def run(folder: Path, seed: int) -> Path:
    return folder / f"sghmc_{seed}"


def posterior(model: str, data_dir: str | None, folder: Path, seed: int) -> None:
    pairs = {"task": "sentence-similarity", "data": "stsb", "data_dir": data_dir, "seed": seed}
    tuned = finetune(
        folder / f"finetuned_{seed}", **pairs, model=model, num_train_epochs=2.0,
        learning_rate=5e-5, per_device_train_batch_size=32, bf16=True,
    )  # fmt: skip
    sample(
        run(folder, seed), **pairs, model=tuned, sampler="sghmc", parameters="layers=-2:",
        precision="bf16", eval=True,
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
    parser.add_argument("--data-dir", default=DATA_DIR, help="holds the folder stsb")
    parser.add_argument("--folder", type=Path, default=Path("checkpoints/results/stsb"))
    parser.add_argument("--table-only", action="store_true", help="only write the table")
    options = parser.parse_args()
    if not options.table_only:
        for seed in options.seeds:
            posterior(options.model, options.data_dir, options.folder, seed)
    found = [r for s in options.seeds if (r := report(run(options.folder, s), "test")) is not None]
    text = f"{__doc__}\n## Scores\n\n{table(found)}\n## Coverage\n\n{coverage(found)}"
    TABLE.write_text(text)
    print(text)


if __name__ == "__main__":
    script(main)
