"""Which rows of a data set train, and which are held back: drawn by seed."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from bayesgen.errors import UserError

VALIDATION = 0.1
"""Default share of the training rows that validates where the data have no rows for that."""


def held_out(
    rows: int, validation: float, seed: int, name: str
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Which of so many rows train and which validate, drawn by `seed`, each in their order.

    Args:
        validation: a share below 1 (of which at least one row comes), or a number of rows.
        name: of the data, for errors.

    Raises:
        UserError: `validation` leaves nothing to train on, or asks for nothing; or there is one
            row.
    """
    if rows < 2:
        raise UserError(
            f"{name}: a single row cannot both train and validate; give at least two, or rows"
            " of their own for validation"
        )
    number = validation
    if 0 < validation < 1:
        number = min(max(1, round(rows * validation)), rows - 1)
    if not (1 <= number < rows and number == int(number)):
        raise UserError(
            f"`validation={validation:g}`: {name} has {rows:,} rows; choose a share below 1 or a"
            f" number from 1 to {rows - 1}"
        )
    order = shuffled(rows, seed, "validation")
    return np.sort(order[int(number) :]), np.sort(order[: int(number)])


def drawn(rows: int, num: int, seed: int, what: str) -> NDArray[np.int64]:
    """Places of `num` of so many rows, drawn without replacement, in their order.

    With the same seed a smaller choice lies within every larger one. Raises UserError, which says
    `what` there is, where there are not so many.
    """
    if not 1 <= num <= rows:
        raise UserError(f"`train_samples={num}`: {what}; choose a number from 1 to {rows}")
    return np.sort(shuffled(rows, seed, "train-samples")[:num])


def shuffled(rows: int, seed: int, purpose: str) -> NDArray[np.int64]:
    """A permutation of `rows` by `seed`; two purposes never share a stream.

    Raises UserError for a negative seed.
    """
    if seed < 0:
        raise UserError(f"`seed={seed}`: choose a number that is not negative")
    stream = np.random.SeedSequence(seed, spawn_key=tuple(purpose.encode()))
    return np.random.default_rng(stream).permutation(rows)
