"""transformers and the hub without their own words."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def quiet() -> Iterator[None]:
    """transformers shows no bars and reports of its own: a command has one bar, with the numbers of
    its work, and what a load found is looked at here."""
    from huggingface_hub.utils import logging as hub
    from transformers.utils import logging

    shown, level, hub_level = (
        logging.is_progress_bar_enabled(), logging.get_verbosity(), hub.get_verbosity(),
    )  # fmt: skip
    logging.disable_progress_bar()
    logging.set_verbosity_error()
    hub.set_verbosity_error()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.set_verbosity(level)
        hub.set_verbosity(hub_level)
        if shown:
            logging.enable_progress_bar()
