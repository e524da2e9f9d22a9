"""`make gpu-check`: whether all that is promised for GPUs holds on the card of this machine."""
