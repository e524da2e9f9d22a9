"""What paddle2onnx cannot express, or expresses wrongly, for every input size.

Operators are cut out of the program before the conversion and replaced after it (`cutting`); one file per kind says
what stands for them. Two things are changed in the program itself: `same_padding` and `needless_branches`.
"""

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
