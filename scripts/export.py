"""Save a posterior as a Hugging Face model. See --help."""

import sys

from bayesgen.cli.main import door

if __name__ == "__main__":
    sys.exit(door("export"))
