"""Learn a prior from pretraining. See --help, or `bayesgen prior learn --help`."""

import sys

from bayesgen.cli.main import door

if __name__ == "__main__":
    sys.exit(door("prior_learn"))
