"""The last argmax is cut off: what the scores say is the old mask, and nothing that is no such argmax is cut."""
# pyright: reportMissingTypeStubs=false, reportUnknownMemberType=false, reportUnknownVariableType=false
# pyright: reportUnknownArgumentType=false, reportUnknownParameterType=false, reportUntypedBaseClass=false
# Paddle, PaddleSeg and onnx ship no complete types.

import json
import shutil
import tarfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import helper
from PIL import Image

from converters.conversion import CERTIFICATE
from converters.last_argmax import cut_graph, cut_program
from converters.parity import compare_classes
from converters.rewrites.program import Program
from converters.scores import with_scores
from engine import (
    Bundle,
    ConversionError,
    OnnxModel,
    OnnxOptions,
    PaddleOptions,
    Precision,
    open_bundle,
    open_runtime,
)
from engine.bundle.bundle import PaddleModel, file_digest
from engine.images.quality import read_reference
from engine.runtimes.paddle import PaddleRuntime
from service.commands.terminal import ExitStatus
from tests.conftest import ExportNetwork, vendor_warnings_ignored
from tests.converters.test_parity import mask_network, picture, predictor
from tests.service.commands.test_convert_command import run

DEMO = Path(__file__).parents[2] / "demo" / "demo_seagrass.tgz"
FAMILIES = ("BiSeNetV2", "ENet", "FastSCNN", "HarDNet", "UNet")
LEGACY = ("enet", "fastscnn", "pp_liteseg_stdc1")


def run_paddle(program: Path, params: Path, tensor: NDArray[np.float32]) -> NDArray[Any]:
    runtime = PaddleRuntime(PaddleModel(program, params, file_digest(program)), PaddleOptions(threads=2))
    try:
        return next(iter(runtime.run({runtime.inputs[0].name: tensor}).values()))
    finally:
        runtime.close()


def require_old_masks(bundle: Bundle, folder: Path, sizes: tuple[tuple[int, int], ...] = ((64, 96), (128, 64))) -> None:
    """Cut, and hold the largest scores against the masks, pixel by pixel."""
    assert bundle.paddle is not None
    old, params = bundle.paddle.program, bundle.paddle.params
    with vendor_warnings_ignored():
        cut_program(old, folder, old.name)
    for height, width in sizes:
        tensor = np.random.default_rng(height).standard_normal((1, 3, height, width), dtype=np.float32)
        mask = run_paddle(old, params, tensor)
        scores = run_paddle(folder / old.name, params, tensor)
        assert (mask.dtype.kind in "iu", scores.dtype, scores.ndim) == (True, np.float32, 4)
        np.testing.assert_array_equal(scores.argmax(axis=1), mask.reshape(-1, *mask.shape[-2:]))
        assert len(np.unique(mask)) > 1


@pytest.mark.long
@pytest.mark.parametrize("name", FAMILIES)
def test_scores_of_a_family_say_its_mask(name: str, export_network: ExportNetwork, tmp_path: Path) -> None:
    with vendor_warnings_ignored():
        from paddleseg import models

    folder = export_network(f"argmax {name}", lambda: getattr(models, name)(num_classes=3), output_op="argmax")
    with open_bundle(folder) as bundle:
        require_old_masks(bundle, tmp_path)


@pytest.mark.parametrize("name", [pytest.param(each, marks=pytest.mark.long) for each in LEGACY])
def test_scores_of_a_program_of_paddle_2_say_its_mask(name: str, shared_data: Path, tmp_path: Path) -> None:
    with open_bundle(shared_data / "bundles" / f"legacy_{name}.tgz") as bundle:
        require_old_masks(bundle, tmp_path)


@pytest.fixture(scope="module")
def argmax_network(export_network: ExportNetwork) -> Path:
    with vendor_warnings_ignored():
        from paddleseg.models import PPHumanSegLite

    return export_network("human-seg-lite-argmax", lambda: PPHumanSegLite(num_classes=3), classes=3, output_op="argmax")


