"""Triton kernels for the exact head on a GPU, each with the plain PyTorch that it must agree with.

Nothing of the package imports this folder until a head's step runs on a GPU, so Triton is not needed before that.
"""
