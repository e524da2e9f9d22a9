"""Weights are data: whatever a file says, nothing of it is called, and only plain arrays of numbers come out."""
# Paddle ships no type information.
# pyright: reportMissingTypeStubs=false, reportUnknownMemberType=false

import codecs
import collections
import pickle
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from converters.exporting import weights_file
from converters.exporting.weights_file import read_weights, table_of_contents
from engine.errors import ConversionError
from tests.conftest import vendor_warnings_ignored


class Calls:
    """Pickled as the call of a function."""

    def __init__(self, *call: object) -> None:
        self._call = call

    def __reduce__(self) -> Any:
        return self._call


def with_state(*state: object) -> Calls:
    """An array as numpy pickles it, in a state of one's own."""
    return Calls(np.zeros(0).__reduce__()[0], (np.ndarray, (0,), b"b"), state)


def refused(content: bytes) -> str:
    with pytest.raises(ConversionError) as caught:
        table_of_contents(content)
    return str(caught.value)


@pytest.mark.parametrize("protocol", [2, 3, 4])
def test_every_type_that_paddle_saves_is_read_as_paddle_reads_it(protocol: Any, tmp_path: Path) -> None:
    with vendor_warnings_ignored():
        import paddle

        values = paddle.to_tensor(np.arange(6).reshape(2, 3))
        kinds = ("bool", "int8", "int16", "int32", "int64", "uint8", "float16", "float32", "float64", "bfloat16")
        state = {f"層.{kind}": values.astype(kind) for kind in kinds}
        path = tmp_path / "w.pdparams"
        paddle.save({**state, "none": paddle.zeros([0, 3]), "one": paddle.to_tensor(3.5)}, str(path), protocol=protocol)
        expected = paddle.load(str(path), return_numpy=True)
    arrays = read_weights(path)
    assert list(arrays) == list(expected)
    for name, array in arrays.items():
        np.testing.assert_array_equal(array, expected[name], strict=True)
    assert arrays["層.bfloat16"].dtype == np.uint16


def test_order_of_axes_and_bytes_is_kept(tmp_path: Path) -> None:
    arrays = {"columns": np.asfortranarray(np.arange(6.0).reshape(2, 3)), "big": np.arange(4, dtype=">i4")}
    (tmp_path / "w.pdparams").write_bytes(pickle.dumps(collections.OrderedDict(arrays), 2))
    for name, array in read_weights(tmp_path / "w.pdparams").items():
        np.testing.assert_array_equal(array, arrays[name])


