"""Label masks as people save them, against hand-made files; and which image they belong to."""

import os
import struct
import tracemalloc
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from benchmarks.accuracy.labels import LabelledFiles, match_masks, read_labels, require_known_classes
from engine import ImageError

INDICES = np.array([[0, 1, 2, 1], [2, 2, 0, 3]], np.uint8)
SIZE = (4, 2)


def grey_png(path: Path, values: np.ndarray[tuple[int, int], np.dtype[np.uint8]], *, bits: int) -> Path:
    """A grey PNG written byte by byte: values of a few bits, packed, the first one highest."""
    height, width = values.shape
    planes = (values[..., np.newaxis] >> np.arange(bits - 1, -1, -1)) & 1
    rows = np.packbits(planes.reshape(height, -1), axis=1)

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = struct.pack(">IIBBBBB", width, height, bits, 0, 0, 0, 0)
    data = zlib.compress(b"".join(b"\0" + row.tobytes() for row in rows))
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", data) + chunk(b"IEND", b""))
    return path


def test_grey_masks(tmp_path: Path) -> None:
    Image.fromarray(INDICES).save(tmp_path / "grey.png")
    assert read_labels(tmp_path / "grey.png", size=SIZE).tolist() == INDICES.tolist()


@pytest.mark.parametrize("bits", [1, 2, 4])
def test_grey_masks_of_few_bits_hold_indices_not_brightness(tmp_path: Path, bits: int) -> None:
    values = INDICES % 2**bits
    assert read_labels(grey_png(tmp_path / "m.png", values, bits=bits), size=SIZE).tolist() == values.tolist()


@pytest.mark.parametrize("bits", [2, 4, 8])
def test_palette_masks_hold_indices_not_colours(tmp_path: Path, bits: int) -> None:
    image = Image.fromarray(INDICES, mode="P")
    image.putpalette([9, 9, 9, 200, 0, 0, 0, 200, 0, 0, 0, 200])
    image.save(tmp_path / "m.png", bits=bits)
    assert read_labels(tmp_path / "m.png", size=SIZE).tolist() == INDICES.tolist()


def test_sixteen_bit_masks(tmp_path: Path) -> None:
    values = INDICES.astype(np.uint16) * 300
    Image.fromarray(values).save(tmp_path / "m.png")
    assert read_labels(tmp_path / "m.png", size=SIZE).tolist() == values.tolist()


def test_colours_are_refused(tmp_path: Path) -> None:
    Image.new("RGB", SIZE).save(tmp_path / "m.png")
    with pytest.raises(ImageError, match=r"m\.png: mode RGB holds colours"):
        read_labels(tmp_path / "m.png", size=SIZE)


def test_another_size_is_refused(tmp_path: Path) -> None:
    Image.fromarray(INDICES).save(tmp_path / "m.png")
    with pytest.raises(ImageError, match=r"m\.png: the mask is 4x2 pixels, its upright image 2x4"):
        read_labels(tmp_path / "m.png", size=(2, 4))


def test_other_files_are_refused(tmp_path: Path) -> None:
    Image.new("L", SIZE).save(tmp_path / "jpeg.png", format="JPEG")
    with pytest.raises(ImageError, match=r"jpeg\.png: is not a PNG file"):
        read_labels(tmp_path / "jpeg.png", size=SIZE)
    Image.effect_noise((64, 64), 50).save(tmp_path / "cut.png")
    (tmp_path / "cut.png").write_bytes((tmp_path / "cut.png").read_bytes()[:900])
    with pytest.raises(ImageError, match=r"cut\.png: cannot be read"):
        read_labels(tmp_path / "cut.png", size=(64, 64))
    with pytest.raises(ImageError, match=r"none\.png: cannot be read"):
        read_labels(tmp_path / "none.png", size=SIZE)


def test_an_index_without_class_is_named() -> None:
    labels = np.array([[0, 1, 255, 7]], np.uint8)
    require_known_classes(labels, 8, where="m.png")
    with pytest.raises(ImageError, match=r"m\.png: holds the class index 7, but the model's classes are 0 to 6"):
        require_known_classes(labels, 7, where="m.png")


