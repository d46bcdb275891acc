"""What of each Triton kernel is compiled ahead of time, and its budget: `VARIANTS` of a file per stem (tests/gpu/aot.py)."""
