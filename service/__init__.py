"""Command line and, later, the IVCAP doors."""
