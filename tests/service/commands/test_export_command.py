"""`pseg export` and `pseg import`, as users run them."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner

from converters.exporting.export import export_bundle
from converters.exporting.paddleseg_config import build_network
from engine import open_bundle
from service import cli
from service.commands.terminal import ExitStatus
from tests.conftest import vendor_warnings_ignored
from tests.converters.exporting.trainings import configuration, human_seg_lite, save_weights, write_configuration

PSEG = Path(sys.executable).with_name("pseg")


@pytest.fixture(scope="module")
def training(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that a training left: configuration, weights, and the pipeline's own file."""
    folder = tmp_path_factory.mktemp("training")
    write_configuration(folder / "quadrats.yml", configuration())
    save_weights(human_seg_lite(), folder / "model.pdparams")
    pipeline = {
        "segmentationpostprocessing_classes": ["Other", "Strappy large", "Sand"],
        "segmentationpostprocessing_default_class_colours": [[0, 128, 0], [128, 0, 0], [194, 178, 128]],
        "paddlepaddlesegmentation_config_filename": "quadrats.yml",
        "paddlepaddlesegmentation_model_filename": "model.pdparams",
    }
    (folder / "cv.json").write_text(json.dumps(pipeline))
    return folder


def pseg(*arguments: object) -> Any:
    return CliRunner().invoke(cli.app, [str(each) for each in arguments], catch_exceptions=False)


@pytest.mark.long
def test_export_in_a_process_of_its_own_then_import_and_predict(training: Path, tmp_path: Path) -> None:
    out = tmp_path / "new" / "quadrats.tgz"
    done = subprocess.run(
        [PSEG, "export", "--cv-config", training / "cv.json", "--out", out, "--json"],
        capture_output=True,
        check=False,
        cwd=tmp_path,
        text=True,
    )
    assert done.returncode == ExitStatus.DONE, done.stderr
    assert json.loads(done.stdout) == {
        "bundle": str(out),
        "side_file": str(out.with_name("quadrats-meta.json")),
        "adapters": [],
        "evaluation": {},
    }
    assert {path.name for path in tmp_path.rglob("*")} == {"new", "quadrats.tgz", "quadrats-meta.json"}
    with open_bundle(out) as exported:
        assert exported.declared.output_op == "none"
    side = json.loads(out.with_name("quadrats-meta.json").read_text())
    assert side["artifact"] == "@@ARTIFACT@@"
    assert side["$schema"] == "urn:ibenthos:schema:paddle.seg.model.1"
    assert side["name"] == "quadrats"
    assert side["classes"][1] == {
        "id": "urn:ibenthos:segmentation:class:strappy-large",
        "name": "Strappy large",
        "def_color": [128, 0, 0],
    }
    again = pseg("import", out, "--out", tmp_path / "again.tgz", "--name", "again", "--json")
    assert again.exit_code == ExitStatus.DONE, again.stderr
    record = json.loads(again.stdout)
    assert (record["name"], record["classes"]) == ("again", ["Other", "Strappy large", "Sand"])
    with open_bundle(out) as first, open_bundle(tmp_path / "again.tgz") as second:
        assert first.paddle is not None
        assert second.paddle is not None
        assert (first.paddle.digest, first.transforms) == (second.paddle.digest, second.transforms)
        assert first.classes == second.classes


@pytest.mark.long
def test_options_come_before_the_pipelines_file(training: Path, tmp_path: Path) -> None:
    other = write_configuration(tmp_path / "other.yml", configuration(transforms=[{"type": "Normalize"}]))
    arguments = ["--config", other, "--cv-config", training / "cv.json", "--input-shape", "1", "3", "-1", "96"]
    arguments += ["--output-op", "argmax"]
    done = pseg("export", *arguments, "--out", tmp_path / "bundle", "--name", "narrow")
    assert done.exit_code == ExitStatus.DONE, done.stderr
    assert "narrow" not in done.stdout
    assert str(tmp_path / "bundle") in done.stdout
    deploy = yaml.safe_load((tmp_path / "bundle" / "deploy.yaml").read_text())["Deploy"]
    assert deploy["transforms"] == [{"type": "Normalize"}]
    assert deploy["input_shape"] == [1, 3, None, 96]
    assert deploy["output_op"] == "argmax"
    assert json.loads((tmp_path / "bundle" / "meta.json").read_text())["name"] == "narrow"


