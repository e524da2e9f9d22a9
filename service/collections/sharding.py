"""One of N shares of a collection, for schedulers that start the same command on many machines.

A shard is a pure function of the list, so that machines need not speak with each other: the union of all shards is the
list, and no two of them share an image.
"""

import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from engine import OptionError

_Name = TypeVar("_Name", str, Path)
_MOST_SHARDS = 100_000
_SHARD = re.compile(r"([0-9]{1,9})/([0-9]{1,9})")


@dataclass(frozen=True, slots=True)
class Shard:
    """One share of a collection, from 1 to `count`."""

    index: int
    count: int

    def holds_position(self, position: int) -> bool:
        """Tell whether an image of a list that is known from the start belongs to this shard.

        It is every N-th of the sorted list, from 0: shards differ by one image at most.
        """
        return position % self.count == self.index - 1

    def holds_name(self, name: str) -> bool:
        """Tell whether an image belongs to this shard where nobody knows the list: a queue's.

        It is one name in N, by its SHA-256: the same on every machine, whatever the order of delivery.
        """
        digest = hashlib.sha256(name.encode(errors="surrogateescape")).digest()
        return self.holds_position(int.from_bytes(digest[:8], "big"))

    def __str__(self) -> str:
        return f"{self.index}/{self.count}"


def share_of(items: Sequence[_Name], shard: Shard | None) -> list[_Name]:
    """Take one share of names or paths, all different; None: all.

    It is every N-th of the sorted list, in the order of `items`: that order does not decide what belongs where.

    >>> share_of(["c", "a", "d", "b"], Shard(1, 2))
    ['c', 'a']
    """
    if shard is None:
        return list(items)
    place = {item: position for position, item in enumerate(sorted(items))}
    return [item for item in items if shard.holds_position(place[item])]


def parse_shard(text: str) -> Shard:
    """Read `I/N`; OptionError where it is something else, I is not within 1 to N, or N is above 100 000.

    >>> parse_shard("2/8")
    Shard(index=2, count=8)
    """
    found = _SHARD.fullmatch(text)
    if found is None:
        raise OptionError(f"shard is {text!r}: give I/N, 1/4 for the first of four")
    index, count = int(found[1]), int(found[2])
    if not 1 <= index <= count:
        raise OptionError(f"shard is {text}: the first of N is 1/N and the last N/N")
    if count > _MOST_SHARDS:
        raise OptionError(f"shard is {text}: a collection is cut into {_MOST_SHARDS} shards at most")
    return Shard(index, count)
