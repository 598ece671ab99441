"""Work in a process of its own that begins as a copy of this one.

It can be killed, and what it changes stays its own; but nothing is imported again, which for torch
and transformers takes longer than most of what is tested.
"""

from __future__ import annotations

import multiprocessing
import os
import sys
import traceback
from collections.abc import Callable
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import NamedTuple


class Ended(NamedTuple):
    """As of `subprocess.run`: a signal's number is negative."""

    returncode: int
    stdout: str
    stderr: str


def begun(work: Callable[[], int], folder: Path) -> BaseProcess:
    """A process that returns what `work` does, started; it prints to files in `folder`."""

    def inside() -> None:
        os.environ["TOKENIZERS_PARALLELISM"] = "false"  # tokenizers warns of forks otherwise
        for number, name in ((1, "stdout"), (2, "stderr")):
            with (folder / f"{name}.txt").open("w") as file:
                os.dup2(file.fileno(), number)
            setattr(sys, name, os.fdopen(number, "w", buffering=1, closefd=False))
        try:
            code = work()
        except Exception:
            traceback.print_exc()
            code = 1
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)

    process = multiprocessing.get_context("fork").Process(target=inside)
    process.start()
    return process


def ended(work: Callable[[], int], folder: Path) -> Ended:
    """What `work` returns and prints in a process of its own."""
    process = begun(work, folder)
    process.join()
    assert process.exitcode is not None
    said = ((folder / f"{name}.txt").read_text() for name in ("stdout", "stderr"))
    return Ended(process.exitcode, *said)
