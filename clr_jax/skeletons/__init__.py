"""What methods are built from: networks, target networks, queues, tables. No method itself."""
