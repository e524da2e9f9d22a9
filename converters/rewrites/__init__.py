"""What paddle2onnx cannot express, or expresses wrongly, for every input size."""

from converters.rewrites import (
    diagonal,
    grid_pooling,
    layer_normalization,
    max_unpooling,
    random_numbers,
    sample_convolution,
    transposed_convolution,
)

FINDERS = (
    grid_pooling.find,
    max_unpooling.find,
    transposed_convolution.find,
    layer_normalization.find,
    diagonal.find,
    sample_convolution.find,
    random_numbers.find,
)
