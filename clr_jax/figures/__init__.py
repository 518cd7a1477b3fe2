"""Pictures of runs, each with the data behind it."""
