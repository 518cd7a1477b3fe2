"""All that is on disk of a run: config, checkpoints, metrics, results, and the one reader of them.
Computes no metric.
"""
