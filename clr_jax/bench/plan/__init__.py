"""Cost of a training step on absent hardware, from XLA's compiler for it."""
