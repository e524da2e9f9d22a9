"""Every model family of PaddleSeg through `pseg export` and `pseg convert`: `python -m benchmarks.lab.zoo`."""
