"""The command line `clr-jax`: commands, flags, exit codes."""
