"""Fine-tune a pretrained model on labelled texts. See --help, or `bayesgen finetune --help`."""

import sys

from bayesgen.cli.main import run_command

if __name__ == "__main__":
    sys.exit(run_command("finetune"))
