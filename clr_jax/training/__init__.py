"""The training loop and its helpers. The train step is in `experiment`."""