def append_argmax(program: Path, ended: Path, destination: Path) -> None:
    """Write a program with the argmax that another one ends in."""
    content, donor = Program.read(program), Program.read(ended)
    argmax = next(each for each in donor.operations if each.kind == "argmax")
    axis = donor.maker(argmax.inputs[1])
    assert axis is not None
    fetch = next(each for each in content.operations if each.kind == "fetch")
    numbers = [content.new_number(), content.new_number()]
    axis.entry["O"][0]["%"], argmax.entry["O"][0]["%"] = numbers
    argmax.entry["I"] = [{"%": fetch.inputs[0]}, {"%": numbers[0]}]
    fetch.entry["I"] = [{"%": numbers[1]}]
    fetch.entry["O"][0]["TT"] = argmax.entry["O"][0]["TT"]
    content.operations = [*content.operations[:-1], axis, argmax, fetch]
    content.write(destination)


@pytest.mark.long
def test_the_demos_network_with_an_argmax_gets_its_scores_back(argmax_network: Path, tmp_path: Path) -> None:
    (tmp_path / "cut").mkdir()
    with open_bundle(DEMO) as bundle:
        assert bundle.paddle is not None
        ended = tmp_path / "model.json"
        append_argmax(bundle.paddle.program, argmax_network / "model.json", ended)
        cut_program(ended, tmp_path / "cut", "model.json")
        tensor = np.random.default_rng(4).standard_normal((1, 3, 96, 160), dtype=np.float32)
        scores, again, mask = (
            run_paddle(program, bundle.paddle.params, tensor)
            for program in (bundle.paddle.program, tmp_path / "cut" / "model.json", ended)
        )
    np.testing.assert_array_equal(again, scores)
    np.testing.assert_array_equal(scores.argmax(axis=1), mask)


def end_in(kind: str) -> Callable[[Any], Any]:
    import paddle

    argmax = paddle.argmax
    softmax, interpolate = paddle.nn.functional.softmax, paddle.nn.functional.interpolate
    ends: dict[str, Callable[[Any], Any]] = {
        "a plane of classes": lambda x: argmax(x, axis=1, keepdim=True),
        "a cast to bytes": lambda x: argmax(x, axis=-3).cast("uint8"),
        "probabilities": lambda x: argmax(softmax(x, axis=1), axis=1),
        "an enlarged mask": lambda x: interpolate(argmax(x, axis=1, keepdim=True).cast("float32"), scale_factor=2),
        "classes last": lambda x: argmax(x.transpose([0, 2, 3, 1]), axis=3),
        "one class": lambda x: argmax(x[:, :1], axis=1),
        "scores": lambda x: x,
    }
    return ends[kind]


@pytest.fixture
def ending(export_network: ExportNetwork) -> Callable[[str], Path]:
    def build(kind: str) -> Path:
        with vendor_warnings_ignored():
            import paddle

            end = end_in(kind)

            class Network(paddle.nn.Layer):
                def __init__(self) -> None:
                    super().__init__()
                    self.convolution = paddle.nn.Conv2D(3, 3, 3, padding=1)

                def forward(self, x: Any) -> list[Any]:
                    return [end(self.convolution(x))]

        return export_network(f"ends in {kind}", Network, classes=3, settle=False)

    return build


@pytest.mark.parametrize("kind", ["a plane of classes", "a cast to bytes", "probabilities"])
def test_what_keeps_the_classes_is_cut_off_with_the_argmax(
    kind: str, ending: Callable[[str], Path], tmp_path: Path
) -> None:
    with open_bundle(ending(kind)) as bundle:
        require_old_masks(bundle, tmp_path)
    kinds = {each.kind for each in Program.read(tmp_path / "model.json").operations}
    assert kinds.isdisjoint({"argmax", "cast"})
    assert ("softmax" in kinds) == (kind == "probabilities")


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("an enlarged mask", r"no last argmax is found: the output comes from the operator 'nearest_interp'.*export"),
        ("classes last", r"runs along axis 3.*export the network again"),
        ("one class", r"takes any×1×any×any values.*export the network again"),
        ("scores", r"comes from the operator 'add'; if these are scores already, convert the bundle without"),
    ],
)
def test_other_ends_are_refused_with_the_remedy(
    kind: str, message: str, ending: Callable[[str], Path], tmp_path: Path
) -> None:
    with open_bundle(ending(kind)) as bundle, pytest.raises(ConversionError, match=message):
        assert bundle.paddle is not None
        cut_program(bundle.paddle.program, tmp_path, "model.json")
    assert not list(tmp_path.iterdir())


