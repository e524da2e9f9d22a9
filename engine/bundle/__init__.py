"""A stranger's archive becomes a bundle: its files, settings and models."""
