"""How an option is declared: once, with its words and its limits.

A group of options is a frozen dataclass derived from `Options`, whose fields are made with `option`. The flags of the
command line and the parameters of orders and jobs are made from these declarations (`service.commands.flags`,
`service.ivcap.parameters`), so that all of them say, allow and refuse the same.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import Field, dataclass, field, fields
from enum import Enum
from functools import cache
from pathlib import Path
from typing import Any, ClassVar, TypeVar, cast, get_args, get_type_hints

from engine.errors import OptionError

_KEY = "declaration"


@dataclass(frozen=True, slots=True)
class Declaration:
    """What is known of an option besides its type and default."""

    text: str
    name: str | None = None  # how users know it, if not by the name of the field
    minimum: float | None = None
    maximum: float | None = None
    above: float | None = None  # every value is larger
    below: float | None = None  # every value is smaller
    excluded: float | None = None  # between the limits, and yet not allowed
    metavar: str | None = None  # how its value is written
    parse: Callable[[str], object] | None = None  # reads the value from text; None: the type itself is enough
    pattern: str | None = None  # regular expression of texts that `parse` takes, for schemas
    repeatable: bool = False  # several values may be given, one by one, and each is read by `parse`
    none: str | None = None  # the word that stands for None

    def problem(self, value: object) -> str | None:
        """Hold a value against the limits, which only numbers have: what is wrong with it, or None.

        >>> Declaration("threads", minimum=1).problem(0)
        '0 is less than 1'
        >>> Declaration("threshold", above=0, below=1).problem(1.5)
        '1.5 is not between 0 and 1'
        """
        if isinstance(value, tuple):
            return next(filter(None, map(self.problem, value)), None)  # pyright: ignore[reportUnknownArgumentType, reportUnknownVariableType]
        if not isinstance(value, int | float) or isinstance(value, bool):
            return None
        if value == self.excluded:
            return f"{value} is not allowed"
        low, high = self.above, self.below
        if low is not None and high is not None and not low < value < high:
            return f"{value} is not between {low:g} and {high:g}"
        if low is not None and not value > low:
            return f"{value} is not more than {low:g}"
        if high is not None and not value < high:
            return f"{value} is not less than {high:g}"
        if self.minimum is not None and not value >= self.minimum:
            return f"{value} is less than {self.minimum:g}"
        if self.maximum is not None and not value <= self.maximum:
            return f"{value} is more than {self.maximum:g}"
        return None


def option(default: Any, text: str, **declared: Any) -> Any:  # noqa: ANN401  (as `dataclasses.field`)
    """Declare a field of a group of options, with attributes of `Declaration`."""
    return field(default=default, metadata={_KEY: Declaration(text, **declared)})


_Number = TypeVar("_Number", int, float)


def numbers(kind: type[_Number], example: str, *, count: int | None = None) -> Callable[[str], tuple[_Number, ...]]:
    """Make a parser of numbers separated by commas, of exactly `count` or of any.

    >>> numbers(int, "3,2,1")("1, 2")
    (1, 2)
    """

    def parse(text: str) -> tuple[_Number, ...]:
        try:
            found = tuple(kind(each) for each in text.split(","))
        except ValueError as error:
            raise ValueError(f"give numbers separated by commas, such as {example}") from error
        if count is not None and len(found) != count:
            raise ValueError(f"give {count} numbers separated by commas, such as {example}")
        return found

    return parse


@dataclass(frozen=True, slots=True)
class Options:
    """Base of the groups of options.

    A value may be given as text, as on the command line: the word of an enumeration, a path, `gpu:1`. It becomes what
    the field holds when the group is made. A value outside its limits is an OptionError that names option, value and
    limit.
    """

    title: ClassVar[str] = "Options"
    """Heading above the options of the group."""

    def __post_init__(self) -> None:
        for each in declared_options(type(self), deep=False):
            given = getattr(self, each.field.name)
            value = _read(each, given)
            if value is not given:
                object.__setattr__(self, each.field.name, value)
            problem = each.declaration.problem(value)
            if problem is not None:
                raise OptionError(problem, option=each.name)

    def values(self) -> dict[str, Any]:
        """List the options of the group and of the groups in it."""
        found: dict[str, Any] = {}
        for name, kind in _field_types(type(self)).items():
            if is_group(kind):
                found |= getattr(self, name).values()
        return found | {each.name: getattr(self, each.field.name) for each in declared_options(type(self), deep=False)}


@dataclass(frozen=True, slots=True)
class DeclaredOption:
    """An option as it was found in a group."""

    name: str  # how users know it
    kind: Any  # type of the field
    field: "Field[Any]"
    declaration: Declaration
    group: type[Options]  # where it was declared

    @property
    def default(self) -> Any:  # noqa: ANN401
        """Of the field; `dataclasses.MISSING` where a value has to be given."""
        return self.field.default

    @property
    def enumeration(self) -> type[Enum] | None:
        """The choices as a type; None where any value may be given."""
        kinds = (self.kind, *get_args(self.kind))
        return next((each for each in kinds if isinstance(each, type) and issubclass(each, Enum)), None)

    @property
    def choices(self) -> tuple[str, ...]:
        """The words that may be given; empty where any value may."""
        kind = None if self.declaration.parse else self.enumeration
        words = tuple(str(each.value) for each in kind or ())
        return words if self.declaration.none is None else (self.declaration.none, *words)


def is_group(kind: Any) -> bool:  # noqa: ANN401
    """Tell a group of options from the type of an option."""
    return isinstance(kind, type) and issubclass(kind, Options)


@cache
def declared_options(group: type[Options], *, deep: bool = True) -> tuple[DeclaredOption, ...]:
    """List the options of a group, and of the groups in it if `deep`, in the order in which they are declared."""
    return tuple(_options_in(group, deep=deep))


def _options_in(group: type[Options], *, deep: bool) -> Iterator[DeclaredOption]:
    kinds = _field_types(group)
    for each in fields(group):
        kind = kinds[each.name]
        if deep and is_group(kind):
            yield from declared_options(kind)
        elif _KEY in each.metadata:
            declaration: Declaration = each.metadata[_KEY]
            yield DeclaredOption(declaration.name or each.name, kind, each, declaration, group)


@cache
def _field_types(group: type[Options]) -> Mapping[str, Any]:
    return get_type_hints(group)


Group = TypeVar("Group", bound=Options)
_Enumeration = TypeVar("_Enumeration", bound=Enum)


def assembled(group: type[Group], values: Mapping[str, Any]) -> Group:
    """Make a group from values that are named as users know them, as text where the declaration has a parser.

    What is absent, None or an empty list keeps its default. OptionError: a value is wrong, or values contradict each
    other.
    """
    kinds = _field_types(group)
    made: dict[str, Any] = {}
    for each in fields(group):
        if is_group(kinds[each.name]):
            made[each.name] = assembled(kinds[each.name], values)
    for each in declared_options(group, deep=False):
        value = values.get(each.name)
        if value is not None and value != []:
            made[each.field.name] = value
    return group(**made)


def enumeration_value(kind: type[_Enumeration], value: _Enumeration | str, *, option: str) -> _Enumeration:
    """Read a member of an enumeration, or the word for it; OptionError lists the choices."""
    try:
        return kind(value)
    except ValueError:
        raise _not_a_choice(value, [str(each.value) for each in kind], option) from None


def _not_a_choice(value: object, choices: Iterable[str], option: str) -> OptionError:
    return OptionError(f"{value} is none of {', '.join(choices)}", option=option)


def _read(declared: DeclaredOption, value: Any) -> Any:  # noqa: ANN401
    told = declared.declaration
    if value is None:
        if type(None) in get_args(declared.kind):
            return None
        raise OptionError("None is not a value of this option: leave it out to have its default", option=declared.name)
    if told.repeatable and isinstance(value, str):
        value = [value]
    if isinstance(value, list):
        given = cast("list[Any]", value)
        if not given and not told.repeatable:
            raise OptionError("the list is empty: leave the option out to have its default", option=declared.name)
        return tuple(_read_text(declared, each) for each in given)
    return None if value == told.none else _read_text(declared, value)


def _read_text(declared: DeclaredOption, value: Any) -> Any:  # noqa: ANN401
    if not isinstance(value, str) or isinstance(value, Enum):
        return value
    if declared.choices and value not in declared.choices:
        raise _not_a_choice(value, declared.choices, declared.name)
    kinds = {declared.kind, *get_args(declared.kind)}
    read = declared.declaration.parse or declared.enumeration or (Path if Path in kinds else None)
    if read is None and str not in kinds and kinds & {int, float, bool}:
        raise OptionError(f"{value!r} is a text; give {_names_of(kinds)}", option=declared.name)
    try:
        return value if read is None else read(value)
    except ValueError as error:
        raise OptionError(f"{value}: {error}", option=declared.name) from error


def _names_of(kinds: Iterable[Any]) -> str:
    words = {bool: "True or False", int: "a whole number", float: "a number"}
    return " or ".join(word for kind, word in words.items() if kind in kinds)