@pytest.mark.parametrize("form", [[], pytest.param(["--json"], marks=pytest.mark.long)])
def test_how_paddleseg_evaluates_is_told(form: list[str], training: Path, tmp_path: Path) -> None:
    window = {"is_slide": True, "crop_size": [96, 64], "stride": [48, 40]}
    config = write_configuration(tmp_path / "c.yml", {**configuration(), "test_config": window})
    done = pseg("export", "--config", config, "--cv-config", training / "cv.json", "--out", tmp_path / "bundle", *form)
    assert done.exit_code == ExitStatus.DONE, done.stderr
    stated = {"crop_size": [96, 64], "stride": [48, 40]}
    assert json.loads((tmp_path / "bundle" / "meta.json").read_text())["evaluation"] == stated
    if form:
        assert json.loads(done.stdout)["evaluation"] == stated
    else:
        assert "evaluates this network with --crop-size 96 64 --stride 48 40" in " ".join(done.stdout.split())


@pytest.mark.long
@pytest.mark.parametrize("form", [[], ["--json"]])
def test_what_was_changed_for_the_export_is_told(form: list[str], tmp_path: Path) -> None:
    backbone = {"type": "VisionTransformer", "img_size": 32, "embed_dim": 16, "depth": 1, "num_heads": 2}
    model = {"type": "LinearSegmenter", "num_classes": 2, "backbone": backbone}
    config = write_configuration(tmp_path / "c.yml", configuration(model, [{"type": "Normalize"}]))
    weights = save_weights(build_network(config, memory_bytes=8 << 30).network, tmp_path / "model.pdparams")
    done = pseg("export", "--config", config, "--weights", weights, "--out", tmp_path / "bundle", *form)
    assert done.exit_code == ExitStatus.DONE, done.stderr
    (adapter,) = json.loads((tmp_path / "bundle" / "meta.json").read_text())["model"]["adapters"]
    if form:
        assert json.loads(done.stdout)["adapters"] == [adapter]
    else:
        assert f"{adapter['name']}: {adapter['reason']}" in " ".join(done.stdout.split())


@pytest.mark.parametrize(
    ("arguments", "status", "message"),
    [
        (["--config", "quadrats.yml"], ExitStatus.WRONG_REQUEST, "--weights"),
        (["--weights", "model.pdparams"], ExitStatus.WRONG_REQUEST, "--config"),
        (["--cv-config", "cv.json", "--input-shape", 1, -1, 64, 64], ExitStatus.WRONG_REQUEST, "four numbers N C H W"),
        (["--cv-config", "cv.json", "--input-shape", 1, 3, 0, 64], ExitStatus.WRONG_REQUEST, "four numbers N C H W"),
        (["--cv-config", "absent.json"], ExitStatus.UNUSABLE_MODEL, "absent.json"),
        (["--cv-config", "cv.json", "--weights", "quadrats.yml"], ExitStatus.UNUSABLE_MODEL, "quadrats.yml"),
        (["--cv-config", "cv.json", "--output-op", "sigmoid"], ExitStatus.WRONG_REQUEST, "sigmoid"),
    ],
)
def test_what_cannot_be_exported_leaves_nothing(
    arguments: list[object],
    status: ExitStatus,
    message: str,
    training: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(training)
    done = pseg("export", *arguments, "--out", tmp_path / "out" / "bundle.tgz")
    assert done.exit_code == status, done.stderr
    assert message in " ".join(done.stderr.split())
    assert done.stdout == ""
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]


@pytest.mark.long
def test_import_says_when_classes_have_no_names_and_refuses_other_models(tmp_path: Path) -> None:
    source = tmp_path / "Lite_infer"
    with vendor_warnings_ignored():
        export_bundle(human_seg_lite(), source, name="", classes=[], transforms=None, output_op="argmax")
    (source / "meta.json").unlink()
    done = pseg("import", source, "--out", tmp_path / "lite.tgz")
    assert done.exit_code == ExitStatus.DONE, done.stderr
    assert "Lite_infer" in done.stdout
    assert "not named: add them with --cv-config" in " ".join(done.stdout.split())
    (source / "deploy.yaml").write_text(
        "Global: {model_name: PP-OCRv4_mobile_det}\nPostProcess: {name: DBPostProcess}\n"
    )
    refused = pseg("import", source, "--out", tmp_path / "ocr.tgz")
    assert refused.exit_code == ExitStatus.UNUSABLE_MODEL
    assert "not a segmentation model" in " ".join(refused.stderr.split())
    assert not (tmp_path / "ocr.tgz").exists()
