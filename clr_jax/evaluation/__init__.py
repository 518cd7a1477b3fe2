"""Evaluation of networks by protocols: features, probes, fine-tuning, attacks, corruptions.

No training of methods, and no figures of what was measured.
"""
