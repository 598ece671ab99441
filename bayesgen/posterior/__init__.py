"""Posteriors: draws on disk."""

from bayesgen.posterior.draws import Posterior

__all__ = ["Posterior"]
