"""The command `bayesgen`: every door as a sub-command."""

from __future__ import annotations

import importlib
import io
import os
import signal
import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from bayesgen.errors import BayesgenWarning, Interrupted, UserError, as_flags, nearest
from bayesgen.workflow.memory import ran_out

COMMANDS = {
    "train": "sample a posterior over a model's weights, and score it with --eval",
    "evaluate": "score finished runs again, side by side",
    "generate": "write text from a posterior, and show how sure it is of every token",
    "similarity": "how alike texts are, and how sure the posterior is of it",
    "export": "save a posterior as a Hugging Face model, which other tools can use",
    "baseline": "train the deterministic baseline (nanoGPT's recipe)",
    "prior": "learn a prior from pretraining, show, import or check one",
    "finetune": "fine-tune a pretrained model on labelled texts",
    "quickstart": "baseline, SGHMC posterior, scores and a paragraph, in a few minutes",
}
"""Name -> one line; the module of the same name holds `main(argv)`."""
SMALLER = "lower --batch-size, --eval-batch-size, --num-draws or --num-texts, whichever it has"
"""The way out of full memory where the command itself names no better one."""


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point of `bayesgen COMMAND ...`."""
    words = list(sys.argv[1:] if argv is None else argv)
    if not words or words[0] in {"-h", "--help"}:
        print("usage: bayesgen COMMAND [flags]\n")
        for name, text in COMMANDS.items():
            print(f"  {name:<12}{text}")
        print("\n'bayesgen COMMAND --help' lists the flags of a command, with examples.")
        return 0 if words else 2
    if words[0] not in COMMANDS:
        print(f"error: unknown command '{words[0]}'{nearest(words[0], COMMANDS)}", file=sys.stderr)
        return 2
    return door(words[0], words[1:])


def door(command: str, argv: Sequence[str] | None = None) -> int:
    """Run one command as a program: one-line errors with status 2, no traceback."""
    module = importlib.import_module(f"bayesgen.cli.{command}")
    return guarded(module.main, list(sys.argv[1:] if argv is None else argv))


def guarded(command: Callable[[list[str]], int], argv: list[str]) -> int:
    try:
        for stream in (sys.stdout, sys.stderr):
            if isinstance(stream, io.TextIOWrapper):
                stream.reconfigure(errors="replace")  # an ASCII terminal shows ? for θ
        load_environment()
        with warnings_in_one_line():
            code = command(argv)
        sys.stdout.flush()
        return code
    except UserError as error:
        print(f"error: {as_flags(str(error))}", file=sys.stderr)
        return 2
    except Interrupted as stop:
        print(as_flags(str(stop)), file=sys.stderr)
        return 128 + stop.signum
    except KeyboardInterrupt:
        print("interrupted: nothing half-written is left; give the command again", file=sys.stderr)
        return 128 + signal.SIGINT
    except (MemoryError, RuntimeError) as error:
        if not ran_out(error):
            raise
        print(f"error: out of memory: {SMALLER}", file=sys.stderr)
        return 2
    except OSError as error:
        if isinstance(error, BrokenPipeError):  # the reader of a pipe left
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            return 128 + signal.SIGPIPE
        where = f" '{error.filename}'" if error.filename else ""
        print(f"error:{where} {error.strerror or error}", file=sys.stderr)
        return 2


@contextmanager
def warnings_in_one_line() -> Iterator[None]:
    """Show what bayesgen warns of as a line that names flags."""
    plain = warnings.showwarning

    def show(message: Warning | str, category: type[Warning], *where: Any, **more: Any) -> None:
        if issubclass(category, BayesgenWarning):
            print(f"warning: {as_flags(str(message))}", file=sys.stderr)
        else:
            plain(message, category, *where, **more)

    with warnings.catch_warnings():
        warnings.simplefilter("always", BayesgenWarning)
        warnings.showwarning = show
        yield


def load_environment() -> None:
    """Variables of `.env` in the working directory, where the environment does not have them."""
    from dotenv import load_dotenv

    try:
        load_dotenv(".env")
    except UnicodeDecodeError as error:
        raise UserError("'.env' is not UTF-8 text; see .env.example") from error


if __name__ == "__main__":
    sys.exit(main())
