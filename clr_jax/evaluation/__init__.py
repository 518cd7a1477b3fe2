"""Evaluation of frozen features. Each protocol is stamped on the numbers it gives."""
