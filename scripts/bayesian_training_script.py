"""Sample a posterior over a model's weights. See --help, or `bayesgen train --help`."""

import sys

from bayesgen.cli.main import run_command

if __name__ == "__main__":
    sys.exit(run_command("train"))
