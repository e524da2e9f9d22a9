"""Shards: together they are the list, and no two of them share an image, on whatever machine."""

import random
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine import OptionError
from service.collections.sharding import Shard, parse_shard, share_of
from service.results.runs import list_tasks

counts = st.integers(1, 12)
names = st.lists(st.text(max_size=6), unique=True, max_size=40)
paths = st.lists(
    st.tuples(st.sampled_from("ab"), st.sampled_from(["x", "X", "y", "x-2"]), st.sampled_from([".png", ".jpg"])),
    unique=True,
    max_size=16,
).map(lambda parts: [Path(folder, stem + suffix) for folder, stem, suffix in parts])


def shards(count: int) -> list[Shard]:
    return [Shard(index, count) for index in range(1, count + 1)]


@given(names, counts)
def test_shards_of_a_list_are_disjoint_and_complete(items: list[str], count: int) -> None:
    shares = [share_of(items, shard) for shard in shards(count)]
    assert Counter(item for share in shares for item in share) == Counter(items)
    sizes = [len(share) for share in shares]
    assert max(sizes) - min(sizes) <= 1


@given(names, counts, st.randoms(use_true_random=False))
def test_the_order_of_a_list_does_not_matter(items: list[str], count: int, order: random.Random) -> None:
    shuffled = order.sample(items, len(items))
    for shard in shards(count):
        assert set(share_of(shuffled, shard)) == set(share_of(items, shard))


@given(st.text(), counts)
def test_a_name_belongs_to_one_shard(name: str, count: int) -> None:
    assert sum(shard.holds_name(name) for shard in shards(count)) == 1


def test_names_are_spread_the_same_way_on_every_machine() -> None:
    # by hand: printf %s urn:ivcap:artifact:7 | sha256sum begins with 556c1b3c9e287840, which is 0 modulo 8
    assert [shard.index for shard in shards(8) if shard.holds_name("urn:ivcap:artifact:7")] == [1]
    held = Counter(
        shard.index for number in range(4000) for shard in shards(4) if shard.holds_name(f"urn:ivcap:artifact:{number}")
    )
    assert all(900 < each < 1100 for each in held.values())


@given(paths, counts, st.randoms(use_true_random=False))
def test_stems_of_different_shards_do_not_clash(found: list[Path], count: int, order: random.Random) -> None:
    tasks = [task for shard in shards(count) for _, task in list_tasks(order.sample(found, len(found)), shard).mine]
    assert sorted(task.path for task in tasks) == sorted(found)
    assert len({task.stem.casefold() for task in tasks}) == len(found)


@pytest.mark.parametrize(
    "text", ["0/4", "5/4", "1/0", "0/0", "4", "1/2/3", "a/b", "-1/4", "1/-4", " 1/4", "1.0/4", "", "\u0661/\u0662"]
)
def test_what_is_no_shard_is_refused(text: str) -> None:
    with pytest.raises(OptionError, match="shard is"):
        parse_shard(text)
