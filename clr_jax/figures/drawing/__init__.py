"""A figure as data, and its rendering as PNG and CSV files. Computes no number."""
