"""`clr-jax sweep`: a grid of runs, several at once where cores or devices allow."""
