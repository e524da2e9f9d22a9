"""Which operators of a program paddle2onnx knows."""

# Its own list has the names of Paddle 2; a program of Paddle 3 has today's.

from collections.abc import Set

_NAMES_IN_PADDLE_2 = {
    "add": "elementwise_add", "add_n": "sum", "all": "reduce_all", "any": "reduce_any", "arange": "range",
    "argmax": "arg_max", "argmin": "arg_min", "divide": "elementwise_div", "expand": "expand_v2",
    "flatten": "flatten_contiguous_range", "floor_divide": "elementwise_floordiv", "grid_sample": "grid_sampler",
    "hardsigmoid": "hard_sigmoid", "hardswish": "hard_swish", "matmul": "matmul_v2", "max": "reduce_max",
    "maximum": "elementwise_max", "mean": "reduce_mean", "min": "reduce_min", "minimum": "elementwise_min",
    "multiply": "elementwise_mul", "nonzero": "where_index", "numel": "size", "prod": "reduce_prod",
    "remainder": "elementwise_mod", "subtract": "elementwise_sub", "sum": "reduce_sum", "topk": "top_k_v2",
    "unsqueeze": "unsqueeze2",
}  # fmt: skip
_PARTS_OF_EVERY_PROGRAM = frozenset({"combine", "data", "feed", "fetch", "if", "p", "while", "yield"})


def is_known(kind: str, listed: Set[str]) -> bool:
    """Tell whether the converter knows an operator.

    >>> is_known("add", {"elementwise_add"}), is_known("batch_norm_", {"batch_norm"}), is_known("diag", {"eye"})
    (True, True, False)
    """
    plain = kind.rstrip("_")
    names = {kind, plain, _NAMES_IN_PADDLE_2.get(plain, plain)}
    return not listed.isdisjoint(names) or kind in _PARTS_OF_EVERY_PROGRAM
