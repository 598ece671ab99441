"""Memory that runs out, in one line with the way out."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from bayesgen.errors import UserError

MARKS = ("out of memory", "can't allocate memory", "bad_alloc")
"""What torch's allocators say where no type of exception says it."""


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
