"""A slim bundle gives the masks of the whole one, and says where it comes from; a plain ONNX file describes itself."""

# onnxruntime ships no complete types.
# pyright: reportMissingTypeStubs=false, reportUnknownMemberType=false, reportUnknownVariableType=false
# pyright: reportUnknownArgumentType=false

import json
import re
import shutil
from collections.abc import Callable, Generator
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import yaml
from onnx import numpy_helper

from converters.deployment import Deployment, write_plain_onnx, write_slim_bundle
from engine import (
    Bundle,
    ConversionError,
    ModelLoadError,
    OnnxModel,
    OptionError,
    open_bundle,
    open_predictor,
    read_image,
)
from engine.images.quality import STATISTICS_NAME, read_reference, statistics_json
from engine.images.statistics import picture_statistics
from engine.options import Precision, RuntimeName
from engine.runtimes.profile import PROFILE_NAME, Profile, library_versions, profile_json, read_profile
from engine.runtimes.selection import RuntimeRequest
from engine.segmentation.prediction import Prediction, Provenance
from engine.system.machine.hardware import this_host
from service.inspection.bundle import warnings_of
from tests.service.bundles import bundle_folder, strongest_band_network

DEMO = Path(__file__).parents[2] / "demo"
NUCLEI = DEMO / "nuclei.tgz"
"""Holds Paddle's program, FP32 and INT8, and certificates."""
PICTURE = DEMO / "pictures" / "scene_900004.jpg"


@pytest.fixture(scope="module")
def whole() -> Generator[Bundle]:
    with open_bundle(NUCLEI) as bundle:
        yield bundle


def prediction(bundle: Path, load_marks: Path, request: RuntimeRequest) -> tuple[Prediction, Provenance]:
    with open_bundle(bundle) as opened, open_predictor(opened, request, load_marks=load_marks) as predictor:
        return predictor.predict(read_image(PICTURE, max_img_size=200_000)), predictor.provenance


@pytest.mark.parametrize("deployment", [Deployment.ONNX_FP32, Deployment.ONNX_INT8, Deployment.PADDLE])
def test_the_mask_is_that_of_the_whole_bundle(
    whole: Bundle, tmp_path: Path, load_marks: Path, deployment: Deployment
) -> None:
    slim = tmp_path / "slim.tgz"
    made = write_slim_bundle(whole, deployment, slim)
    runtime = RuntimeName.PADDLE if deployment is Deployment.PADDLE else RuntimeName.ONNX
    named = RuntimeRequest(runtime=runtime, precision=deployment.precision, threads=1)
    expected, before = prediction(NUCLEI, load_marks, named)
    # Nothing is named: the only model that it holds is what runs.
    found, provenance = prediction(slim, load_marks, RuntimeRequest(runtime=runtime, threads=1))
    assert np.array_equal(found.mask, expected.mask)
    assert (provenance.model, provenance.precision) == (before.model, deployment.precision)
    assert provenance.bundle == made.digest != before.bundle
    assert (provenance.derived_from, before.derived_from) == (whole.digest, None)
    assert slim.stat().st_size < 0.6 * NUCLEI.stat().st_size


def test_models_of_another_network_are_not_run(whole: Bundle, tmp_path: Path, load_marks: Path) -> None:
    assert whole.paddle is not None
    trained_anew = tmp_path / "nuclei"
    shutil.copytree(whole.folder, trained_anew)
    weights = trained_anew / whole.paddle.params.name
    content = bytearray(weights.read_bytes())
    content[-4:] = np.float32(0.5).tobytes()
    weights.write_bytes(content)
    with open_bundle(trained_anew) as bundle:
        told = r"onnx/(fp32|int8)/model\.onnx was made of another network than the bundle holds"
        for precision in (Precision.FP32, Precision.INT8):
            with pytest.raises(ModelLoadError, match=told):
                open_predictor(bundle, RuntimeRequest(runtime=RuntimeName.ONNX, precision=precision))
        for deployment in (Deployment.ONNX_FP32, Deployment.ONNX_INT8):
            with pytest.raises(ConversionError, match=told):
                write_slim_bundle(bundle, deployment, tmp_path / "slim.tgz")
        with open_predictor(bundle, RuntimeRequest(threads=1), load_marks=load_marks) as predictor:
            assert predictor.provenance.runtime == "paddle"
            assert bundle.paddle is not None
            assert predictor.provenance.model == bundle.paddle.digest != whole.paddle.digest
            assert re.search(told, predictor.provenance.fallbacks[0])
        warnings = warnings_of(bundle)
    assert sum("was made of another network" in each for each in warnings) == 2


