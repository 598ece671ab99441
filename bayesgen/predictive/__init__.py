"""What a posterior predicts: a true mixture over its draws."""

from bayesgen.predictive.mixture import Forward, Predictive

__all__ = ["Forward", "Predictive"]
