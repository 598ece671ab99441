"""How alike texts are, and how sure the posterior is of it. See --help."""

import sys

from bayesgen.cli.main import door

if __name__ == "__main__":
    sys.exit(door("similarity"))