TOUCH = Calls(Path.touch, (Path("was-here"),))
POINTERS = b"\x41" * 32
FORGED: dict[str, tuple[bytes, str]] = {
    "a command": (pickle.dumps({"w": TOUCH}), "wants to run pathlib"),
    "a command in an array": (pickle.dumps({"w": np.array([TOUCH], object)}), "'O8', which are not numbers"),
    "objects over bytes": (
        pickle.dumps({"w": Calls(np.ndarray, ((4,), np.dtype("O"), POINTERS))}),
        "'O8', which are not numbers",
    ),
    "objects as a state": (
        pickle.dumps({"w": with_state(1, (4,), np.dtype("O"), False, POINTERS)}),
        "'O8', which are not numbers",
    ),
    "fields that are objects": (pickle.dumps({"w": np.zeros(3, [("a", "O"), ("b", "f4")])}), "which are not numbers"),
    "texts": (pickle.dumps({"w": np.array(["a", "b"])}), "'U1', which are not numbers"),
    "complex numbers": (pickle.dumps({"w": np.zeros(2, np.complex64)}), "'c8', which are not numbers"),
    "a type that lies about its size": (
        pickle.dumps({"w": Calls(np.dtype, ("f4", False, True), (3, "<", None, ("a",), {"a": 1}, 99, 1, 0))}),
        "no need to change",
    ),
    "an array of 2^40 values": (pickle.dumps({"w": Calls(np.ndarray, ((2**40,),))}), "numpy.ndarray in a way"),
    "steps of 0": (
        pickle.dumps({"w": Calls(np.ndarray, ((10**10,), np.dtype("f4"), b"\0" * 4, 0, (0,)))}),
        "numpy.ndarray in a way",
    ),
    "an array over another": (
        pickle.dumps({"w": Calls(np.ndarray, ((4,), np.dtype("u8"), np.zeros(4)))}),
        "numpy.ndarray in a way",
    ),
    "a negative shape": (pickle.dumps({"w": with_state(1, (-5,), np.dtype("f4"), False, b"")}), "no shape"),
    "33 axes": (pickle.dumps({"w": with_state(1, (1,) * 33, np.dtype("f4"), False, b"1234")}), "no shape"),
    "a state twice": (
        pickle.dumps({"w": np.zeros(2)}, 4).replace(b"t\x94b.", b"t\x94bNb.").replace(b"t\x94bs.", b"t\x94bNbs."),
        "no need to change",
    ),
    "another codec": (pickle.dumps({"w": Calls(codecs.encode, ("x", "rot13"))}, 2), "_codecs.encode in a way"),
    "attributes of a class": (b"\x80\x04cnumpy\nndarray\n}X\x03\x00\x00\x00fooX\x01\x00\x00\x00xsb.", "no need to"),
    "a persistent id": (b"\x80\x04\x8c\x04evilQ.", "damaged or of another format"),
    "an extension": (b"\x80\x04\x82\x01.", "damaged or of another format"),
    "an object without a call": (b"\x80\x04cnumpy\nndarray\n)\x81.", "damaged or of another format"),
    "protocol 5 with buffers": (b"\x80\x05\x97.", "damaged or of another format|protocol 5"),
    "2^60 bytes": (b"\x80\x04\x8e" + struct.pack("<Q", 2**60) + b"x.", "are not there"),
    "a text of -1 bytes": (b"\x80\x02T\xff\xff\xff\xff.", "are not there"),
    "a frame of 2^60 bytes": (b"\x80\x04\x95" + struct.pack("<Q", 2**60) + b"x.", "a frame is longer"),
    "a number of 20 bytes": (b"\x80\x02\x8a\x14" + b"\x7f" * 20 + b".", "a number has 20 bytes"),
    "10^5 lists in lists": (b"\x80\x04" + b"]" * 10**5 + b"a" * (10**5 - 1) + b".", "is not an array"),
    "an empty memo": (b"\x80\x04h\x07.", "of the memo is empty"),
    "a name of 10^6 letters": (pickle.dumps({"w" * 10**6: np.zeros(2)}), "a name has 1000000 bytes"),
    "a number for a name": (pickle.dumps({1: np.zeros(2)}), "where a name should be"),
    "absent slices": (
        pickle.dumps({"UnpackBigParamInfor@@": {"w": {"slices": ["x"], "OriginShape": (1,)}}}),
        "slice of w is missing",
    ),
    "the same slice a thousand times": (
        pickle.dumps({"UnpackBigParamInfor@@": {"w": {"slices": ["x"] * 1000, "OriginShape": (1,)}}, "x": np.ones(1)}),
        "slice of w is missing, or there twice",
    ),
    "the same values under many names": (
        pickle.dumps(dict.fromkeys(map(str, range(1000)), np.zeros(1000))),
        "again and again",
    ),
}


@pytest.mark.parametrize("name", FORGED)
def test_what_is_no_array_of_numbers_is_an_error(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    content, message = FORGED[name]
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConversionError, match=message):
        table_of_contents(content)
    assert not list(tmp_path.iterdir())


def test_a_shape_that_its_values_do_not_fill_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "w.pdparams"
    for shape in ((10**6,), (3,), (2**40, 2**40)):
        path.write_bytes(pickle.dumps({"w": with_state(1, shape, np.dtype("f4"), False, b"short")}))
        with pytest.raises(ConversionError, match=r"w\.pdparams: .*values of w do not fit its shape"):
            read_weights(path)


def test_a_file_of_many_steps_ends_within_bounds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(weights_file, "_MOST_OPCODES", 1000)
    assert "more than 1000 steps" in refused(b"\x80\x04" + b"N" * 1001 + b".")
    monkeypatch.setattr(weights_file, "_MOST_ARRAYS", 2)
    assert "more than 2 arrays" in refused(pickle.dumps({str(each): np.zeros(1) for each in range(3)}))


def test_the_file_is_read_in_a_child_that_may_die(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    script = tmp_path / "python"
    script.write_text("#!/bin/sh\nkill -SEGV $$\n")
    script.chmod(0o755)
    monkeypatch.setattr("sys.executable", str(script))
    path = tmp_path / "w.pdparams"
    path.write_bytes(pickle.dumps({"w": np.zeros(2)}))
    with pytest.raises(ConversionError, match=r"w\.pdparams: .*SIGSEGV"):
        read_weights(path)
