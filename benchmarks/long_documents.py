"""Peak memory and seconds of a step on documents of 4,096 tokens: a Longformer of the base size.

Random weights and random words, made on the spot. Each row is a new process that fine-tunes or
calls `bayesgen.sample`; its peak resident size is the operating system's own count. Seconds are CPU
seconds on one core, the difference between a run and one that is a step shorter, so that other
processes matter little. With --data-limit a process may have no more memory of its own than that
(RLIMIT_DATA): the plain row runs out of memory where the checkpointed one finishes.

    python benchmarks/long_documents.py
    python benchmarks/long_documents.py --rows plain checkpointing --only sampling --data-limit 8
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import os
import random
import resource
import shutil
import tempfile
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

WORDS = [f"word{i}" for i in range(200)]
SPECIAL = ["<s>", "<pad>", "</s>", "<unk>"]
CLASSES = 2
MEASURED = 1
"""Steps that are timed."""


Settings = dict[str, Any]


@dataclass(frozen=True)
class Row:
    """One way to take a step.

    Attributes:
        batch: documents that its gradient is the mean of.
        micro: micro-batches that they are split into.
    """

    bf16: bool = False
    checkpointing: bool = False
    batch: int = 1
    micro: int = 1

    def finetune_settings(self) -> Settings:
        return {
            "per_device_train_batch_size": self.batch // self.micro,
            "gradient_accumulation_steps": self.micro, "bf16": self.bf16,
            "gradient_checkpointing": self.checkpointing,
        }  # fmt: skip

    def sampling_settings(self) -> Settings:
        return {
            "batch_size": self.batch, "gradient_accumulation": self.micro,
            "precision": "bf16" if self.bf16 else "fp32",
            "gradient_checkpointing": self.checkpointing,
        }  # fmt: skip


ROWS = {
    "plain": Row(),
    "bf16": Row(bf16=True),
    "checkpointing": Row(checkpointing=True),
    "both": Row(bf16=True, checkpointing=True),
    "batch-2": Row(batch=2),
    "accumulation": Row(batch=2, micro=2),
}
LABELS = {
    "plain": "float32, batch 1",
    "bf16": "bf16",
    "checkpointing": "gradient checkpointing",
    "both": "bf16 and gradient checkpointing",
    "batch-2": "float32, batch 2",
    "accumulation": "float32, batch 2 by accumulation of 2",
}


@dataclass(frozen=True)
class Cost:
    """Of one row: peak in MiB and seconds of a step, or the error that it ended with."""

    peak: float | None = None
    seconds: float | None = None
    error: str | None = None

    def cells(self) -> str:
        if self.peak is None:
            return f"{self.error} | "
        return f"{self.peak:,.0f} | {'' if self.seconds is None else f'{self.seconds:.1f}'}"


@dataclass(frozen=True)
class Bench:
    """Fine-tunes and samples a model on rows in `folder`.

    Attributes:
        length: tokens of a document.
        data_limit: GiB that a process may have of its own; None for no limit.
        timed: whether seconds are measured, which takes a second run of each row.
        parameters: what is Bayesian in the chain.
    """

    folder: Path
    length: int
    data_limit: float | None
    timed: bool
    parameters: str

    def finetune(self, row: Row) -> Cost:
        settings = {
            "max_length": self.length, "per_device_eval_batch_size": 1, **row.finetune_settings(),
        }  # fmt: skip
        return self._cost(finetune, settings, "max_steps", "finetune.json")

    def sampling(self, row: Row) -> Cost:
        settings = {
            "sampler": "sgld", "task": "sequence-classification", "block_size": self.length,
            "preconditioner": "none", "gradient_clip": 0.0, "learning_rate": 1e-6,
            "sampling_steps": 1, "thinning": 1, "parameters": self.parameters,
            **row.sampling_settings(),
        }  # fmt: skip
        return self._cost(sample, settings, "warmup_steps", "sgld_metrics.json")

    def _cost(
        self, call: Callable[[Settings], object], settings: Settings, length: str, result: str
    ) -> Cost:
        """Of a step: the difference that MEASURED further steps make.

        Args:
            length: the setting that is the number of steps.
            result: file of the run that holds its peak.
        """
        ends = []
        for steps in (1, 1 + MEASURED) if self.timed else (1 + MEASURED,):
            out = self.folder / f"out{len(list(self.folder.iterdir()))}"
            began = cpu_seconds()
            error = self._run(call, {**settings, length: steps, "out": str(out)})
            if error is not None:
                return Cost(error=error)
            ends.append(cpu_seconds() - began)
            peak = json.loads((out / result).read_text())["peak_memory_mib"]
            shutil.rmtree(out)
        return Cost(peak, (ends[1] - ends[0]) / MEASURED if self.timed else None)

    def _run(self, call: Callable[[Settings], object], settings: Settings) -> str | None:
        """Call it in a new process; the error that it ended with, if any."""
        spawn = get_context("spawn")
        receiver, sender = spawn.Pipe(duplex=False)
        other = spawn.Process(
            target=in_process, args=(call, settings, self.folder, self.data_limit, sender)
        )
        other.start()
        sender.close()
        try:
            error: str | None = receiver.recv()
        except EOFError:
            error = "ended without a word"
        other.join()
        assert other.exitcode is not None
        return f"killed by signal {-other.exitcode}" if other.exitcode < 0 else error


# a process inherits the peak of the one that starts it: this file imports bayesgen in others only


def finetune(settings: Settings) -> object:
    """One fine-tune of the Longformer."""
    from bayesgen.config.jobs import FinetuneSettings
    from bayesgen.workflow import finetune as finetunes

    chosen = FinetuneSettings(**settings, model="longformer", data="rows", device="cpu")
    return finetunes.finetune(chosen, Path(str(chosen.out)))


def sample(settings: Settings) -> object:
    """One run on the Longformer."""
    import bayesgen

    return bayesgen.sample(**settings, model="longformer", data="rows", device="cpu")


def in_process(
    call: Callable[[Settings], object],
    settings: Settings,
    folder: Path,
    data_limit: float | None,
    sender: Connection,
) -> None:
    """`call` in this process with at most `data_limit` GiB; sends its error, or None."""
    if data_limit is not None:
        size = int(data_limit * 2**30)
        resource.setrlimit(resource.RLIMIT_DATA, (size, size))
    from bayesgen.errors import UserError, ran_out

    error = None
    with contextlib.chdir(folder), contextlib.redirect_stderr(io.StringIO()):
        try:
            call(settings)
        except (UserError, MemoryError, RuntimeError) as raised:
            error = "out of memory" if ran_out(raised) else str(raised)
    sender.send(error)


def cpu_seconds() -> float:
    """Of all processes that this one has started and that have ended."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def save_longformer(folder: Path, layers: int, length: int) -> int:
    """A Longformer with random weights and its tokenizer; how many parameters it has."""
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import (
        LongformerConfig,
        LongformerForSequenceClassification,
        PreTrainedTokenizerFast,
    )

    words = {word: i for i, word in enumerate([*SPECIAL, *WORDS])}
    raw = Tokenizer(models.WordLevel(words, unk_token="<unk>"))
    raw.pre_tokenizer = pre_tokenizers.Whitespace()
    raw.post_processor = processors.BertProcessing(("</s>", 2), ("<s>", 0))
    PreTrainedTokenizerFast(
        tokenizer_object=raw, cls_token="<s>", pad_token="<pad>", sep_token="</s>",
        unk_token="<unk>",
    ).save_pretrained(folder)  # fmt: skip
    # positions count from the one behind the padding's
    config = LongformerConfig(
        num_hidden_layers=layers, max_position_embeddings=length + 2, num_labels=CLASSES
    )
    network = LongformerForSequenceClassification(config)
    network.save_pretrained(folder)
    return sum(p.numel() for p in network.parameters())


