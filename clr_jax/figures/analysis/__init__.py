"""The computations behind the figures: groups of seeds, distances, projections, loss surfaces."""
