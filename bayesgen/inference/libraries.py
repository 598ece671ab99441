"""`posteriors` and `torchopt`, imported without dozens of tensordict's FutureWarnings (what they
warn of, default tensors shared by all states of a class, is undone in `sampler.own`)."""

import warnings

with warnings.catch_warnings():
    warnings.simplefilter("ignore", FutureWarning)
    import posteriors
    import torchopt

__all__ = ["posteriors", "torchopt"]
