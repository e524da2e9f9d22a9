"""A declared option is a flag with the same words and limits, and nothing else has to be written for it."""

from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any, ClassVar

import pytest
import typer
from typer.testing import CliRunner

from engine.declaration import Options, numbers, option
from service import cli
from service.commands.flags import with_flags
from service.commands.terminal import ExitStatus


class _Shape(StrEnum):
    ROUND = "round"
    SQUARE = "square"


@dataclass(frozen=True, slots=True)
class _Regions(Options):
    title: ClassVar[str] = "Regions"

    min_region_px: int = option(0, "remove regions of fewer pixels; 0: none", minimum=0)
    shape: _Shape | None = option(None, "of what is kept", none="any")
    weights: tuple[float, ...] = option((1.0,), "of the classes", parse=numbers(float, "0.5,1.0"))
    names: tuple[str, ...] = option((), "what is kept; repeatable", repeatable=True)
    corner: tuple[int, int] | None = option(None, "where it begins", metavar="X Y")


@dataclass(frozen=True, slots=True)
class _Request(Options):
    title: ClassVar[str] = "Running"

    regions: _Regions = _Regions()
    fast: bool = option(False, "less careful", name="quick")


def called(*arguments: str, without: tuple[str, ...] = ()) -> tuple[_Request | None, int, str]:
    """The request that a command gets, its exit status and what it prints."""
    got: list[_Request] = []

    @with_flags(without=without)
    def command(path: Annotated[Path, typer.Argument()], request: _Request, *, loud: bool = False) -> None:
        """Do something."""
        assert path == Path("x")
        assert not loud
        got.append(request)

    app = typer.Typer(add_completion=False)
    app.command()(command)
    result = CliRunner().invoke(app, ["x", *arguments], env={"COLUMNS": "200"})
    return (got[0] if got else None), result.exit_code, result.output


@pytest.mark.parametrize(
    ("arguments", "regions", "fast"),
    [
        ([], {}, False),
        (["--min-region-px", "3", "--quick"], {"min_region_px": 3}, True),
        (["--shape", "square"], {"shape": _Shape.SQUARE}, False),
        (["--shape", "any"], {"shape": None}, False),
        (["--weights", "0.5, 2"], {"weights": (0.5, 2.0)}, False),
        (["--names", "a", "--names", "b,c"], {"names": ("a", "b,c")}, False),
        (["--corner", "3", "4"], {"corner": (3, 4)}, False),
    ],
)
def test_a_flag_reaches_the_field_that_declares_it(arguments: list[str], regions: dict[str, Any], fast: bool) -> None:
    assert called(*arguments)[:2] == (_Request(_Regions(**regions), fast), 0)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--min-region-px", "-1"], "--min-region-px: -1 is less than 0"),
        (["--weights", "heavy"], "--weights: heavy: give numbers separated by commas, such as 0.5,1.0"),
    ],
)
def test_what_its_limits_refuse_ends_the_command_with_the_name_of_the_flag(arguments: list[str], message: str) -> None:
    request, status, output = called(*arguments)
    assert (request, status) == (None, 2)
    assert message in output


def test_help_has_the_words_of_the_declaration_under_the_title_of_its_group() -> None:
    shown = called("--help")[2]
    assert shown.index(" Running ") > shown.index(" Regions ")
    for words in ("--min-region-px", "remove regions of fewer pixels; 0: none", "any|round|square", "X Y", "--quick"):
        assert words in shown


def test_a_command_may_leave_an_option_out() -> None:
    request, status, _ = called("--quick", without=("quick",))
    assert (request, status) == (None, 2)
    assert called(without=("quick", "weights"))[0] == _Request()


def test_what_an_error_says_of_other_options_names_their_flags(tmp_path: Path) -> None:
    words = ["predict", "model.tgz", str(tmp_path), "--tile", "--max-img-size", "900"]
    told = CliRunner().invoke(cli.app, words, catch_exceptions=False)
    assert told.exit_code == ExitStatus.WRONG_REQUEST
    assert "leave --max-img-size out" in told.stderr
