"""Shared basics of all packages: errors, types, options, registries, storage."""
