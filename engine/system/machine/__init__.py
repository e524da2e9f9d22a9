"""What this machine has: cores, memory and their limits, processors, GPUs."""
