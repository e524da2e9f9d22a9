"""Numbers that a network may return, through ONNX Runtime, the command line and the written files."""

# onnx's generated message types are not known to pyright.
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportMissingTypeStubs=false
# pyright: reportUnknownArgumentType=false

import csv
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import onnx.helper as make
import pytest
from PIL import Image
from typer.testing import CliRunner

from service import cli
from tests.robustness.conftest import Tally
from tests.service.bundles import bundle_folder

KIND = "numbers"
FLOAT = onnx.TensorProto.FLOAT
Node = tuple[str, Sequence[str], Mapping[str, Any]]


def network(
    nodes: Sequence[Node], constants: Mapping[str, npt.NDArray[Any]], *, dtype: int = FLOAT, rank: int = 4
) -> bytes:
    """An ONNX network of a chain of nodes, each named after its place: the first takes `x`, the last one gives `y`."""
    names = ["x", *(f"t{number}" for number in range(len(nodes) - 1)), "y"]
    made = [
        make.make_node(kind, [names[number], *more], [names[number + 1]], **attributes)
        for number, (kind, more, attributes) in enumerate(nodes)
    ]
    graph = make.make_graph(
        made,
        "numbers",
        [make.make_tensor_value_info("x", FLOAT, [None, 3, None, None])],
        [make.make_tensor_value_info("y", dtype, [None] * rank)],
        [onnx.numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    model = make.make_model(graph, opset_imports=[make.make_opsetid("", 17)], ir_version=8)
    onnx.checker.check_model(model)
    return model.SerializeToString()


def ramp_of_classes(count: int) -> tuple[list[Node], dict[str, npt.NDArray[np.float32]]]:
    """A network of many classes: the red band's value, 0–255 after scaling, is the class, whatever their number.

    Class k scores k·r − k²/2, which is largest where r = k.
    """
    ks: npt.NDArray[np.float32] = np.arange(count, dtype=np.float32)
    weights = np.zeros((count, 3, 1, 1), np.float32)
    weights[:, 0, 0, 0] = ks
    return [("Conv", ["weights", "bias"], {"kernel_shape": [1, 1]})], {
        "weights": weights,
        "bias": (-(ks**2) / 2).astype(np.float32),
    }


@dataclass(frozen=True, slots=True)
class Run:
    """One run of `pseg predict`."""

    status: int
    records: list[dict[str, Any]]
    rows: list[dict[str, str]]
    out: Path


PLAIN = ({"type": "Normalize", "mean": [0, 0, 0], "std": [1, 1, 1]},)
"""Scales to 0–1 only."""
CENTRED = ({"type": "Normalize", "mean": [0.5, 0.5, 0.5], "std": [0.5, 0.5, 0.5]},)
"""Scales to −1–1."""


def predicted(
    folder: Path,
    content: bytes,
    pictures: Mapping[str, npt.NDArray[np.uint8]],
    *,
    transforms: Sequence[Mapping[str, Any]] = PLAIN,
    classes: Sequence[Mapping[str, Any]] | None = None,
    options: Sequence[str] = (),
) -> Run:
    bundle = bundle_folder(folder / "bundle", network=content, transforms=transforms, classes=classes)
    (folder / "pictures").mkdir()
    for name, pixels in pictures.items():
        Image.fromarray(pixels).save(folder / "pictures" / name)
    out, table = folder / "out", folder / "cover.csv"
    command = ["predict", bundle, folder / "pictures", "--out", out, "--csv", table, "--json"]
    result = CliRunner().invoke(
        cli.app,
        [*map(str, command), "--save", "pseudo,mask,overlay", *options],
        catch_exceptions=False,
    )
    records = [json.loads(line) for line in result.stdout.splitlines()]
    return Run(result.exit_code, records, list(csv.DictReader(table.read_text().splitlines())), out)


def grey(value: int) -> npt.NDArray[np.uint8]:
    return np.full((8, 12, 3), value, np.uint8)


def red_ramp(width: int) -> npt.NDArray[np.uint8]:
    """Columns whose red band counts up from 0."""
    pixels = np.zeros((4, width, 3), np.uint8)
    pixels[..., 0] = np.arange(width)
    return pixels


def written(path: Path) -> npt.NDArray[Any]:
    with Image.open(path) as image:
        return np.asarray(image)


FACTOR = {"factor": np.array(255, np.float32)}
SCALE: Node = ("Mul", ["factor"], {})


@pytest.mark.parametrize(
    ("nodes", "constants", "told"),
    [
        ([("Log", [], {})], {}, "NaN"),
        ([("Sqrt", [], {})], {}, "NaN"),
        ([("Mul", ["huge"], {}), ("Exp", [], {})], {"huge": np.array(-1000, np.float32)}, "infinite"),
    ],
    ids=["NaN of a logarithm", "NaN of a root", "infinity"],
)
def test_an_image_with_numbers_that_are_none_fails_by_name_and_the_others_do_not(
    nodes: Sequence[Node],
    constants: Mapping[str, npt.NDArray[Any]],
    told: str,
    tmp_path: Path,
    tally: Tally,
) -> None:
    pictures = {"bright.png": grey(200), "dark.png": grey(20)}
    run = predicted(tmp_path, network(nodes, constants), pictures, transforms=CENTRED)
    assert run.status == 1
    bright, dark = run.records
    assert (bright["status"], dark["status"]) == ("ok", "failed")
    assert dark["error"]["type"] == "InferenceError"
    assert told in dark["error"]["message"]
    assert "in class planes 0, 1, 2" in dark["error"]["message"]
    assert [row["status"] for row in run.rows] == ["ok", "failed"]
    assert sorted(path.name for path in run.out.iterdir()) == [
        "bright.mask.png",
        "bright.overlay.jpg",
        "bright.pseudo.png",
        "ledger.jsonl",
    ]
    tally(KIND, "failed by name")


def test_a_single_value_that_is_none_fails_the_image(tmp_path: Path, tally: Tally) -> None:
    picture = grey(200)
    picture[3, 5, 1] = 0  # the logarithm of −1
    run = predicted(tmp_path, network([("Log", [], {})], {}), {"x.png": picture}, transforms=CENTRED)
    assert run.status == 1
    assert "1 NaN and 0 infinite values, in class planes 1;" in run.records[0]["error"]["message"]
    tally(KIND, "failed by name")


@pytest.mark.parametrize("dtype", [np.float16, np.float64])
def test_logits_of_other_precision_give_the_mask_of_single(
    dtype: type[np.floating[Any]], tmp_path: Path, tally: Tally
) -> None:
    kind = onnx.helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
    content = network([SCALE, ("Cast", [], {"to": kind})], FACTOR, dtype=kind)
    picture = np.random.default_rng(0).integers(0, 256, (32, 48, 3), np.uint8)
    run = predicted(tmp_path, content, {"x.png": picture})
    assert run.status == 0
    assert np.array_equal(written(run.out / "x.mask.png"), picture.argmax(axis=-1))
    tally(KIND, "correct mask")


def test_half_precision_that_overflows_is_told_with_what_to_do(tmp_path: Path, tally: Tally) -> None:
    kind = onnx.TensorProto.FLOAT16
    nodes: list[Node] = [("Mul", ["factor"], {}), ("Cast", [], {"to": kind})]
    content = network(nodes, {"factor": np.array(70_000, np.float32)}, dtype=kind)
    run = predicted(tmp_path, content, {"x.png": grey(255), "y.png": grey(100)})
    assert run.status == 1
    assert [each["status"] for each in run.records] == ["failed", "ok"]
    assert "infinite" in run.records[0]["error"]["message"]
    assert "choose precision fp32" in run.records[0]["error"]["message"]
    tally(KIND, "failed by name")


@pytest.mark.parametrize("count", [255, 256, 257, 300])
def test_many_classes(count: int, tmp_path: Path, tally: Tally) -> None:
    nodes, constants = ramp_of_classes(count)
    # Brightness is spread over all classes: the last column's is the last class.
    spread = {**constants, "factor": np.array(count - 1, np.float32)}
    picture = red_ramp(256)
    run = predicted(tmp_path, network([("Mul", ["factor"], {}), *nodes], spread), {"x.png": picture})
    assert run.status == 0
    expected = np.rint(picture[..., 0].astype(np.float64) / 255 * (count - 1)).astype(np.uint16)
    mask = written(run.out / "x.mask.png")
    # Halfway between two classes a rounding may decide.
    assert np.abs(mask.astype(int) - expected).max() <= 1
    assert (mask == expected).mean() > 0.99
    assert int(mask.max()) == count - 1
    with Image.open(run.out / "x.mask.png") as image:
        assert image.mode == ("L" if count <= 256 else "I;16")
    with Image.open(run.out / "x.pseudo.png") as image:
        assert image.mode == ("P" if count <= 256 else "RGB")
        if count <= 256:
            assert np.array_equal(np.asarray(image), mask)
        else:
            # Past what a palette holds it is a picture only: every class has a colour of its own there, too.
            colors = {tuple(color): int(index) for color, index in zip(np.asarray(image)[0], mask[0], strict=True)}
            assert len(colors) == len(set(mask[0].tolist()))
    assert written(run.out / "x.overlay.jpg").shape == (4, 256, 3)
    [record] = run.records
    assert len(record["cover"]) == count
    assert sum(each["cover"] for each in record["cover"]) == pytest.approx(1, abs=1e-3)
    assert sum(name.startswith("cover_") for name in run.rows[0]) == count
    tally(KIND, "correct mask")


@pytest.mark.long
def test_an_argmax_inside_of_the_network_may_give_more_than_256_classes(tmp_path: Path, tally: Tally) -> None:
    nodes: list[Node] = [
        ("Mul", ["factor"], {}),
        ("ReduceMax", [], {"axes": [1], "keepdims": 0}),
        ("Cast", [], {"to": onnx.TensorProto.INT64}),
    ]
    content = network(nodes, {"factor": np.array(65_535, np.float32)}, dtype=onnx.TensorProto.INT64, rank=3)
    run = predicted(tmp_path, content, {"x.png": grey(255), "y.png": grey(0)})
    assert run.status == 0
    assert (written(run.out / "x.mask.png") == 65_535).all()
    assert (written(run.out / "y.mask.png") == 0).all()
    assert run.records[0]["cover"][-1]["cover"] == 1
    tally(KIND, "correct mask")


@pytest.mark.parametrize(
    ("factor", "told"), [(65_536.0, "65536; a mask holds at most"), (-2.0, "class index -2; indices start at 0")]
)
def test_indices_that_a_mask_cannot_hold_fail_by_name(factor: float, told: str, tmp_path: Path, tally: Tally) -> None:
    nodes: list[Node] = [
        ("Mul", ["factor"], {}),
        ("ReduceMax", [], {"axes": [1], "keepdims": 0}),
        ("Cast", [], {"to": onnx.TensorProto.INT32}),
    ]
    content = network(nodes, {"factor": np.array(factor, np.float32)}, dtype=onnx.TensorProto.INT32, rank=3)
    run = predicted(tmp_path, content, {"x.png": grey(255), "y.png": grey(0)})
    assert run.status == 1
    assert [each["status"] for each in run.records] == ["failed", "ok"]
    assert told in run.records[0]["error"]["message"]
    tally(KIND, "failed by name")


ONE_CLASS = ({"id": "urn:x:weed", "name": "weed"},)


def test_one_plane_of_probabilities_is_background_and_one_class(tmp_path: Path, tally: Tally) -> None:
    content = network([("ReduceMax", [], {"axes": [1], "keepdims": 1})], {})
    picture = red_ramp(256)
    run = predicted(tmp_path, content, {"x.png": picture}, options=["--threshold", "0.25"])
    assert run.status == 0
    assert np.array_equal(written(run.out / "x.mask.png"), (picture[..., 0] / 255 > 0.25).astype(np.uint8))
    assert len(run.records[0]["cover"]) == 2
    tally(KIND, "correct mask")


def test_one_plane_of_logits_is_refused_with_what_to_do(tmp_path: Path, tally: Tally) -> None:
    content = network([SCALE, ("ReduceMax", [], {"axes": [1], "keepdims": 1})], FACTOR)
    run = predicted(tmp_path, content, {"x.png": grey(200)})
    assert run.status == 1
    assert "looks like logits" in run.records[0]["error"]["message"]
    tally(KIND, "failed by name")


def test_a_bundle_that_names_one_class_keeps_its_name(tmp_path: Path, tally: Tally) -> None:
    nodes: list[Node] = [("ReduceMax", [], {"axes": [1], "keepdims": 0}), ("Cast", [], {"to": onnx.TensorProto.INT64})]
    content = network(nodes, {}, dtype=onnx.TensorProto.INT64, rank=3)
    run = predicted(tmp_path, content, {"x.png": grey(100)}, classes=ONE_CLASS)
    assert run.status == 0
    [weed] = run.records[0]["cover"]
    assert (weed["name"], weed["cover"]) == ("weed", 1)
    assert (written(run.out / "x.mask.png") == 0).all()
    tally(KIND, "correct mask")


@pytest.mark.parametrize("classes", [None, ()], ids=["not named", "none named"])
def test_classes_that_nobody_named_are_counted_by_the_network(
    classes: Sequence[Mapping[str, Any]] | None, tmp_path: Path, tally: Tally
) -> None:
    picture = np.zeros((8, 12, 3), np.uint8)
    picture[:, 6:, 2] = 255
    run = predicted(tmp_path, network([("Identity", [], {})], {}), {"x.png": picture}, classes=classes)
    assert run.status == 0
    # Class 1 is empty: it is listed, with none of the picture.
    assert [each["cover"] for each in run.records[0]["cover"]] == [0.5, 0, 0.5]
    assert len({each["name"] for each in run.records[0]["cover"]}) == 3
    tally(KIND, "correct mask")


def test_a_network_of_no_classes_is_refused(tmp_path: Path, tally: Tally) -> None:
    constants = {name: np.array([value], np.int64) for name, value in {"start": 0, "end": 0, "axis": 1}.items()}
    content = network([("Slice", ["start", "end", "axis"], {})], constants)
    run = predicted(tmp_path, content, {"x.png": grey(100)})
    assert run.status == 1
    assert "is not a segmentation" in run.records[0]["error"]["message"]
    tally(KIND, "failed by name")
