"""What a training step will cost on hardware that is not here, from XLA's compiler for it."""
