"""`bayesgen prior`: commands about learned priors."""

from __future__ import annotations

import importlib

from bayesgen.errors import UserError, nearest

COMMANDS = {
    "learn": "continue pretraining and fit a Gaussian to the path of the weights (SWAG)",
    "show": "explain a learned prior: its widths, directions and origin",
    "check": "draw weights from a prior and show what they predict, before any data",
    "import": "make one of published files, or of the state of a SWAG module",
}
"""Name -> one line; the module `prior_<name>` holds `main(argv)`."""

EXAMPLES = """
examples:
  masked words on the texts of a task, and the prior of a classifier of these:
    bayesgen prior learn --model models/all-MiniLM-L6-v2 --task masked-lm --corpus ag_news \\
        --block-size 64 --out checkpoints/priors/news
  one pass over a text and no training (Laplace), for --prior laplace:
    bayesgen train --sampler laplace --corpus python-docs --prior normal --prior-std 0.2 \\
        --out checkpoints/priors/docs
  how wide is it, where, and how was it learned?
    bayesgen prior show checkpoints/priors/news
  the published prior of a ResNet-50, for a ResNet of transformers:
    bayesgen prior import --published priors/resnet50_ssl_prior --rows divided \\
        --model microsoft/resnet-50 --parameters 'resnet.*' --out prior.safetensors

'bayesgen prior COMMAND --help' lists the flags of a command."""


def main(argv: list[str]) -> int:
    if not argv or argv[0] in {"-h", "--help"}:
        print("usage: bayesgen prior COMMAND [flags]\n")
        for name, text in COMMANDS.items():
            print(f"  {name:<12}{text}")
        print(EXAMPLES)
        return 0 if argv else 2
    name, *rest = argv
    if name not in COMMANDS:
        raise UserError(f"unknown command 'prior {name}'{nearest(name, COMMANDS)}")
    module = importlib.import_module(f"bayesgen.cli.prior_{name}")
    code: int = module.main(rest)
    return code
