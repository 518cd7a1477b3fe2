"""Benchmarks: time of a step, memory, bytes sent, comparison with PyTorch."""
