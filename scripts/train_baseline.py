"""Train the deterministic baseline. See --help, or `bayesgen baseline --help`."""

import sys

from bayesgen.cli.main import door

if __name__ == "__main__":
    sys.exit(door("baseline"))
