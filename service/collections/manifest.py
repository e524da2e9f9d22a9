"""The list of a collection for many machines: a Parquet file with the column `uri`."""

from collections import Counter
from collections.abc import Callable, Sequence

from engine import ImageError, OptionError, list_images
from engine.images import real_path
from engine.images.read import why_no_image_file
from engine.system.text import counted
from service.collections.storage import is_uri, named_place, read_rows, table_bytes

_MOST_NAMED = 3


def image_uris(
    arguments: Sequence[str], *, recursive: bool = False, option_name: Callable[[str], str] = str
) -> list[str]:
    """Turn files, folders and globs of this machine into absolute URIs, in their order, each once.

    URIs stay as they are; `recursive` and `option_name` as of `list_images`.

    Raises ImageError where a folder or glob holds no images, or a named file is not there.
    """
    uris: dict[str, str] = {}
    for argument in arguments:
        if is_uri(argument):
            uris.setdefault(named_place(argument), argument)
            continue
        for path in list_images([argument], recursive=recursive, option_name=option_name):
            if not path.is_file():
                raise ImageError(f"{path}: {why_no_image_file(path)}")
            # A file has many names; the first one stays.
            uris.setdefault(str(real_path(path)), path.absolute().as_uri())
    return list(dict.fromkeys(uris.values()))


def manifest_bytes(uris: Sequence[str]) -> bytes:
    return table_bytes([{"uri": uri} for uri in uris], {"uri": "string"})


def read_manifest(name: str) -> list[str]:
    """Read a manifest; StoreError where it cannot be read.

    OptionError where it is no Parquet file, has no column `uri`, is empty, or names something twice or not absolutely.
    """
    uris = [row["uri"] for row in read_rows(name, ["uri"])]
    odd = [uri for uri in uris if not isinstance(uri, str) or not is_uri(uri)]
    if odd:
        raise OptionError(
            f"{name}: {counted(len(odd), 'row holds', 'rows hold')} no absolute URI, {odd[0]!r} for instance: make it "
            "with `pseg manifest`"
        )
    # One file may be written in several ways, with and without %20 for a blank.
    places = [named_place(uri) for uri in uris]
    counts = Counter(places)
    twice = [uri for uri, place in zip(uris, places, strict=True) if counts[place] > 1]
    if twice:
        raise OptionError(
            f"{name}: {len(twice)} rows name images that other rows name, too "
            f"({', '.join(twice[:_MOST_NAMED])}): each image is done once: make it with `pseg manifest`"
        )
    if not uris:
        raise OptionError(f"{name}: names no image")
    return uris
