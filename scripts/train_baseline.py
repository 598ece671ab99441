"""Train the deterministic baseline. See --help, or `bayesgen baseline --help`."""

import sys

from bayesgen.cli.main import run_command

if __name__ == "__main__":
    sys.exit(run_command("baseline"))
