"""The front doors: the command line, orders and jobs."""
