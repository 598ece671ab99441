"""What a user is meant to read when a command does not finish."""

from __future__ import annotations

import difflib
import re
import signal
import warnings
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

MARKS = ("out of memory", "can't allocate memory", "bad_alloc")
"""What torch's allocators say where no type of exception says it."""


class UserError(Exception):
    """Something that the user can put right.

    The message is one line: what is wrong (naming the setting or the file) and the way out. A
    setting stands in backticks, `batch_size` or `batch_size=4`; the command line makes a flag of
    it, prints the line without a traceback and exits with status 2.
    """


class BayesgenWarning(UserWarning):
    """Something that the user should know, in one line of the same form."""


def warn(message: str) -> None:
    """Issue a `BayesgenWarning`."""
    warnings.warn(message, BayesgenWarning, stacklevel=3)


def as_flags(message: str) -> str:
    """`message` with every setting that it names as a flag: `batch_size=4` is --batch-size 4."""

    def flag(found: re.Match[str]) -> str:
        name, value = found[1].replace("_", "-"), found[2]
        if value in {"True", "False"}:
            return f"--{'' if value == 'True' else 'no-'}{name}"
        return f"--{name}" if value is None else f"--{name} {value}"

    return re.sub(r"`([a-z][a-z0-9_]*)(?:=([^`]*))?`", flag, message)


class Interrupted(Exception):
    """A signal asked the run in `path` to stop; its state after `step` steps was saved."""

    def __init__(self, signum: int, path: Path, step: int) -> None:
        super().__init__(
            f"stopped by {signal.Signals(signum).name} after step {step}; continue with"
            f" `resume='{path}'`"
        )
        self.signum = signum


def nearest(word: str, known: Iterable[str]) -> str:
    """A hint in words, or nothing where no name is near."""
    close = difflib.get_close_matches(word, list(known), n=1)
    return f"; did you mean {close[0]}?" if close else ""


def ran_out(error: BaseException) -> bool:
    """Whether `error` says that the memory of the computer or of an accelerator is full."""
    # torch's own type, without importing it
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
        return True
    return isinstance(error, RuntimeError) and any(mark in str(error) for mark in MARKS)


@contextmanager
def memory_guard(ways_out: str) -> Iterator[None]:
    """Turn what says that memory is full into an error that names `ways_out`.

    Raises:
        UserError: memory ran out.
    """
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        if not ran_out(error):
            raise
        raise UserError(f"out of memory: {ways_out}") from error
