"""Masks against labels."""
