"""`posteriors` and `torchopt`, imported without their warnings.

On a fresh install importing `posteriors` prints dozens of tensordict FutureWarnings that a user can
do nothing about. (What they warn of, default tensors shared by all states of a class, is undone in
`bayesgen.inference.sampler.own`.)
"""

import warnings

with warnings.catch_warnings():
    warnings.simplefilter("ignore", FutureWarning)
    import posteriors
    import torchopt

__all__ = ["posteriors", "torchopt"]