def graph(*nodes: onnx.NodeProto, dtype: int = onnx.TensorProto.INT64) -> onnx.ModelProto:
    """Scores are the input itself."""
    image = helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, ["N", 3, "H", "W"])
    mask = helper.make_tensor_value_info("mask", dtype, None)
    scores = helper.make_node("Neg", ["x"], ["scores"])
    made = helper.make_graph([scores, *nodes], "g", [image], [mask])
    return helper.make_model(made, opset_imports=[helper.make_opsetid("", 17)], ir_version=10)


ARGMAX = helper.make_node("ArgMax", ["scores"], ["mask"], axis=1, keepdims=0)


@pytest.mark.parametrize(
    ("nodes", "dtype"),
    [
        ([ARGMAX], onnx.TensorProto.INT64),
        (
            [
                helper.make_node("ArgMax", ["scores"], ["wide"], axis=1),
                helper.make_node("Cast", ["wide"], ["mask"], to=onnx.TensorProto.INT32),
            ],
            onnx.TensorProto.INT32,
        ),
    ],
)
def test_a_graph_ends_in_what_its_argmax_takes(nodes: list[onnx.NodeProto], dtype: int, tmp_path: Path) -> None:
    onnx.save(graph(*nodes, dtype=dtype), tmp_path / "old.onnx")
    cut_graph(tmp_path / "old.onnx", tmp_path, "new.onnx")
    new = onnx.load(tmp_path / "new.onnx").graph
    assert [each.op_type for each in new.node] == ["Neg"]
    (output,) = new.output
    assert output.name == "scores"
    assert [axis.dim_param or axis.dim_value for axis in output.type.tensor_type.shape.dim] == ["N", 3, "H", "W"]


@pytest.mark.parametrize(
    ("node", "message"),
    [
        (helper.make_node("ArgMax", ["scores"], ["mask"], axis=1, keepdims=0, select_last_index=1), "unknown axis"),
        (helper.make_node("ArgMax", ["scores"], ["mask"], keepdims=0), "along axis 0"),
        (helper.make_node("ArgMin", ["scores"], ["mask"], axis=1, keepdims=0), "the operator 'argmin'"),
    ],
)
def test_graphs_that_end_otherwise_are_refused(node: onnx.NodeProto, message: str, tmp_path: Path) -> None:
    onnx.save(graph(node), tmp_path / "old.onnx")
    with pytest.raises(ConversionError, match=message):
        cut_graph(tmp_path / "old.onnx", tmp_path, "new.onnx")


