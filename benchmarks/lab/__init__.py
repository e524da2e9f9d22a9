"""The laboratory: what proves the figures of the documentation."""
