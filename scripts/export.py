"""Save a posterior as a Hugging Face model. See --help."""

import sys

from bayesgen.cli.main import run_command

if __name__ == "__main__":
    sys.exit(run_command("export"))
