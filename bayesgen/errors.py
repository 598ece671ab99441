"""What a user is meant to read when a command does not finish."""

from __future__ import annotations

import difflib
import signal
from collections.abc import Iterable
from pathlib import Path


class UserError(Exception):
    """Something that the user can put right.

    The message is one line: what is wrong (naming the flag or the file) and the way out. Command
    lines print it without a traceback and exit with status 2.
    """


class Interrupted(Exception):
    """A signal asked the run in `path` to stop; its state after `step` steps was saved."""

    def __init__(self, signum: int, path: Path, step: int) -> None:
        super().__init__(
            f"stopped by {signal.Signals(signum).name} after step {step}; continue with"
            f" --resume '{path}'"
        )
        self.signum = signum


def nearest(word: str, known: Iterable[str]) -> str:
    """A hint in words, or nothing where no name is near."""
    close = difflib.get_close_matches(word, list(known), n=1)
    return f"; did you mean {close[0]}?" if close else ""
