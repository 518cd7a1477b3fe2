"""Functions Method -> Method that any method can be trained with, one file for each. What acts
inside a loss is in `plugins`.
"""
