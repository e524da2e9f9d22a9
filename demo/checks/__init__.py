"""Checks on rendered scenes, whose truth is known: quality flags, cover, surveys."""
