"""Sample a posterior over a model's weights. See --help, or `bayesgen train --help`."""

import sys

from bayesgen.cli.main import door

if __name__ == "__main__":
    sys.exit(door("train"))
