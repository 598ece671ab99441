"""The command `bayesgen`: its sub-commands, and what a terminal sees of an error."""

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

from bayesgen.errors import BayesgenWarning, Interrupted, UserError, as_flags, nearest, ran_out

COMMANDS = {
    "train": "sample a posterior over a model's weights, and score it with --eval",
    "evaluate": "score finished runs again, side by side",
    "generate": "write text from a posterior, and show how sure it is of every token",
    "similarity": "how alike texts are, and how sure the posterior is of it",
    "export": "save a posterior as a Hugging Face model, which other tools can use",
    "baseline": "train the deterministic baseline (nanoGPT's recipe)",
    "finetune": "fine-tune a pretrained model on labelled texts",
    "prior learn": "learn a prior: continue pretraining, fit a Gaussian to the path (SWAG)",
    "prior show": "explain a learned prior: its widths, directions and origin",
    "prior check": "draw weights from a prior and show what they predict, before any data",
    "prior import": "make a prior of published files, or of the state of a SWAG module",
    "quickstart": "baseline, SGHMC posterior, scores and a paragraph, in a few minutes",
}
"""Name -> one line. The module of the first word holds a `COMMAND`, or one named by the second."""
FAMILIES = {name.split()[0] for name in COMMANDS if " " in name}
"""First words of commands that have two."""
SMALLER = "lower `batch_size`, `eval_batch_size`, `num_draws` or `num_texts`, if it has one"
"""The way out of full memory where the command itself names no better one."""


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point of `bayesgen COMMAND ...`."""
    words = list(sys.argv[1:] if argv is None else argv)
    if words == ["--version"]:
        from importlib.metadata import version  # which takes a while to import

        print(f"bayesgen {version('bayesgen')}")
        return 0
    if words[:1] == ["help"]:
        words = [*words[1:], "--help"]
    taken = 2 if words and words[0] in FAMILIES else 1
    name, rest = " ".join(words[:taken]), words[taken:]
    if name in COMMANDS:
        return run_command(name, rest)
    family = words[0] if taken == 2 else ""
    last = "" if name == family else words[taken - 1] if words else ""
    if last in {"", "-h", "--help"}:
        print(f"usage: bayesgen {family or 'COMMAND'}{' COMMAND' * bool(family)} [flags]\n")
        for known, text in COMMANDS.items():
            if known.startswith(family):
                print(f"  {known:<14}{text}")
        print("\n'bayesgen COMMAND --help' shows the flags of a command, with examples.")
        return 0 if last else 2
    near = nearest(words[taken - 1], [known.removeprefix(f"{family} ") for known in COMMANDS])
    print(f"error: unknown command '{name}'{near} (see bayesgen --help)", file=sys.stderr)
    return 2


def run_command(name: str, argv: Sequence[str] | None = None) -> int:
    """Run one command as a program: one-line errors with status 2, no traceback."""
    first, *second = name.split()
    module = importlib.import_module(f"bayesgen.cli.{first}")
    command = getattr(module, second[0].upper() if second else "COMMAND")
    return guarded(command, list(sys.argv[1:] if argv is None else argv))


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
        print(f"error: out of memory: {as_flags(SMALLER)}", file=sys.stderr)
        return 2
    except OSError as error:
        if isinstance(error, BrokenPipeError):  # the reader of the pipe has gone
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
