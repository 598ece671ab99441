"""Command lines: one module per command. Nothing here imports torch before it must."""
