"""The entry points: the command line, orders and jobs."""
