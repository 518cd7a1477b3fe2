"""Computations for figures: groups of seeds, distances, projections, loss surfaces."""
