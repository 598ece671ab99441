"""Learn a prior from pretraining. See --help, or `bayesgen prior learn --help`."""

import sys

from bayesgen.cli.main import run_command

if __name__ == "__main__":
    sys.exit(run_command("prior learn"))
