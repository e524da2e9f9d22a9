"""Which pictures files, folders and globs name, and what lies beside them and is not taken."""

import itertools
import os
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence, Set
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from pathlib import Path, PurePath

from engine.errors import ImageError, reason_of
from engine.images.codecs.heif import EXTRA, heif_available
from engine.images.formats import (
    HEIF,
    HEIF_SUFFIXES,
    IMAGE_SUFFIXES,
    PREFIX_BYTES,
    RAW_FILE,
    RAW_SUFFIXES,
    TIFF,
    ForeignKind,
    foreign_kind,
    is_readable_kind,
)
from engine.system.files import open_to_read

_MOST_NAMED = 3
_OWN_RESULT = re.compile(r"\.(?:pseudo|mask)\.png$|\.overlay\.jpg$")
_MASK_NAME = re.compile(r"[ _.-](?:masks?|labels?|seg|segmentation|gt|annotations?)$", re.IGNORECASE)
_FOLDER_OF_MASKS = re.compile(r"masks?|labels?|seg|segmentations?|gt|annotations?", re.IGNORECASE)
_PNG_BYTES = 26
_GREY, _PALETTE = 0, 3
_KINDS_OF_MASKS = frozenset({_GREY, _PALETTE})
_KNOWN_OTHERS = frozenset(
    ".csv .txt .md .json .jsonl .xml .xmp .yaml .yml .html .pdf .log .db .aae .thm .lrv .mp4 .mov .avi .wav .mp3 .gpx "
    ".kml .ini .py .npz .npy .tgz .tar .gz .zip .xls .xlsx .ods .doc .docx .ovr .tfw .jgw .pgw .prj".split()
)
"""Suffixes of what lies beside pictures and is none; whatever else has no known suffix is looked into."""


@dataclass(frozen=True, slots=True)
class LeftOut:
    """A file or folder that was found and is not taken."""

    path: Path
    reason: str  # why, in the plural, and what to do about it


@dataclass(slots=True)
class FoundImages:
    """What files, folders and globs name."""

    # in the order of the arguments; a file is there once, its other names are left out
    images: list[Path] = field(default_factory=list[Path])
    # what people might take for pictures, and is not taken
    left_out: list[LeftOut] = field(default_factory=list[LeftOut])
    other_files: int = 0  # how many other files there are, such as tables and texts
    excluded: int = 0  # how many files and folders a pattern left out
    excluded_by: str = "exclude"  # the option of these patterns, as users know it
    # of images that lie in a sub-folder of the folder that was named, which one
    subfolders: dict[Path, PurePath] = field(default_factory=dict[Path, PurePath])

    def remarks(self) -> list[str]:
        """Tell what was left out.

        Returns:
            A line a reason, with the number and the first names.
        """
        reasons = Counter(each.reason for each in self.left_out)
        lines: list[str] = []
        for reason, count in reasons.items():
            named = [str(each.path) for each in self.left_out if each.reason == reason][:_MOST_NAMED]
            more = ", …" if count > len(named) else ""
            lines.append(f"{count} left out: {reason}: {', '.join(named)}{more}")
        if self.excluded:
            lines.append(f"{self.excluded} left out by {self.excluded_by}")
        if self.other_files:
            lines.append(f"other files, which are not pictures: {self.other_files}")
        return lines


