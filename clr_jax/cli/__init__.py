"""The command line `clr-jax`: commands, their flags, exit codes. Computes nothing itself."""
