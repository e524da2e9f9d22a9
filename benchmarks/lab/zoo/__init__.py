"""Every model family of PaddleSeg through the commands that a user calls; `python -m benchmarks.lab.zoo`."""
