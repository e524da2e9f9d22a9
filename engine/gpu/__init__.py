"""What TensorRT needs beside a model: ranges of shapes and of values."""
