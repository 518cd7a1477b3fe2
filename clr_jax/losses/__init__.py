"""Losses: pure functions of the global batch's embeddings. No Flax, no collectives, no config."""
