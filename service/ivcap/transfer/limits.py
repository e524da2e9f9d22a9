"""How long a transfer may take, how often it is tried, and how large it may be; and how operators set that."""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

from engine import EngineError, OptionError


class TransferError(EngineError):
    """An address must not be asked, or its answer must not be taken; to ask again would change nothing."""

    def __init__(self, message: str, address: str) -> None:
        super().__init__(message)
        self.address = address


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """How long a request may take and how often it is repeated.

    `silence_s` is without a byte of the answer, `answer_s` until the whole answer is there. `pause_s` is before the
    first retry; it doubles with each, up to `longest_pause_s`.
    """

    connect_s: float = 10
    silence_s: float = 60
    answer_s: float = 600
    retries: int = 5
    pause_s: float = 0.5
    longest_pause_s: float = 30

    def pauses_s(self) -> Iterator[float]:
        """List the pauses.

        >>> list(RetryPolicy(retries=4, pause_s=1, longest_pause_s=3).pauses_s())
        [1, 2, 3, 3]
        """
        for retry in range(self.retries):
            yield min(self.pause_s * 2**retry, self.longest_pause_s)


_SETTINGS = {
    "PSEG_HTTP_CONNECT_S": "connect_s",
    "PSEG_HTTP_SILENCE_S": "silence_s",
    "PSEG_HTTP_ANSWER_S": "answer_s",
    "PSEG_HTTP_RETRIES": "retries",
    "PSEG_HTTP_PAUSE_S": "pause_s",
}


def retry_policy_from(environment: Mapping[str, str]) -> RetryPolicy:
    """Read the settings of whoever runs the service; OptionError where one is no number, or negative.

    PSEG_HTTP_CONNECT_S, PSEG_HTTP_SILENCE_S, PSEG_HTTP_ANSWER_S, PSEG_HTTP_RETRIES, PSEG_HTTP_PAUSE_S.

    >>> retry_policy_from({"PSEG_HTTP_RETRIES": "2"}).retries
    2
    """
    settings: dict[str, Any] = {}
    for variable, name in _SETTINGS.items():
        if variable in environment:
            settings[name] = number_from(variable, environment[variable], whole=name == "retries")
    return replace(RetryPolicy(), **settings)


def number_from(variable: str, given: str, *, whole: bool) -> float:
    try:
        number = int(given) if whole else float(given)
    except ValueError as error:
        raise OptionError(f"{variable} is {given!r}: give a number") from error
    if not 0 <= number < math.inf:
        raise OptionError(f"{variable} is {given}: it must be a finite number, and not negative")
    return number


@dataclass(frozen=True, slots=True)
class Allowance:
    """How large a body or a file may be, and what to do about a larger one, for messages."""

    most_bytes: int
    advice: str

    def require(self, size_bytes: int, address: str) -> None:
        """Refuse (TransferError) what is larger by what it states of itself, or by what has come of it."""
        if size_bytes > self.most_bytes:
            raise TransferError(
                f"it has more than {self.most_bytes} bytes, the most that is taken: if it is meant to be so large, "
                f"{self.advice}",
                address,
            )


_SIZES = {"image": "PSEG_HTTP_IMAGE_BYTES", "bundle": "PSEG_HTTP_BUNDLE_BYTES", "record": "PSEG_HTTP_RECORD_BYTES"}


@dataclass(frozen=True, slots=True)
class Sizes:
    """The limits of all kinds of bodies; `record` is of what the platform says of artifacts, queues and collections.

    An image of 200 million pixels, the most that is decoded, has 1.6 GB without compression at 16 bits and four bands.
    The weights of the largest PaddleSeg networks stay below 1 GB. 32 MiB of records name half a million artifacts.
    """

    image: Allowance = Allowance(2 << 30, f"raise {_SIZES['image']}")
    bundle: Allowance = Allowance(2 << 30, f"raise {_SIZES['bundle']}")
    record: Allowance = Allowance(32 << 20, f"raise {_SIZES['record']}")


def sizes_from(environment: Mapping[str, str]) -> Sizes:
    """Read the settings of whoever runs the service; OptionError where one is no whole number, or negative.

    >>> sizes_from({"PSEG_HTTP_IMAGE_BYTES": "1000"}).image.most_bytes
    1000
    """
    given = {
        name: Allowance(int(number_from(variable, environment[variable], whole=True)), f"raise {variable}")
        for name, variable in _SIZES.items()
        if variable in environment
    }
    return replace(Sizes(), **given)
