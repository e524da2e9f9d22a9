"""Branches that resize a tensor only where its size differs."""

# Resizing to the size that a tensor has changes nothing, so that it can always be done. TensorRT takes no branches
# whose results differ in size.

from converters.rewrites.program import Operation, Program

_RESIZINGS = frozenset({"bilinear_interp", "nearest_interp", "bicubic_interp"})


def drop_needless_branches(program: Program) -> None:
    """Put the resizing in the place of its branch."""
    operations: list[Operation] = []
    for operation in program.operations:
        inside = _resizing(operation, program)
        if inside:
            inside[-1].entry["O"] = operation.entry["O"]
        operations.extend(inside or [operation])
    program.operations = operations


def _resizing(branch: Operation, program: Program) -> list[Operation]:
    """The operators of a branch that resizes unless the size is the wanted one; none if it is something else."""
    if branch.kind != "if" or len(branch.outputs) != 1:
        return []
    taken, otherwise = ([Operation(entry) for entry in block["ops"]] for block in branch.blocks)
    if [each.kind for each in taken[:-1]] not in (["combine", kind] for kind in _RESIZINGS) or len(otherwise) != 1:
        return []
    combine, resizing, _ = taken
    compared = _compared_when_unequal(program.maker(branch.inputs[0]), program)
    sizes = list(zip(combine.inputs, compared, strict=False))
    unchanged = otherwise[0].inputs == resizing.inputs[:1]
    return [combine, resizing] if unchanged and len(compared) == 2 and all(size in pair for size, pair in sizes) else []


def _compared_when_unequal(condition: Operation | None, program: Program) -> list[tuple[int, ...]]:
    """The pairs of numbers of which one is unequal where a condition holds."""
    if condition is None or condition.kind != "logical_or":
        return []
    parts = [program.maker(each) for each in condition.inputs]
    return [each.inputs for each in parts if each is not None and each.kind == "not_equal"]
