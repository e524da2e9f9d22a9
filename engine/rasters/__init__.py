"""Georeferenced images, cut into tiles and put together again."""
