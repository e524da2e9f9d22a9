"""How long a transfer may take, how often it is tried, and how large it may be; and how operators set that."""

import math
from collections.abc import Iterator, Mapping, Set
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
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
    first retry; it doubles with each, up to `longest_pause_s`. An answer that says when to come back decides itself, up
    to `answer_s`.
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

    def pause_after(self, headers: Mapping[str, str], usual_s: float) -> float:
        """Choose the pause after an answer that may pass: the usual one, or the longer one that it asks for.

        >>> RetryPolicy().pause_after({"Retry-After": "120"}, 0.5), RetryPolicy().pause_after({}, 0.5)
        (120.0, 0.5)
        """
        return max(usual_s, min(_asked_pause_s(headers.get("Retry-After", "").strip()), self.answer_s))


def _asked_pause_s(retry_after: str) -> float:
    """The seconds that `Retry-After` states as a number or by a date (RFC 9110, 10.2.3); 0 where it states neither."""
    if retry_after.isascii() and retry_after.isdigit():
        return float(retry_after)
    try:
        date = parsedate_to_datetime(retry_after)
    except ValueError:
        return 0
    return (date.replace(tzinfo=date.tzinfo or UTC) - datetime.now(UTC)).total_seconds()


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
    return replace(RetryPolicy(), **numbers_from(environment, _SETTINGS, whole={"retries"}))


def numbers_from(environment: Mapping[str, str], settings: Mapping[str, str], *, whole: Set[str]) -> dict[str, Any]:
    """Read those settings, variable to name, that an environment holds; OptionError as of `number_from`."""
    return {
        name: number_from(variable, environment[variable], whole=name in whole)
        for variable, name in settings.items()
        if variable in environment
    }


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
