"""From nothing to a posterior and its perplexity, in a few minutes. See --help."""

import sys

from bayesgen.cli.main import run_command

if __name__ == "__main__":
    sys.exit(run_command("quickstart"))
