"""Array operations and small states from which losses and methods are built."""
