"""How many modules two walks through the package cross, followed with `sys.setprofile`.

(a) Labelled rows from a file to their scores: `bayesgen evaluate RUN` on a table of 80 rows, of
which the 8 validation rows are scored, with a tiny encoder and a finished run of two draws. Nothing
is cached from an earlier evaluation.
(b) A learning rate from its flag to the update: `bayesgen train --sampler sghmc --learning-rate
0.7` on a tiny nanoGPT, twelve steps.

With --api they start at `bayesgen.evaluate(run)` and `bayesgen.sample(..., learning_rate=0.7)`.

A function counts if its source file lies in the package, lambdas, comprehensions and generators
(each time they resume) included; what dataclasses generate has no file and does not count. Each
walk is taken once before it is followed, so that no import counts.

    modules    files of which at least one function is entered
    moves      times that the next function entered lies in another module than the one before
    calls      calls from one module into another; what lies between (torch, contextlib, ...) is
               skipped: the caller is the nearest function of the package on the stack
    pairs      different (caller's module, module) among the calls
    functions  different ones that are entered
    on the stack   modules of the functions on the stack when `posteriors` is first called to
               update with the learning rate
    until then     modules that were entered up to this call

    python benchmarks/walks.py
    python benchmarks/walks.py --api
    python benchmarks/walks.py --modules     # and how often each module is entered
"""

from __future__ import annotations

import argparse
import contextlib
import io
import os
import random
import shutil
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator
from functools import partial
from importlib.metadata import entry_points
from importlib.util import find_spec
from pathlib import Path
from types import FrameType
from typing import Any

import torch

import bayesgen


def _folder(package: str) -> str:
    spec = find_spec(package)
    assert spec is not None
    return str(Path(str(spec.origin)).parent) + os.sep


# the command as it is installed: what is measured is what a user types
(_INSTALLED,) = entry_points(group="console_scripts", name="bayesgen")
command: Callable[[list[str]], int] = _INSTALLED.load()
PACKAGE, POSTERIORS = _folder("bayesgen"), _folder("posteriors")
ROWS = 80
NOUNS, FILLERS = ("fox", "dog", "oak", "rose"), ("the", "a", "old", "near")
RATE = 0.7
SHORT: dict[str, Any] = {
    "device": "cpu", "warmup_steps": 4, "sampling_steps": 8, "thinning": 4,
    "preconditioner_batches": 3, "batch_size": 4,
}  # fmt: skip
TRAIN = "--device cpu --warmup-steps 4 --sampling-steps 8 --thinning 4 --preconditioner-batches 3"
LABELLED = "--task sequence-classification --model tuned --data rows.tsv --batch-size 8"
BASELINE = "--n-layer 1 --n-head 2 --n-embd 16 --block-size 8 --batch-size 4 --max-iters 5"


class Walk:
    """What was entered while it was the profile function.

    Attributes:
        entered: module -> times that a function of it was entered.
        calls: (caller's module, module) -> calls.
        stack: modules on the stack, innermost last, at the first update.
        before: modules that were entered up to then.
    """

    def __init__(self) -> None:
        self.entered: Counter[str] = Counter()
        self.calls: Counter[tuple[str, str]] = Counter()
        self.functions: set[str] = set()
        self.moves = 0
        self.stack: list[str] = []
        self.before = 0
        self._last: str | None = None

    def __call__(self, frame: FrameType, event: str, _: Any) -> None:
        if event != "call":
            return
        if not self.stack and _updates(frame):
            self.stack = [module for module in map(_module, _above(frame)) if module][::-1]
            self.before = len(self.entered)
        here = _module(frame)
        if here is None:
            return
        self.entered[here] += 1
        self.functions.add(f"{here}.{frame.f_code.co_qualname}")
        self.moves += self._last not in {None, here}
        self._last = here
        caller = next(filter(None, map(_module, _above(frame))), None)
        if caller not in {None, here}:
            self.calls[str(caller), here] += 1

    def report(self, title: str, modules: bool) -> None:
        print(
            f"| {title} | {len(self.entered)} | {self.moves:,} | {self.calls.total():,} |"
            f" {len(self.calls)} | {len(self.functions)} | {len(set(self.stack)) or ''} |"
            f" {self.before or ''} |"
        )
        if modules:
            for module, times in self.entered.most_common():
                print(f"    {times:6,} {module}")
            if self.stack:
                print("    on the stack:", " > ".join(_runs(self.stack)))


def _module(frame: FrameType) -> str | None:
    """The module of a function of the package, by its file."""
    path = frame.f_code.co_filename
    return path[len(PACKAGE) :].removesuffix(".py") if path.startswith(PACKAGE) else None