def test_masks_are_found_by_the_name_of_the_image() -> None:
    images = [Path("b/2.jpg"), Path("a/1.tif")]
    masks = [Path("m/1.png"), Path("m/2.PNG"), Path("m/3.png"), Path("m/2.txt")]
    assert match_masks(images, masks) == [
        LabelledFiles(Path("b/2.jpg"), Path("m/2.PNG")),
        LabelledFiles(Path("a/1.tif"), Path("m/1.png")),
    ]


def test_missing_masks_are_listed() -> None:
    images = [Path(f"i/{number}.jpg") for number in range(12)]
    with pytest.raises(ImageError, match=r"11 of 12 images have no PNG mask: i/0\.jpg, i/2\.jpg, .*i/8\.jpg, …"):
        match_masks(images, [Path("m/1.png")])
    with pytest.raises(ImageError, match="the PNG mask of"):
        match_masks([Path("i/1.jpg")], [Path("m/1.tif")])


def test_labels_may_mirror_the_folders_of_the_images() -> None:
    images = [Path("dives/1.jpg"), Path("dives/a/1.jpg"), Path("dives/a/b/1.jpg")]
    masks = [Path("labels/a/1.png"), Path("labels/a/b/1.png"), Path("labels/1.png")]
    assert [each.mask for each in match_masks(images, masks)] == [masks[2], masks[0], masks[1]]
    with pytest.raises(ImageError, match=r"1 of 3 images have no PNG mask: dives/1\.jpg"):
        match_masks(images, masks[:2])


def test_folders_tell_files_of_one_name_apart() -> None:
    images = [Path("in/a/1.jpg"), Path("in/b/1.jpg")]
    masks = [Path("m/b/1.png"), Path("m/a/1.png"), Path("m/c/1.png")]
    assert [each.mask for each in match_masks(images, masks)] == [masks[1], masks[0]]
    # the mask of another folder's picture is none of this one
    with pytest.raises(ImageError, match=r"1 of 2 images have no PNG mask: in/b/1\.jpg"):
        match_masks(images, masks[1:])
    with pytest.raises(ImageError, match=r"1\.jpg and .*a/1\.tif: two images with the same name"):
        match_masks([Path("a/1.jpg"), Path("a/1.tif")], [Path("m/1.png")])


def test_accents_are_compared_as_they_are_read() -> None:
    # The same letters, in the two forms of Unicode (NFC and NFD).
    images = [Path("in/Bah\u00eda/e\u0301.jpg"), Path("in/north/\u00e9.jpg")]
    masks = [Path("m/north/e\u0301.png"), Path("m/Bahi\u0301a/\u00e9.png")]
    assert [each.mask for each in match_masks(images, masks)] == [masks[1], masks[0]]


def test_a_mask_of_another_size_is_not_decoded(tmp_path: Path) -> None:
    """A small file that would take 81 MB."""
    side = 9_000
    grey_png(tmp_path / "m.png", np.zeros((1, side), np.uint8), bits=8)
    content = bytearray((tmp_path / "m.png").read_bytes())
    header = struct.pack(">IIBBBBB", side, side, 8, 0, 0, 0, 0)
    content[16:33] = header + struct.pack(">I", zlib.crc32(b"IHDR" + header))
    (tmp_path / "m.png").write_bytes(content)
    tracemalloc.start()
    try:
        with pytest.raises(ImageError, match=r"m\.png: the mask is 9000x9000 pixels, its upright image 4x2"):
            read_labels(tmp_path / "m.png", size=SIZE)
        assert tracemalloc.get_traced_memory()[1] < 1 << 20
    finally:
        tracemalloc.stop()


def test_what_is_no_file_is_no_mask(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.png")
    (tmp_path / "folder.png").mkdir()
    (tmp_path / "link.png").symlink_to("link.png")
    for name in ("pipe.png", "folder.png", "link.png", "absent.png"):
        with pytest.raises(ImageError, match=rf"{name}: cannot be read"):
            read_labels(tmp_path / name, size=SIZE)
    Image.fromarray(INDICES).save(tmp_path / "real.png")
    (tmp_path / "named.png").symlink_to("real.png")
    assert read_labels(tmp_path / "named.png", size=SIZE).tolist() == INDICES.tolist()
