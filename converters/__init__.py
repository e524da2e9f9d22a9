"""Model in, model out: Paddle programs to ONNX, trained networks to bundles."""