def test_a_slim_bundle_holds_nothing_else(whole: Bundle, tmp_path: Path) -> None:
    made = write_slim_bundle(whole, Deployment.ONNX_INT8, tmp_path / "slim.tgz")
    folder = "onnx/int8"
    assert made.files == ("deploy.yaml", "meta.json", f"{folder}/model.onnx", f"{folder}/parity.json")
    assert made.notes == ()
    with open_bundle(tmp_path / "slim.tgz") as slim:
        assert slim.digest == made.digest
        assert (slim.name, slim.classes, slim.transforms) == (whole.name, whole.classes, whole.transforms)
        assert slim.paddle is None
        assert slim.derived_from == whole.digest
        meta = json.loads((slim.folder / "meta.json").read_text())
        # The origin of a bundle that was made from another one is kept.
        again = write_slim_bundle(slim, Deployment.ONNX_INT8, tmp_path / "again.tgz")
    with open_bundle(tmp_path / "again.tgz") as slim:
        assert (slim.digest, slim.derived_from) == (again.digest, made.digest)
        origin = json.loads((slim.folder / "meta.json").read_text())["derived_from"]
        assert origin["derived_from"] == meta["derived_from"]


@pytest.mark.parametrize("convertible", [True, False])
def test_what_is_said_of_a_model_without_a_certificate_can_be_done(
    whole: Bundle, tmp_path: Path, convertible: bool
) -> None:
    bundle = tuned(whole, tmp_path / "whole", Precision.FP32, whole.digest)
    (bundle.folder / "onnx" / "fp32" / "parity.json").unlink()
    bundle = bundle if convertible else replace(bundle, paddle=None)
    made = write_slim_bundle(bundle, Deployment.ONNX_FP32, tmp_path / "slim.tgz")
    (note,) = [each for each in made.notes if "certificate" in each]
    assert ("`pseg convert` makes both again" in note) is convertible
    assert ("no Paddle program to compare it with" in note) is not convertible


def test_what_the_bundle_does_not_hold_is_not_packed(whole: Bundle, tmp_path: Path) -> None:
    with pytest.raises(ConversionError, match=r"holds no onnx/fp16/model\.onnx: make one with `pseg convert`"):
        write_slim_bundle(whole, Deployment.ONNX_FP16, tmp_path / "slim.tgz")
    with pytest.raises(ConversionError, match="holds no Paddle program"):
        write_slim_bundle(replace(whole, paddle=None), Deployment.PADDLE, tmp_path / "slim.tgz")
    assert list(tmp_path.iterdir()) == []


def tuned(whole: Bundle, folder: Path, precision: Precision, digest: str) -> Bundle:
    """The bundle with a profile."""
    for path in whole.folder.rglob("*"):
        if path.is_file():
            target = folder / path.relative_to(whole.folder)
            target.parent.mkdir(parents=True, exist_ok=True)
            target.symlink_to(path)
    versions = library_versions(RuntimeName.ONNX)
    profile = Profile(digest, this_host(), versions, "cpu", precision, 1, 1, "latency", "fast")
    (folder / PROFILE_NAME).write_bytes(profile_json(profile))
    return replace(whole, folder=folder, onnx=tuple(_moved(each, whole.folder, folder) for each in whole.onnx))


def _moved(model: OnnxModel, before: Path, after: Path) -> OnnxModel:
    return replace(model, path=after / model.path.relative_to(before))


def test_the_profile_of_what_is_packed_fits_the_slim_bundle(whole: Bundle, tmp_path: Path) -> None:
    bundle = tuned(whole, tmp_path / "whole", Precision.INT8, whole.digest)
    made = write_slim_bundle(bundle, Deployment.ONNX_INT8, tmp_path / "slim.tgz")
    assert made.notes == ()
    with open_bundle(tmp_path / "slim.tgz") as slim:
        assert read_profile(slim.folder / PROFILE_NAME).mismatch(slim) is None


@pytest.mark.parametrize(
    ("precision", "digest", "told"),
    [(Precision.FP32, None, "it chose cpu fp32"), (Precision.INT8, "5" * 64, "another")],
)
def test_another_profile_is_left_out(
    whole: Bundle, tmp_path: Path, precision: Precision, digest: str | None, told: str
) -> None:
    bundle = tuned(whole, tmp_path / "whole", precision, digest or whole.digest)
    made = write_slim_bundle(bundle, Deployment.ONNX_INT8, tmp_path / "slim.tgz")
    assert PROFILE_NAME not in made.files
    assert len(made.notes) == 1
    assert told in made.notes[0]


