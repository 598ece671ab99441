"""How sharp the loss is in the coordinates that a chain moves, for several preconditioners.

The step size of a chain is limited by the largest eigenvalue of D H D, its progress by the typical
one, with H the Hessian of the mean NLL: at mean D² = 1, a smaller number is a better D. The largest
eigenvalue is found by power iteration on finite differences of the gradient, over a few batches.

    python benchmarks/sharpness.py --model checkpoints/baseline/models/baseline_model_2k.pt
"""

from __future__ import annotations

import argparse

import torch
from torch import Tensor

from bayesgen.data.corpora import load_corpus
from bayesgen.data.windows import RandomWindows
from bayesgen.inference.log_posterior import LogPosterior
from bayesgen.inference.preconditioning import from_second_moments, normalised, squared_gradients
from bayesgen.models import load_model
from bayesgen.priors import normal

HESSIAN_BATCHES = 4
ITERATIONS = 14


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", required=True)
    parser.add_argument("--corpus", default="python-docs")
    parser.add_argument("--batch-size", type=int, default=12)
    parser.add_argument("--batches", type=int, default=30, help="to measure the moments with")
    options = parser.parse_args()

    model = load_model(options.model)
    corpus = load_corpus(options.corpus, tokenizer=model.tokenizer)
    data = RandomWindows(corpus.train, model.block_size or 1024, options.batch_size, seed=0)
    target = LogPosterior(model, normal(model.layout.size, 1.0), data.num_observations)
    moments = squared_gradients(target, model.theta, data, options.batches)

    def gradient(theta: Tensor) -> Tensor:
        total = torch.zeros_like(theta)
        for step in range(HESSIAN_BATCHES):
            total -= target.log_likelihood_grad(theta, data.batch(1000 + step))[1]
        return total / HESSIAN_BATCHES

    def sharpness(scale: Tensor) -> float:
        """The largest eigenvalue of D H D at the loaded weights."""
        direction = torch.randn(scale.shape, generator=torch.Generator().manual_seed(0))
        direction /= direction.norm()
        at_start, eigenvalue = gradient(model.theta), 0.0
        for _ in range(ITERATIONS):
            move = scale * direction
            epsilon = 1e-3 / float(move.norm())
            image = scale * (gradient(model.theta + epsilon * move) - at_start) / epsilon
            eigenvalue = float(direction @ image)
            direction = image / image.norm()
        return eigenvalue

    root = moments.sqrt()
    scales = {"none": torch.ones_like(moments)}
    for damping in (1.0, 0.1, 0.01):
        adam = normalised(1 / (root + damping * root.mean()))
        scales[f"(√v + {damping:g}·mean)^(-1/2), Adam's"] = adam
    for damping in (0.1, 0.01, 0.003):
        scales[f"(v + {damping:g}·mean)^(-1/2), Fisher's"] = from_second_moments(moments, damping)
    print("| D | sharpness at mean D² = 1 | largest D² |")
    print("| --- | --- | --- |")
    for name, scale in scales.items():
        print(
            f"| {name} | {sharpness(scale):.2f} | {float(scale.square().max()):.1f} |", flush=True
        )


if __name__ == "__main__":
    main()
