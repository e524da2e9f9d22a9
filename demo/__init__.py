"""A small trained bundle to try the software with: rendered quadrat scenes, and the training of a network on them."""