def find_images(
    arguments: Sequence[str | Path],
    *,
    recursive: bool = False,
    exclude: Sequence[str] = (),
    results: Path | None = None,
    option_name: Callable[[str], str] = str,
) -> FoundImages:
    """Find the photographs that files, folders and globs name, and tell what else lies there.

    A file is taken whatever its suffix, even if its name holds `[` or `*`. Of a folder and of a glob (`**` allowed) the
    files with one of `IMAGE_SUFFIXES` are taken, sorted, without hidden ones, unless the glob has a part that starts
    with a dot. Links that lead nowhere are taken for the pictures that they are named like: reading them fails by name.
    So does a plain name that does not exist; the other pictures are not lost with it.

    Left out of folders and globs: this project's own results (`*.pseudo.png`, `*.mask.png`, `*.overlay.jpg`), masks (a
    PNG of a palette or of grey values beside a photograph of the same stem, or in a folder named like `labels` beside
    the folder that holds its photograph), pictures in formats that are not read, and what is no regular file.

    Args:
        arguments: Names of files or folders, or globs.
        recursive: Search the sub-folders of folders, each once, whatever links lead to it.
        exclude: Patterns in which `*` matches any characters, also `/`. What is found in a folder or by a glob is left
            out if its name, its path, seen from that folder or from the glob's first part without wildcards, or one of
            the folders on that path matches.
        results: A folder that is no sub-folder to search, since results lie there.
        option_name: How users know the options `recursive` and `exclude`, for what is said of them.

    Returns:
        The images, and what was left out.

    Raises:
        ImageError: A folder or glob holds no images or may not be listed, or a pattern excludes nothing.
    """
    search = _Search(recursive, exclude, photographs=True, results=results, option_name=option_name)
    search.take_all(arguments)
    search.leave_out_masks_of_other_folders()
    idle = [pattern for pattern in exclude if pattern not in search.effective]
    if idle:
        raise ImageError(f"{option_name('exclude')} {idle[0]}: matches nothing that was found: check the pattern")
    return search.found


def list_images(
    arguments: Sequence[str | Path], *, recursive: bool = False, option_name: Callable[[str], str] = str
) -> list[Path]:
    """List the pictures that files, folders and globs name, photographs and masks alike.

    Like `find_images`, but also lists results and masks.

    Args:
        arguments: Names of files or folders, or globs.
        recursive: Search the sub-folders of folders.
        option_name: How users know the option `recursive`, for messages that mention it.

    Returns:
        The pictures in the order of the arguments; a file that is named twice, even through a link, is listed once.

    Raises:
        ImageError: A folder or glob holds no pictures, or may not be listed.
    """
    search = _Search(recursive, exclude=(), photographs=False, option_name=option_name)
    search.take_all(arguments)
    return search.found.images


def real_path(path: Path) -> Path:
    """Follow the links of a path to the absolute one of its file, as `Path.resolve`, but for links in a circle."""
    return Path(os.path.realpath(path))


