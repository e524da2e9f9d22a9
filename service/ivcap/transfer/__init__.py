"""Downloads and uploads: limits of size and time, repeated attempts, no answer that unfolds."""
