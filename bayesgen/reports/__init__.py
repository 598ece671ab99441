"""Tables and summaries."""
