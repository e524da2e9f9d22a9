"""Measure: pytest-benchmark suites over the engine and the command line."""
