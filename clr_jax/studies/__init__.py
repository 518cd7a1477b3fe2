"""The accuracy tables of the documents against our runs: published numbers, ledger, statistics.

Runs are trained by `clr_jax.cli`; nothing here trains or measures.
"""
