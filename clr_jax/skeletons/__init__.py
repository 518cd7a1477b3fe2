"""Building blocks of methods: networks, target networks, queues, tables."""
