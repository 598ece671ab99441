"""`bayesgen prior learn`: a prior from (continued) pretraining, by SWAG.

A run of the sampler `swag` that looks at its validation loss: whatever `train` does, such as resume
and bf16, it does, too.
"""

from __future__ import annotations

from bayesgen.cli.train import Door
from bayesgen.cli.train import main as train

EXAMPLES = """
examples:
  an encoder goes on with masked words on the texts of its task (no label is read), and its path
  becomes the prior of a classifier:
    python scripts/learn_prior.py --model models/all-MiniLM-L6-v2 --task masked-lm \\
        --corpus ag_news --block-size 64 --out checkpoints/priors/news
    python scripts/bayesian_training_script.py --model checkpoints/priors/news/mean \\
        --task sentence-classification --data ag_news --train-samples 100 --prior swag \\
        --prior-path checkpoints/priors/news --prior-scale auto --eval
  a language model:
    python scripts/learn_prior.py --model out/ckpt.pt --corpus shakespeare --rank 30
  stopped by Ctrl-C, a reboot or a kill? It goes on where it was:
    python scripts/learn_prior.py --resume checkpoints/priors/news
  what was learned, in people's units:
    bayesgen prior show checkpoints/priors/news
"""
DOOR = Door(
    "learn_prior.py",
    "Continue pretraining, and fit a Gaussian to the path of the weights: the prior of a later"
    " task. The folder that it leaves holds prior.safetensors, its mean and the best weights as"
    " models, and the run.",
    EXAMPLES,
    "swag",
    {"validation_every": 100, "learning_rate": 1e-4, "num_draws": 1},
)


def main(argv: list[str]) -> int:
    return train(argv, DOOR)
