"""From a config to the parts of a run: data, views, method, optimizer, the train step. Runs
nothing.
"""
