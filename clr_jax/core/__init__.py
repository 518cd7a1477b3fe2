"""What every room speaks: errors, shared types, options, registries, storage. No network, no data
set, no training.
"""
