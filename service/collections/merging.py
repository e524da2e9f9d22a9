"""Ledgers of shards -> one: what is done, what failed, what nobody did.

Ledgers are joined only if they tell of the same images, the same bundle and the same options. An image belongs to its
place in the list, so that it is counted once, however many ledgers know it.
"""

import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from service.collections.sharding import Shard, parse_shard
from service.results.ledger import Entry, LedgerContent, begun_ledgers, ledger_path, read_ledger
from service.results.resuming import LedgerError, supersedes
from service.results.runs import mixture
from service.results.totals import totals


@dataclass(frozen=True, slots=True)
class Merged:
    """Several ledgers as one; `content` is not written yet.

    `missing` counts images that no ledger knows; `missing_shards` are those of which no ledger was given, in the
    numbering that the given ones have; `duplicates` are positions of images that ledgers of more than one folder call
    done, `contradictory` those of them whose covers differ.
    """

    content: LedgerContent
    missing: int
    missing_shards: Sequence[Shard]
    duplicates: Sequence[int]
    contradictory: Sequence[int]

    @property
    def complete(self) -> bool:
        return not self.missing and not any(entry.failed for entry in self.content.entries)

    @property
    def mixture(self) -> str | None:
        """In what the making of the masks differs; None where it does not."""
        return mixture([entry.record["provenance"] for entry in self.content.entries if not entry.failed])

    def summary(self) -> dict[str, Any]:
        """Sum up as JSON values: `totals`, and what is missing."""
        return {
            **totals([entry.record for entry in self.content.entries], self.content.run.images),
            "missing_shards": [str(shard) for shard in self.missing_shards],
            "duplicates": len(self.duplicates),
            "contradictory": len(self.contradictory),
            "bundle": self.content.run.bundle,
            "options": dict(self.content.run.options),
        }


def find_ledgers(places: Sequence[Path]) -> list[Path]:
    """Find the ledgers that files and folders name; LedgerError where a folder holds none.

    Of a folder the ledgers of shards are taken, and that of a whole run, which may hold what was done after a merge.
    """
    found: list[Path] = []
    for place in places:
        if not place.is_dir():
            # A link that is named is followed, to where the pictures lie; one that lies in a folder is not.
            found.append(place.resolve() if place.is_symlink() else place)
            continue
        found += begun_ledgers(place)
    return list(dict.fromkeys(found))


def merge_ledgers(paths: Sequence[Path], out: Path) -> Merged:
    """Join ledgers, at least one, and find what is missing or there twice.

    `out` is the folder that the joined ledger is meant for: it names pictures as seen from there. The ledger of a whole
    run that is there already (an earlier merge, and what was done after it) is joined, too. Raises LedgerError where
    one cannot be read, or they do not belong together.
    """
    target = ledger_path(out, None)
    # An empty one is what a run leaves that was killed as it began.
    there = read_ledger(target) if os.path.lexists(target) and target.lstat().st_size else None
    named = [path for path in paths if there is None or os.path.realpath(path) != os.path.realpath(target)]
    contents = [read_ledger(path) for path in named]
    first, *others = contents = [*contents, *([] if there is None else [there])]
    for other in others:
        _require_same(first, other)
    chosen: dict[int, tuple[LedgerContent, Entry]] = {}
    duplicates: set[int] = set()
    contradictory: set[int] = set()
    for content in contents:
        for entry in content.entries:
            known = chosen.get(entry.position)
            if known is None:
                chosen[entry.position] = content, entry
                continue
            joined = content is there or content.folder == known[0].folder
            if not known[1].failed and not entry.failed and not joined:
                duplicates.add(entry.position)
                if known[1].record["cover"] != entry.record["cover"]:
                    contradictory.add(entry.position)
            if supersedes(entry, known[1]):
                chosen[entry.position] = content, entry
    entries = [_seen_from(out, *chosen[position]) for position in sorted(chosen)]
    missing = first.run.images - len(chosen)
    return Merged(
        LedgerContent(target, replace(first.run, shard=None), entries, () if there is None else there.aside),
        missing,
        _missing_shards(contents) if missing else [],
        sorted(duplicates),
        sorted(contradictory),
    )


def _require_same(first: LedgerContent, other: LedgerContent) -> None:
    if first.run.digest != other.run.digest:
        differences = "; ".join(first.run.differences(other.run))
        raise LedgerError(first.path, f"and {other.path} were not made alike: {differences}: merge them apart")
    if (first.run.images, first.run.listing) != (other.run.images, other.run.listing):
        raise LedgerError(
            first.path,
            f"tells of {first.run.images} images, {other.path} of {other.run.images} or of others: "
            "shards belong together only if each was given the same images by the same names",
        )


def _seen_from(out: Path, content: LedgerContent, entry: Entry) -> Entry:
    folder = os.path.relpath(content.folder, os.path.realpath(out))
    return replace(entry, pictures=tuple(os.path.normpath(os.path.join(folder, name)) for name in entry.pictures))  # noqa: PTH118


def _missing_shards(contents: Sequence[LedgerContent]) -> list[Shard]:
    shards = [parse_shard(content.run.shard) for content in contents if content.run.shard is not None]
    if len({shard.count for shard in shards}) != 1:
        return []
    given = {shard.index for shard in shards}
    return [Shard(index, shards[0].count) for index in range(1, shards[0].count + 1) if index not in given]
