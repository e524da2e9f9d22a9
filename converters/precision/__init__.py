"""Models of fewer bits: FP16 and INT8."""
