"""Measures a machine: the time of a step and of its parts, memory, bytes sent, and PyTorch beside
it. Trains no run.
"""
