"""Evaluation of networks by protocols: features, probes, fine-tuning, attacks, corruptions.

Training of methods and figures of results are elsewhere.
"""
