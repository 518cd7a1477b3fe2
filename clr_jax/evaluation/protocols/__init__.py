"""One file for each evaluation protocol. What they share is in `evaluation.probing`."""
