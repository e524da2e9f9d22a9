"""Trainings and published models become bundles."""
