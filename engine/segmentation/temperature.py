"""The temperature of a network: what its logits are divided by, so that its confidence is the share of right pixels."""

from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Annotated, Final

from pydantic import Field, TypeAdapter

from engine.errors import BundleError
from engine.system.settings_files import SettingsError, read_record
from engine.system.text import json_text

TEMPERATURE_NAME: Final = "temperature.json"
"""The file of a bundle that holds its temperature."""

COLDEST, HOTTEST = 0.05, 20.0


@dataclass(frozen=True, slots=True)
class Temperature:
    """A temperature, and what it was found on."""

    temperature: Annotated[float, Field(ge=COLDEST, le=HOTTEST)]  # above 1 the network was surer than it was right
    fitted_pictures: Annotated[int, Field(ge=1)]  # labelled ones that it was chosen on
    tested_pictures: Annotated[int, Field(ge=1)]  # others, on which the errors were measured
    error_before: Annotated[float, Field(ge=0, le=1)]  # expected calibration error without it
    error_after: Annotated[float, Field(ge=0, le=1)]  # the same with it

    def to_json(self) -> bytes:
        return json_text(_file().dump_python(self, mode="json"), indent=1).encode()


@cache
def _file() -> TypeAdapter[Temperature]:
    return TypeAdapter(Temperature)


def read_temperature(folder: Path) -> Temperature | None:
    """Read the temperature that a bundle carries, if it does.

    BundleError: the file is none: without it, another confidence would be stated in silence.
    """
    path = folder / TEMPERATURE_NAME
    if not path.is_file():
        return None
    try:
        return read_record(path, _file())
    except SettingsError as error:
        raise BundleError(f"{TEMPERATURE_NAME} {error}: remove it, or fit it again with `pseg evaluate`") from error
