"""Score finished runs, side by side. See --help."""

import sys

from bayesgen.cli.main import door

if __name__ == "__main__":
    sys.exit(door("evaluate"))
