"""Builds the parts of a run from a config: data, views, method, optimizer, the train step."""