class _Search:
    """One search; `found` grows with each argument."""

    def __init__(
        self,
        recursive: bool,
        exclude: Sequence[str],
        *,
        photographs: bool,
        option_name: Callable[[str], str],
        results: Path | None = None,
    ) -> None:
        self.found = FoundImages(excluded_by=option_name("exclude"))
        self._only_with = f"sub-folders are searched with {option_name('recursive')} only"
        self.effective: set[str] = set()
        self._recursive = recursive
        self._exclude = exclude
        self._photographs = photographs
        self._results = {_identity(results)} if results is not None and results.is_dir() else set[tuple[int, int]]()
        self._searched: list[Path] = []
        """What was taken of folders and globs."""
        self._known: dict[Path, Path] = {}
        """The file itself to the name under which it was taken."""

    def take_all(self, arguments: Sequence[str | Path]) -> None:
        for argument in arguments:
            try:
                self._take_argument(argument)
            except (OSError, ValueError) as cause:
                raise ImageError(
                    f"{argument}: cannot be listed ({reason_of(cause)}): check the name and permissions"
                ) from cause

    def leave_out_masks_of_other_folders(self) -> None:
        """Take no masks that lie in a tree of their own beside that of their photographs (`images/`, `labels/`)."""
        doubtful = {path: places for path in self._searched if (places := _folders_of_masks(path)) and _is_png(path)}
        if not doubtful:
            return
        photographs = {
            each for path in self.found.images if path not in doubtful for each in _places_beside(path, path.stem)
        }
        for path, places in doubtful.items():
            beside = {*_places_beside(path, path.stem), *_places_beside(path, _MASK_NAME.sub("", path.stem))}
            if any(each in photographs and each[0] in places for each in beside) and _png_kind(path) in _KINDS_OF_MASKS:
                self.found.subfolders.pop(path, None)
                self._leave_out(path, "masks in a folder beside that of their photographs")
        left_out = {each.path for each in self.found.left_out}
        self.found.images = [path for path in self.found.images if path not in left_out]

    def _take_argument(self, argument: str | Path) -> None:
        if not str(argument):
            raise ImageError("an empty argument names no image: give a file, a folder or a glob")
        path = Path(argument)
        try:
            is_folder = path.is_dir()
        except OSError:
            # A name that is too long, or one in a closed folder: reading it says so, and the others are not lost.
            self._take(path)
            return
        left_out, others = len(self.found.left_out), self.found.other_files
        if is_folder:
            taken = self._take_folder(path)
        elif path.exists() or path.is_symlink() or not _is_pattern(str(argument)):
            self._take(path)
            return
        else:
            root, matches = _glob(path)
            taken = self._take_files(matches, root, PurePath())
        if not taken:
            seen = FoundImages(left_out=self.found.left_out[left_out:], other_files=self.found.other_files - others)
            remarks = "".join(f"; {remark}" for remark in seen.remarks())
            raise ImageError(
                f"{argument}: no images found ({' '.join(sorted(IMAGE_SUFFIXES))}): check the name{remarks}"
            )

    def _take(self, path: Path, subfolder: PurePath | None = None) -> None:
        name = path.absolute()
        # Links that lead to the same nothing are pictures of their own, that are missing.
        real = real_path(path) if os.path.exists(path) else name  # noqa: PTH110 (a name may be too long for any file)
        if (known := self._known.get(real)) is not None:
            if known != name:
                self._leave_out(path, "other names of pictures that are taken already")
            return
        self._known[real] = name
        self.found.images.append(path)
        if subfolder is not None and subfolder.parts:
            self.found.subfolders[path] = subfolder

    def _take_folder(self, top: Path) -> int:
        taken = 0
        visited = set(self._results)
        pending = [(top, PurePath(), frozenset[str]())]
        while pending:
            folder, subfolder, stems_above = pending.pop()
            try:
                # A folder is searched once, so that links in a circle end.
                if (identity := _identity(folder)) in visited and folder != top:
                    continue
                visited.add(identity)
                entries = sorted(entry for entry in folder.iterdir() if not entry.name.startswith("."))
            except OSError as cause:
                if folder == top:
                    raise
                self._leave_out(folder, f"sub-folders that cannot be listed ({reason_of(cause)})")
                continue
            files, folders = _parted(entries)
            taken += self._take_files(files, folder, subfolder, stems_above)
            inner = [entry for entry in folders if not self._is_excluded(subfolder / entry.name)]
            if self._recursive:
                stems = frozenset(file.stem for file in files if _is_photograph(file))
                pending += [(entry, subfolder / entry.name, stems) for entry in reversed(inner)]
                continue
            for entry in inner:
                if _identity(entry) not in self._results:
                    self._leave_out(entry, self._only_with)
        return taken

    def _take_files(
        self, files: Sequence[Path], root: Path, subfolder: PurePath, stems_above: frozenset[str] = frozenset()
    ) -> int:
        """Take those of the files that are images, and return how many; masks may lie one folder below photographs."""
        taken = 0
        stems = {str(file.with_suffix("")) for file in files if _is_photograph(file)}
        stems.update(str(root / stem) for stem in stems_above)
        for file in files:
            if self._is_excluded(subfolder / file.relative_to(root)):
                continue
            reason = _reason_against(file, stems) if self._photographs else _reason_against_any(file)
            if reason is None:
                before = len(self.found.images)
                self._take(file, subfolder)
                self._searched += self.found.images[before:]
                taken += 1
            elif reason:
                self._leave_out(file, reason)
            else:
                self.found.other_files += 1
        return taken

    def _is_excluded(self, path: PurePath) -> bool:
        if not self._exclude:
            return False
        names = {*path.parts, path.as_posix(), *(parent.as_posix() for parent in path.parents[:-1])}
        matching = [pattern for pattern in self._exclude if any(fnmatchcase(name, pattern) for name in names)]
        self.effective.update(matching)
        self.found.excluded += bool(matching)
        return bool(matching)

    def _leave_out(self, path: Path, reason: str) -> None:
        self.found.left_out.append(LeftOut(path, reason))


def _glob(pattern: Path) -> tuple[Path, list[Path]]:
    head = tuple(itertools.takewhile(lambda part: not _is_pattern(part), pattern.parts))
    tail = pattern.parts[len(head) :]
    if tail[-1] == "**":
        tail = (*tail, "*")  # to pathlib a last `**` means folders only
    root = Path(*head)
    files = sorted(path for path in root.glob("/".join(tail)) if not path.is_dir())
    if any(part.startswith(".") for part in tail):
        return root, files
    return root, [path for path in files if not any(part.startswith(".") for part in path.relative_to(root).parts)]


