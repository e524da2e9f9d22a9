"""The pytest-benchmark suites of `make bench`."""
