"""The GPU kernels, proven without a GPU: `python tests/gpu/ladder.py` runs every rung."""
