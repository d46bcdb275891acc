"""The predictor's layers on a GPU, three kernels each: `qkv`, `attend`, `mlp`; and what goes before and after the layers."""
