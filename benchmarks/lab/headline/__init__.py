"""The figures of docs/benchmarks.md, measured against peers in one run: `python -m benchmarks.lab.headline`."""