def test_every_pixel_counts_where_classes_are_compared() -> None:
    mask = np.zeros((25, 40), np.int64)
    mask[:, 20:] = 1
    scores = np.zeros((1, 3, 25, 40), np.float32)
    scores[:, 0, :, :20], scores[:, 1, :, 20:] = 1, 1
    scores[:, 2, 3, 4:8] = 2
    original = predictor(mask_network(mask))
    report = compare_classes(original, predictor(lambda _: scores), [("a", picture())])
    # 4 of 1000 pixels are of the third class.
    assert report.mismatched_ppm == pytest.approx(4000)
    with pytest.raises(ConversionError, match="the networks return mask and mask"):
        compare_classes(original, original, [("a", picture())])


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="module")
def made(argmax_network: Path, cache: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    """What `pseg convert --scores` makes of a bundle that also holds what hangs on its masks, and its record."""
    folder = tmp_path_factory.mktemp("made")
    shutil.copytree(argmax_network, folder / "old")
    meta = json.loads((folder / "old" / "meta.json").read_text())
    (folder / "old" / "meta.json").write_text(json.dumps({**meta, "licence": "CC0"}))
    (folder / "old" / "onnx" / "int8").mkdir(parents=True)
    onnx.save(graph(ARGMAX), folder / "old" / "onnx" / "int8" / "model.onnx")
    (folder / "old" / "notes.txt").write_text("from the survey of March")
    status, said, steps = run(
        "convert", folder / "old", "--scores", "--out", folder / "new.tgz", "--json", "--cache-dir", cache
    )
    assert (status, steps.partition(" converting")[0]) == (0, "cutting the argmax off"), steps
    return folder, json.loads(said)


@pytest.mark.long
def test_the_new_bundle_returns_scores_and_names_the_old_one(made: tuple[Path, dict[str, Any]]) -> None:
    folder, record = made
    with open_bundle(folder / "old") as old, open_bundle(folder / "new.tgz") as new:
        assert record["scores"] == {
            "derived_from": old.digest, "images": 3, "mismatched_ppm": 0.0, "left_out": ["onnx/int8/model.onnx"],
        }  # fmt: skip
        assert new.derived_from == old.digest
        assert new.digest != old.digest
        assert (new.declared.output_op, new.declared.output_dtype) == ("none", "float32")
        assert (new.classes, new.transforms) == (old.classes, old.transforms)
        meta = json.loads((new.folder / "meta.json").read_text())
        assert (meta["licence"], meta["derived_from"]["change"]) == ("CC0", "the last argmax was cut off")
        assert [each.precision for each in new.onnx] == [Precision.FP32]
        certificate = json.loads((new.folder / "onnx" / "fp32" / CERTIFICATE).read_text())
        assert certificate["model_digest"] == new.onnx[0].digest
        # The certificate is of the scores: the two logits are compared, which masks do not have.
        assert certificate["report"]["max_abs_logit_error"] is not None
        assert new.paddle is not None
        assert certificate["report"]["reference"]["model"] == new.paddle.digest
    assert record["parity"]["mismatched_ppm"] <= 100
    with tarfile.open(folder / "new.tgz") as archive:
        assert archive.extractfile("notes.txt").read() == b"from the survey of March"  # pyright: ignore[reportOptionalMemberAccess]


@pytest.mark.long
def test_both_models_of_the_new_bundle_say_the_old_mask(made: tuple[Path, dict[str, Any]], load_marks: Path) -> None:
    folder, _ = made
    tensor = np.random.default_rng(9).standard_normal((1, 3, 96, 128), dtype=np.float32)
    with open_bundle(folder / "old") as old, open_bundle(folder / "new.tgz") as new:
        assert old.paddle is not None
        mask = run_paddle(old.paddle.program, old.paddle.params, tensor)
        for options in (PaddleOptions(threads=2), OnnxOptions(threads=2)):
            (scores,) = open_runtime(new, options, load_marks=load_marks).run({"x": tensor}).values()
            assert (scores.argmax(axis=1) != mask).mean() <= (0 if isinstance(options, PaddleOptions) else 1e-4)


@pytest.mark.long
def test_inspection_shows_where_a_bundle_comes_from(made: tuple[Path, dict[str, Any]], tmp_path: Path) -> None:
    folder, record = made
    status, said, _ = run("inspect", folder / "new.tgz", "--json")
    assert status == 0
    assert json.loads(said)["derived_from"] == record["scores"]["derived_from"]
    # The digest is cut to the width of the terminal.
    assert record["scores"]["derived_from"][:40] in run("inspect", folder / "new.tgz")[1]
    status, said, _ = run("inspect", folder / "old", "--json")
    assert any("pseg convert --scores" in each for each in json.loads(said)["warnings"])
    status, _, said = run("convert", folder / "new.tgz", "--scores", "--out", tmp_path / "again.tgz")
    assert status == ExitStatus.UNUSABLE_MODEL
    assert "if these are scores already" in said


def test_a_bundle_of_onnx_alone_is_cut_in_its_graph(cache: Path, tmp_path: Path) -> None:
    (tmp_path / "old" / "onnx" / "fp32").mkdir(parents=True)
    (tmp_path / "old" / "deploy.yaml").write_text("Deploy: {with_argmax: true, transforms: [{type: Normalize}]}")
    onnx.save(graph(ARGMAX), tmp_path / "old" / "onnx" / "fp32" / "model.onnx")
    out = tmp_path / "new.tgz"
    status, said, _ = run("convert", tmp_path / "old", "--scores", "--out", out, "--json", "--cache-dir", cache)
    assert status == 0
    record = json.loads(said)
    assert (record["opset"], record["parity"]["mismatched_ppm"]) == (17, 0)
    with open_bundle(tmp_path / "old") as old, open_bundle(out) as new:
        assert new.derived_from == old.digest
        assert new.declared.output_op == "none"
        certificate = json.loads((new.folder / "onnx" / "fp32" / CERTIFICATE).read_text())["report"]
        assert (certificate["reference"]["bundle"], certificate["candidate"]["model"]) == (
            old.digest,
            new.onnx[0].digest,
        )


def test_the_origins_of_the_old_bundle_are_kept(tmp_path: Path) -> None:
    (tmp_path / "onnx" / "fp32").mkdir(parents=True)
    (tmp_path / "deploy.yaml").write_text("Deploy: {with_argmax: true, transforms: [{type: Normalize}]}")
    onnx.save(graph(ARGMAX), tmp_path / "onnx" / "fp32" / "model.onnx")
    earlier = {"bundle": "b" * 64, "change": "packed for onnx-fp32", "derived_from": {"bundle": "a" * 64}}
    (tmp_path / "meta.json").write_text(json.dumps({"derived_from": earlier}))
    with open_bundle(tmp_path) as old, with_scores(old) as made:
        origin = json.loads((made.bundle.folder / "meta.json").read_text())["derived_from"]
        assert origin == {"bundle": old.digest, "change": "the last argmax was cut off", "derived_from": earlier}


def test_a_graph_is_certified_on_the_pictures_that_are_named(cache: Path, tmp_path: Path) -> None:
    (tmp_path / "old" / "onnx" / "fp32").mkdir(parents=True)
    (tmp_path / "old" / "deploy.yaml").write_text("Deploy: {with_argmax: true, transforms: [{type: Normalize}]}")
    onnx.save(graph(ARGMAX), tmp_path / "old" / "onnx" / "fp32" / "model.onnx")
    (tmp_path / "pictures").mkdir()
    Image.effect_noise((80, 60), 90).convert("RGB").save(tmp_path / "pictures" / "a.tif")
    out = tmp_path / "new.tgz"
    named = "--verify", tmp_path / "pictures", "--bands", "1,2,3"
    status, _, said = run("convert", tmp_path / "old", "--scores", "--out", out, *named, "--cache-dir", cache)
    assert status == 0, said
    with open_bundle(out) as new:
        certificate = json.loads((new.folder / "onnx" / "fp32" / CERTIFICATE).read_text())
    assert (certificate["compared_on"], certificate["report"]["images"]) == ("verification", 1)


def test_a_graph_that_is_cut_gets_statistics(cache: Path, tmp_path: Path) -> None:
    (tmp_path / "old" / "onnx" / "fp32").mkdir(parents=True)
    (tmp_path / "old" / "deploy.yaml").write_text("Deploy: {with_argmax: true, transforms: [{type: Normalize}]}")
    onnx.save(graph(ARGMAX), tmp_path / "old" / "onnx" / "fp32" / "model.onnx")
    (tmp_path / "pictures").mkdir()
    for number in range(8):
        Image.effect_noise((80, 60), 10 + number).convert("RGB").save(tmp_path / "pictures" / f"{number}.png")
    named = "--calibrate", tmp_path / "pictures", "--cache-dir", cache
    status, _, said = run("convert", tmp_path / "old", "--scores", "--out", tmp_path / "new.tgz", *named)
    assert status == 0, said
    with open_bundle(tmp_path / "new.tgz") as new:
        reference = read_reference(new.folder)
        certificate = json.loads((new.folder / "onnx" / "fp32" / CERTIFICATE).read_text())
    assert reference is not None
    assert len(reference.pictures) == 8
    assert (certificate["compared_on"], certificate["report"]["images"]) == ("calibration", 8)


def test_overlapping_classes_have_no_argmax_to_cut(argmax_network: Path) -> None:
    with open_bundle(argmax_network) as bundle:
        overlapping = replace(bundle, multilabel=True)
        with pytest.raises(ConversionError, match="its classes overlap"), with_scores(overlapping):
            pass


def test_a_bundle_without_fp32_has_nothing_to_cut(argmax_network: Path, tmp_path: Path) -> None:
    with open_bundle(argmax_network) as bundle:
        other = replace(bundle, paddle=None, onnx=(OnnxModel(tmp_path, Precision.INT8, ""),))
        with pytest.raises(ConversionError, match="neither a Paddle program nor onnx/fp32"), with_scores(other):
            pass