def _above(frame: FrameType) -> Iterator[FrameType]:
    up = frame.f_back
    while up is not None:
        yield up
        up = up.f_back


def _updates(frame: FrameType) -> bool:
    """Whether it is the update of `posteriors` that moves by the learning rate."""
    code = frame.f_code
    takes = code.co_varnames[: code.co_argcount]
    return code.co_name == "update" and "lr" in takes and code.co_filename.startswith(POSTERIORS)


def _runs(names: list[str]) -> list[str]:
    """`names` without repetitions that follow each other."""
    return [name for i, name in enumerate(names) if i == 0 or name != names[i - 1]]


def followed(run: Callable[[], None]) -> Walk:
    """Follow the second of two times that `run` does the same."""
    run()
    walk = Walk()
    sys.setprofile(walk)
    try:
        run()
    finally:
        sys.setprofile(None)
    return walk


def quietly(words: str) -> None:
    """`bayesgen <words>`, without what it prints.

    Raises:
        RuntimeError: it failed.
    """
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed), contextlib.redirect_stderr(printed):
        code = command(words.split())
    if code:
        raise RuntimeError(printed.getvalue())


def save_encoder(folder: str) -> None:
    """A BERT without a head and a tokenizer that knows the words of `write_rows`."""
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import BertConfig, BertModel, PreTrainedTokenizerFast

    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", *FILLERS, *NOUNS]
    raw = Tokenizer(models.WordLevel({w: i for i, w in enumerate(words)}, unk_token="[UNK]"))
    raw.pre_tokenizer = pre_tokenizers.Whitespace()
    raw.post_processor = processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    PreTrainedTokenizerFast(
        tokenizer_object=raw, pad_token="[PAD]", unk_token="[UNK]", cls_token="[CLS]",
        sep_token="[SEP]",
    ).save_pretrained(folder)  # fmt: skip
    torch.manual_seed(0)
    BertModel(
        BertConfig(
            vocab_size=len(words), hidden_size=16, num_hidden_layers=2, num_attention_heads=2,
            intermediate_size=32, max_position_embeddings=32,
        )
    ).save_pretrained(folder)  # fmt: skip


def write_rows(path: Path) -> None:
    """A table of `ROWS` texts of different lengths, of two classes."""
    draw = random.Random(0)
    lines = ["text\tlabel"]
    for i in range(ROWS):
        words = [NOUNS[i % 4], *draw.choices(FILLERS, k=draw.randint(1, 9))]
        lines.append(f"{' '.join(words)}\t{('animals', 'plants')[i % 4 // 2]}")
    path.write_text("\n".join(lines) + "\n")


def score_rows(api: bool) -> None:
    shutil.rmtree("scored/token_scores", ignore_errors=True)
    if api:
        with contextlib.redirect_stderr(io.StringIO()):
            bayesgen.evaluate(bayesgen.load("scored", device="cpu"))
    else:
        quietly("evaluate scored --device cpu")


def sample(api: bool) -> None:
    shutil.rmtree("sampled", ignore_errors=True)
    if api:
        with contextlib.redirect_stderr(io.StringIO()):
            bayesgen.sample("model.pt", "corpus.txt", out="sampled", learning_rate=RATE, **SHORT)
    else:
        flags = f"--model model.pt --corpus corpus.txt --batch-size 4 --learning-rate {RATE}"
        quietly(f"train --sampler sghmc {TRAIN} {flags} --out sampled")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--modules", action="store_true", help="list the modules of each walk")
    parser.add_argument("--api", action="store_true", help="start at the Python API")
    options = parser.parse_args()
    score, update = partial(score_rows, options.api), partial(sample, options.api)
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder, contextlib.chdir(folder):
        save_encoder("encoder")
        write_rows(Path("rows.tsv"))
        quietly("finetune --model encoder --data rows.tsv --max-steps 4 --device cpu --out tuned")
        quietly(f"train --sampler sghmc {TRAIN} {LABELLED} --out scored")
        Path("corpus.txt").write_text("the cat sat on the mat and the dog ran to the fox. " * 20)
        quietly(f"baseline --corpus corpus.txt {BASELINE} --device cpu --out model.pt")
        print("| walk | modules | moves | calls | pairs | functions | on the stack | until then |")
        print("| --- | --- | --- | --- | --- | --- | --- | --- |")
        followed(score).report(f"{ROWS} labelled rows to their scores", options.modules)
        followed(update).report("a learning rate to the update", options.modules)


if __name__ == "__main__":
    main()
