"""What a posterior predicts: a true mixture over its draws, and text from it."""

from bayesgen.predictive.forward import Forward, Precision, scoring_precision
from bayesgen.predictive.generation import GeneratedText, Token
from bayesgen.predictive.predictive import Predictive

__all__ = ["Forward", "GeneratedText", "Precision", "Predictive", "Token", "scoring_precision"]
