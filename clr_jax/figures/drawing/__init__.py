"""Figures as data, and their rendering as PNG and CSV files."""
