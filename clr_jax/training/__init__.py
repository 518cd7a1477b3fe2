"""The training loop and what surrounds it. The step itself is in `experiment`."""