def write_documents(folder: Path, length: int) -> None:
    """Documents of at least `length` tokens in two classes, and one to validate on."""
    folder.mkdir()
    draw = random.Random(0)
    for split, count in (("train", 8), ("val", 1)):
        lines = ["text\tlabel"]
        lines += [f"{' '.join(draw.choices(WORDS, k=length))}\t{i % CLASSES}" for i in range(count)]
        (folder / f"{split}.tsv").write_text("\n".join(lines) + "\n")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--layers", type=int, default=12, help="12 is the base size")
    parser.add_argument("--length", type=int, default=4096, help="tokens of a document")
    parser.add_argument("--rows", nargs="+", choices=ROWS, default=list(ROWS))
    parser.add_argument("--only", choices=("finetune", "sampling"), help="one of the two")
    parser.add_argument("--parameters", default="all", help="what is Bayesian in the chain")
    parser.add_argument("--memory-only", action="store_true", help="no seconds: half the time")
    parser.add_argument("--data-limit", type=float, metavar="GIB", help="memory of a process")
    options = parser.parse_args()

    os.environ["OMP_NUM_THREADS"] = "1"  # of the processes that are started
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        with ProcessPoolExecutor(1, get_context("spawn")) as other:
            model = other.submit(
                save_longformer, folder / "longformer", options.layers, options.length
            )
            size = model.result()
        write_documents(folder / "rows", options.length)
        limit = f", {options.data_limit:g} GiB a process" if options.data_limit else ""
        print(
            f"Longformer of {options.layers} layers, {size:,} parameters; documents of"
            f" {options.length:,} tokens{limit}\n"
        )
        bench = Bench(
            folder,
            options.length,
            options.data_limit,
            timed=not options.memory_only,
            parameters=options.parameters,
        )
        steps: dict[str, Callable[[Row], Cost]] = {
            "finetune": bench.finetune,
            "sampling": bench.sampling,
        }
        for name, step in steps.items():
            if options.only in (None, name):
                print(f"| {name} | peak memory, MiB | CPU seconds a step |\n| --- | --- | --- |")
                for row in options.rows:
                    print(f"| {LABELS[row]} | {step(ROWS[row]).cells()} |", flush=True)
                print()


if __name__ == "__main__":
    main()
