"""The files of a run: config, checkpoints, metrics, results, and their reader."""
