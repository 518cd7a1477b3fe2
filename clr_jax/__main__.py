"""`python -m clr_jax` is `clr-jax`."""

from clr_jax.cli.main import main

if __name__ == '__main__':
  main()
