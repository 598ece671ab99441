"""`bayesgen prior learn`: a prior from (continued) pretraining, by SWAG.

A run of the sampler `swag` that watches its validation loss: whatever `train` does, such as resume
and bf16, it does, too.
"""

from __future__ import annotations

from dataclasses import replace
from functools import partial

from bayesgen.cli.train import COMMAND as TRAIN
from bayesgen.cli.train import RESUME, for_sampler

COMMAND = replace(
    TRAIN,
    name="prior learn",
    description="Continue pretraining, and fit a Gaussian to the path of the weights: the prior of"
    " a later task. The folder holds prior.safetensors, its mean and the best weights as models,"
    " and the run.",
    words={"--resume": RESUME},
    adapt=partial(
        for_sampler,
        only="swag",
        usual={"validation_every": 100, "learning_rate": 1e-4, "num_draws": 1},
    ),
    examples="""
# masked words on the texts of a task (no label is read), then a classifier under that prior
bayesgen prior learn --model models/all-MiniLM-L6-v2 --task masked-lm \\
    --corpus ag_news --block-size 64 --out checkpoints/priors/news
bayesgen train --model checkpoints/priors/news/mean \\
    --task sentence-classification --data ag_news --train-samples 100 --eval \\
    --prior swag --prior-path checkpoints/priors/news --prior-scale auto
# a language model
bayesgen prior learn --model out/ckpt.pt --corpus shakespeare --rank 30
# stopped by Ctrl-C, a reboot or a kill? It continues where it was
bayesgen prior learn --resume checkpoints/priors/news
# what was learned
bayesgen prior show checkpoints/priors/news
""",
)