def test_a_plain_onnx_file_describes_itself(whole: Bundle, tmp_path: Path) -> None:
    write_plain_onnx(whole, Deployment.ONNX_FP32, tmp_path / "model.onnx")
    session = onnxruntime.InferenceSession(tmp_path / "model.onnx", providers=["CPUExecutionProvider"])
    metadata = {name: json.loads(text) for name, text in session.get_modelmeta().custom_metadata_map.items()}
    settings = yaml.safe_load((whole.folder / "deploy.yaml").read_text())["Deploy"]["transforms"]
    normalize = next(each for each in settings if each["type"] == "Normalize")
    # What Deepness reads: the kind, names by consecutive numbers, and one number for each band.
    assert metadata["model_type"] == "Segmentor"
    assert metadata["class_names"] == {"0": "background", "1": "nucleus"}
    assert metadata["standardization_mean"] == normalize.get("mean", [0.5, 0.5, 0.5])
    assert metadata["standardization_std"] == normalize.get("std", [0.5, 0.5, 0.5])
    assert metadata["pseg.bundle"] == whole.digest
    assert [each["type"] for each in metadata["pseg.transforms"]] == [each["type"] for each in settings]
    assert [each["name"] for each in metadata["pseg.classes"]] == ["background", "nucleus"]
    (taken,) = session.get_inputs()
    noise = np.random.default_rng(0).standard_normal((1, 3, 64, 96), dtype=np.float32)
    original = onnxruntime.InferenceSession(whole.folder / "onnx/fp32/model.onnx", providers=["CPUExecutionProvider"])
    expected, found = (np.asarray(each.run(None, {taken.name: noise})[0]) for each in (original, session))
    assert np.array_equal(found, expected)


def test_its_size_may_be_fixed(whole: Bundle, tmp_path: Path) -> None:
    write_plain_onnx(whole, Deployment.ONNX_INT8, tmp_path / "model.onnx", side=96)
    session = onnxruntime.InferenceSession(tmp_path / "model.onnx", providers=["CPUExecutionProvider"])
    assert session.get_inputs()[0].shape == [1, 3, 96, 96]
    assert session.get_outputs()[0].shape == [1, 2, 96, 96]


def test_its_size_may_be_fixed_where_the_file_states_no_axes_of_the_output(tmp_path: Path) -> None:
    model = onnx.ModelProto.FromString(strongest_band_network())
    model.graph.output[0].type.tensor_type.ClearField("shape")
    with open_bundle(bundle_folder(tmp_path / "open", network=model.SerializeToString())) as bundle:
        write_plain_onnx(bundle, Deployment.ONNX_FP32, tmp_path / "model.onnx", side=96)
    onnx.checker.check_model(onnx.load(tmp_path / "model.onnx"), full_check=True)
    session = onnxruntime.InferenceSession(tmp_path / "model.onnx", providers=["CPUExecutionProvider"])
    assert [each.shape for each in (*session.get_inputs(), *session.get_outputs())] == [[1, 3, 96, 96]] * 2


@pytest.mark.parametrize("write", [write_slim_bundle, write_plain_onnx])
def test_a_model_with_tensors_in_other_files_is_not_packed(write: Callable[..., object], tmp_path: Path) -> None:
    folder = bundle_folder(tmp_path / "apart")
    path = folder / "onnx" / "fp32" / "model.onnx"
    model = onnx.load(path)
    (weights,) = model.graph.initializer
    weights.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(weights), weights.name))
    onnx.save(model, path, save_as_external_data=True, location="weights.bin", size_threshold=0)
    with open_bundle(folder) as bundle:
        with pytest.raises(ModelLoadError, match=r"apart: onnx/fp32/model\.onnx keeps tensors in other files"):
            write(bundle, Deployment.ONNX_FP32, tmp_path / "out.tgz")
        assert any("keeps tensors in other files" in warning for warning in warnings_of(bundle))
    assert not (tmp_path / "out.tgz").exists()


def test_no_plain_onnx_file_of_a_paddle_program(whole: Bundle, tmp_path: Path) -> None:
    with pytest.raises(OptionError, match="name an onnx deployment"):
        write_plain_onnx(whole, Deployment.PADDLE, tmp_path / "model.onnx")


def test_the_statistics_of_a_calibration_are_kept(whole: Bundle, tmp_path: Path) -> None:
    measured = picture_statistics(read_image(PICTURE).pixels)
    write_slim_bundle(whole, Deployment.ONNX_FP32, tmp_path / "slim.tgz")
    with open_bundle(tmp_path / "slim.tgz") as slim:
        (slim.folder / STATISTICS_NAME).write_bytes(statistics_json([measured] * 8))
        write_slim_bundle(slim, Deployment.ONNX_FP32, tmp_path / "again.tgz")
    with open_bundle(tmp_path / "again.tgz") as again:
        reference = read_reference(again.folder)
    assert reference is not None
    assert reference.pictures == (measured,) * 8
