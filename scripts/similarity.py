"""How alike texts are, and how sure the posterior is of it. See --help."""

import sys

from bayesgen.cli.main import run_command

if __name__ == "__main__":
    sys.exit(run_command("similarity"))
