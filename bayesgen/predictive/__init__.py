"""What a posterior predicts: a true mixture over its draws, and text from it."""

from bayesgen.predictive.generation import GeneratedText, Token
from bayesgen.predictive.mixture import Forward, Predictive

__all__ = ["Forward", "GeneratedText", "Predictive", "Token"]
