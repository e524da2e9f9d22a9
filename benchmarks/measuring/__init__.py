"""One configuration of a model measured in a process of its own, in turns with others."""