def _is_pattern(name: str) -> bool:
    return any(wildcard in name for wildcard in "*?[")


def _has_image_suffix(path: Path) -> bool:
    return path.suffix.lower() in IMAGE_SUFFIXES


def _is_png(path: Path) -> bool:
    return path.suffix.lower() == ".png"


def _identity(folder: Path) -> tuple[int, int]:
    """Device and inode: the same for all names of a folder, and quickly found however deep it lies."""
    status = folder.stat()
    return status.st_dev, status.st_ino


def _parted(entries: Iterable[Path]) -> tuple[list[Path], list[Path]]:
    files: list[Path] = []
    folders: list[Path] = []
    for entry in entries:
        (folders if entry.is_dir() else files).append(entry)
    return files, folders


def _is_photograph(file: Path) -> bool:
    return _has_image_suffix(file) and not _is_png(file)


def _reason_against(file: Path, photographs: Set[str]) -> str | None:
    """Say why a file is no photograph that is taken; None if it is one, empty if it is nothing like one."""
    reason = _reason_against_any(file)
    if reason is not None or not file.is_file():
        return reason
    if _OWN_RESULT.search(file.name):
        return "results of this program"
    if _is_png(file) and _is_mask(file, photographs):
        return "masks beside their photographs"
    if file.suffix.lower() in HEIF_SUFFIXES and not heif_available() and HEIF.match(_prefix(file)):
        return EXTRA
    return None


def _reason_against_any(file: Path) -> str | None:
    named_so = _has_image_suffix(file)
    if not file.is_file():
        # A link that leads nowhere is a picture that is not here, which must not go unnoticed.
        is_lost = file.is_symlink() and not file.exists()
        return (None if is_lost else "no regular files") if named_so else ""
    if named_so:
        return None
    suffix = file.suffix.lower()
    if suffix in RAW_SUFFIXES:
        return _not_read(RAW_FILE)
    if suffix in _KNOWN_OTHERS:
        return ""
    prefix = _prefix(file)
    if is_readable_kind(prefix):
        return "pictures whose names do not end like those of pictures: rename them, or name them one by one"
    kind = foreign_kind(prefix)
    return _not_read(kind) if kind is not None and kind.is_picture else ""


def _not_read(kind: ForeignKind) -> str:
    return f"each is {kind.name}, which is not read: {kind.advice}"


def _is_mask(file: Path, photographs: Set[str]) -> bool:
    """Tell a mask by its name beside a photograph's, and by its bands: class indices, no colours."""
    stem = str(file.with_suffix(""))
    ends = (match.start() for match in re.finditer(r"[._-]", file.name))
    if stem in photographs or _MASK_NAME.sub("", stem) in photographs:
        kinds = _KINDS_OF_MASKS
    elif any(str(file.with_name(file.name[:end])) in photographs for end in ends if end):
        kinds = frozenset(
            {_PALETTE}
        )  # a picture of numbered colours is no photograph of its own, whatever follows the name
    else:
        return False
    return _png_kind(file) in kinds


def _png_kind(file: Path) -> int | None:
    header = _prefix(file)[:_PNG_BYTES]
    return header[-1] if header[12:16] == b"IHDR" else None


def _folders_of_masks(path: Path) -> frozenset[int]:
    """At which places of a path a folder is named as those of masks are."""
    return frozenset(at for at, name in enumerate(path.parts[:-1]) if _FOLDER_OF_MASKS.fullmatch(name))


def _places_beside(path: Path, stem: str) -> Iterator[tuple[int, tuple[str, ...], tuple[str, ...], str]]:
    """A path with one of its folders left open: which one, what is above and below it, and the stem."""
    *folders, _ = path.parts
    for at in range(len(folders)):
        yield at, tuple(folders[:at]), tuple(folders[at + 1 :]), stem


def is_tiff(path: Path) -> bool:
    """Tell whether a file is a TIFF, by its first bytes; false of one that cannot be read, as its reader says."""
    return TIFF.match(_prefix(path)) is not None


def _prefix(file: Path) -> bytes:
    try:
        with open_to_read(file) as content:
            return content.read(PREFIX_BYTES)
    except OSError:
        return b""
