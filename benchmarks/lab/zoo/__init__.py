"""Every model family of PaddleSeg: exported, converted, run in both runtimes, compared; `python -m benchmarks.zoo`."""
