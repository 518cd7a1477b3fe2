"""Stateless and stateful building blocks of losses and methods."""
