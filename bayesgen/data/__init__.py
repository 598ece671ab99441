"""Text in, batches out: tokenizers, corpora and windows of tokens."""
