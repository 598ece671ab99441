"""The loop that runs a sampler for days and loses nothing, and what it says before it starts."""
