"""Measures a machine: the time of a step, memory, bytes sent, PyTorch beside it. Trains no run."""
