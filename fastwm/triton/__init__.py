"""Triton kernels. Importing one of these files needs the package `triton`, which PyTorch for CUDA brings."""
