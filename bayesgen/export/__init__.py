"""A posterior as a model of transformers."""
