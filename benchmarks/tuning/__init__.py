"""The fastest configuration within limits, written as a profile."""
