"""The results as a page of Markdown."""

import re
from collections import Counter
from collections.abc import Callable, Iterable, Sequence

from benchmarks.lab.corpus.child import MEMORY_BYTES, OURS, TIMEOUT_S
from benchmarks.lab.corpus.matrix import variants
from benchmarks.lab.corpus.matrix.scene import HEIGHT, WIDTH
from benchmarks.lab.corpus.refusals import DAMAGED, REFUSALS, TOO_LARGE
from benchmarks.lab.corpus.results import LIBRARIES, Result
from benchmarks.lab.corpus.run import MATRIX
from benchmarks.lab.corpus.sources import SOURCES
from benchmarks.lab.corpus.verdicts import FAULTS, LARGEST, LARGEST_MEAN, VERDICTS
from benchmarks.results.markdown import Table, markdown
from engine.system.libraries import installed_versions

_LONGEST = 220


def page(results: Sequence[Result]) -> str:
    matrix = [each for each in results if each.origin == MATRIX]
    parts = [
        _introduction(results),
        "## Verdicts",
        _counts(
            results,
            "pictures and reader",
            lambda each: f"{'the matrix' if each.origin == MATRIX else each.origin}, {each.reader}",
        ),
        "## Formats",
        "The pictures of the source packages, by the format that their first bytes show; `another` stands for formats "
        "that are not read.",
        _counts([each for each in results if each.origin != MATRIX], "format", lambda each: each.format),
        _orientations(results),
        "## The matrix, axis by axis",
        "The figures are those of both readers together.",
        _axes(matrix),
        "## What was refused rightly",
        _refusals(results),
        "## What is wrong",
        _faults(results),
        "## No agreement",
        "Files on which the other readers do not agree, or that only our reader reads. They count neither for nor "
        "against it.",
        _listed([each for each in results if each.verdict == "no agreement"]),
    ]
    return "\n\n".join(parts) + "\n"


def _introduction(results: Sequence[Result]) -> str:
    sources = " and ".join(f"{each.project} {each.version} (`{each.folder}`)" for each in SOURCES)
    versions = ", ".join(f"{name} {version}" for name, version in installed_versions(LIBRARIES).items())
    files = {
        origin: len({each.name for each in results if each.origin == origin})
        for origin in dict.fromkeys(each.origin for each in results)
    }
    counted = ", ".join(f"{files[origin]} of {origin}" for origin in files if origin != MATRIX)
    return f"""# The readers of pictures, compared with other libraries

This page is for readers who want to know whether pictures are read correctly. `make corpus` (`python -m
benchmarks.lab.corpus`) writes it. An interrupted run continues. The exit status is 1 if a picture is read wrongly
without an error, is refused without a valid reason, or makes a reader crash or hang.

The pictures are those of the source packages of {sources}, as the package index serves them: {counted}.
The matrix is {files.get(MATRIX, 0)} TIFFs of one rendered scene of {WIDTH}×{HEIGHT} pixels, written by tifffile, by
GDAL (rasterio) and, for layouts that neither can write, byte by byte (`benchmarks/lab/corpus/matrix/`). Each file is
read as a photograph (`engine.read_image`) and, if it is a TIFF, as a raster (as `--tile` reads it), in a child process
with {MEMORY_BYTES >> 30} GiB of memory and {TIMEOUT_S:g} s for each picture.

The correct result is computed from what other libraries decode, by a second implementation of the documented rules
(`benchmarks/lab/corpus/rules.py`). For TIFFs, the other libraries are tifffile with imagecodecs, and libtiff (GDAL,
OpenCV and libvips, which count as one). For other formats, they are OpenCV, libvips and imagecodecs, and for BMP also
GDAL. For the matrix, the scene itself counts as one more. *Equal* means identical; if a lossy codec or a conversion of
colours is involved, it means a mean difference of at most {LARGEST_MEAN:g} level, and no difference above {LARGEST}. If
the other readers do not agree, a file counts neither for nor against our readers. `benchmarks/lab/corpus/refusals.py`
lists what may be refused, and a refusal is right only if its message gives the reason that is stated there.

Versions: {versions}."""


def _counts(results: Iterable[Result], title: str, group: Callable[[Result], str]) -> str:
    counted: dict[str, Counter[str]] = {}
    for each in results:
        counted.setdefault(group(each), Counter())[each.verdict] += 1
    return _table(title, sorted(counted.items()))


def _table(title: str, counted: Sequence[tuple[str, Counter[str]]]) -> str:
    rows = [(name, str(counts.total()), *(str(counts[verdict]) for verdict in VERDICTS)) for name, counts in counted]
    if len(counted) > 1:
        total = Counter[str]()
        for _, counts in counted:
            total.update(counts)
        rows.append(("all", str(total.total()), *(str(total[verdict]) for verdict in VERDICTS)))
    return markdown(Table((title, "readings", *VERDICTS), tuple(rows)))


def _orientations(results: Iterable[Result]) -> str:
    turned = [each for each in results if each.format == "JPEG" and each.orientation != 1]
    equal = sum(each.verdict == "equal" for each in turned)
    return (
        f"{len(turned)} of the JPEGs state an EXIF orientation other than 1; {equal} of them come out as OpenCV and "
        "libvips turn them."
    )


def _axes(results: Sequence[Result]) -> str:
    axes_of = {f"{each.name}.tif": each.axes for each in variants()}
    counted: dict[tuple[str, str], Counter[str]] = {}
    for result in results:
        for pair in axes_of[result.name].items():
            counted.setdefault(pair, Counter())[result.verdict] += 1
    order = {axis: index for index, axis in enumerate(dict.fromkeys(axis for axis, _ in counted))}
    rows = sorted(counted.items(), key=lambda each: (order[each[0][0]], _natural(each[0][1])))
    return markdown(
        Table(
            ("axis", "value", "readings", *VERDICTS),
            tuple((*pair, str(counts.total()), *(str(counts[each]) for each in VERDICTS)) for pair, counts in rows),
        )
    )


def _natural(text: str) -> tuple[tuple[int, str], ...]:
    return tuple((int(number or 0), word) for number, word in re.findall(r"(\d*)(\D*)", text))


def _refusals(results: Sequence[Result]) -> str:
    counted = Counter((each.kind, each.reader) for each in results if each.verdict == "rightly refused")
    rows = [
        (each.kind, each.reason, *(str(counted[each.kind, reader]) for reader in OURS))
        for each in (*REFUSALS, TOO_LARGE, DAMAGED)
    ]
    return markdown(Table(("kind", "why it may be refused", *OURS), tuple(rows)))


def _faults(results: Sequence[Result]) -> str:
    wrong = [each for each in results if each.verdict in FAULTS]
    return _listed(wrong) if wrong else "Nothing."


def _listed(results: Sequence[Result]) -> str:
    rows = [
        (f"{each.origin}/{each.name}", each.reader, each.verdict, f"`{_plain(each.note)}`")
        for each in sorted(results, key=lambda each: (each.origin, each.name, each.reader))
    ]
    return markdown(Table(("file", "reader", "verdict", "what was seen"), tuple(rows))) if rows else "None."


def _plain(text: str) -> str:
    return re.sub(r"\s+", " ", re.sub(r"\S*/build/corpus/|build/corpus/", "", text)).replace("`", "'")[:_LONGEST]
