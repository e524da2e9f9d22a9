"""Networks become bundles: what the files say, and that a bundle is whole or absent."""

import json
import shutil
import signal
import subprocess
import sys
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from converters.exporting.bundle_files import (
    Description,
    bundle_in_one_step,
    meta_record,
    meta_text,
    numbered_classes,
    require_distinct,
    require_runs,
    side_file_of,
)
from converters.exporting.export import ExportClass, OutputOp, export_bundle
from engine import ConversionError, open_bundle
from tests.conftest import CLASSES, NORMALIZE, vendor_warnings_ignored
from tests.converters.exporting.trainings import human_seg_lite, logits_of, output_of


@pytest.fixture(scope="module")
def network() -> Any:
    return human_seg_lite()


@pytest.fixture(scope="module")
def tensor() -> Any:
    return np.random.default_rng(3).standard_normal((1, 3, 64, 96)).astype(np.float32)


def export(network: Any, destination: Path, **settings: Any) -> Path:
    with vendor_warnings_ignored():
        return export_bundle(network, destination, name="lite", classes=CLASSES, transforms=[NORMALIZE], **settings)


@pytest.fixture(scope="module")
def logits(network: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An exported folder; tests that change it copy it."""
    return export(network, tmp_path_factory.mktemp("logits") / "lite")


@pytest.mark.parametrize(
    "operation", ["argmax", *(pytest.param(each, marks=pytest.mark.long) for each in ("none", "softmax"))]
)
def test_the_program_ends_in_what_was_asked_for(operation: OutputOp, network: Any, tensor: Any, tmp_path: Path) -> None:
    scores = logits_of(network, tensor).astype(np.float64)
    powers = np.exp(scores - scores.max(axis=1, keepdims=True))
    expected = {"none": scores, "softmax": powers / powers.sum(axis=1, keepdims=True), "argmax": scores.argmax(axis=1)}
    with open_bundle(export(network, tmp_path / "lite", output_op=operation)) as bundle:
        output = output_of(bundle, tensor)
        assert bundle.declared.output_op == operation
    if operation == "argmax":
        assert output.dtype == np.int32
        assert (output != expected["argmax"]).mean() < 1e-3
        assert len(np.unique(output)) > 1
    else:
        np.testing.assert_allclose(output, expected[operation], atol=1e-4 * np.abs(expected[operation]).max())


@pytest.mark.long
def test_no_path_of_the_exporting_machine_stays_in_the_bundle(
    network: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "a folder of this machine").mkdir()
    monkeypatch.chdir(tmp_path / "a folder of this machine")
    with tarfile.open(export(network, Path("one.tgz"))) as archive:
        members = {each.name: archive.extractfile(each).read() for each in archive}  # pyright: ignore[reportOptionalMemberAccess]
    assert set(members) == {"deploy.yaml", "meta.json", "model.json", "model.pdiparams"}
    places = [str(tmp_path), str(Path(np.__file__).parents[1]), str(Path(__file__).parents[3]), "a folder of this"]
    assert not [(name, place) for name, content in members.items() for place in places if place.encode() in content]


def test_meta_is_what_the_model_schema_asks_for() -> None:
    classes = [ExportClass("Strappy large", (0, 128, 0)), ExportClass("Fern-like"), ExportClass("x", None, "urn:a:b")]
    assert meta_record(Description("seagrass", classes, {"type": "OCRNet"}), (None, 3, None, None)) == {
        "$schema": "urn:ibenthos:schema:paddle.seg.model.1",
        "name": "seagrass",
        "model": {"type": "OCRNet"},
        "classes": [
            {
                "id": "urn:ibenthos:segmentation:class:strappy-large",
                "name": "Strappy large",
                "def_color": [0, 128, 0],
            },
            {"id": "urn:ibenthos:segmentation:class:fern-like", "name": "Fern-like"},
            {"id": "urn:a:b", "name": "x"},
        ],
        "shape": [None, 3, None, None],
    }


@pytest.mark.parametrize(
    ("names", "message"), [(("Sand", "sand "), "'Sand' and 'sand '"), (("sand", "!?"), r"'!\?'.*give it an id")]
)
def test_classes_need_identifiers_of_their_own(names: tuple[str, ...], message: str) -> None:
    with pytest.raises(ConversionError, match=message):
        require_distinct([ExportClass(each) for each in names], where="classes.json")


def test_classes_that_nobody_named_are_numbered() -> None:
    assert [each.urn.rpartition(":")[2] for each in numbered_classes(2)] == ["class-0", "class-1"]


@pytest.mark.parametrize(
    ("name", "side"), [("m.tgz", "m-meta.json"), ("m.artifact.tar.gz", "m.artifact-meta.json"), ("m", "m-meta.json")]
)
def test_the_side_file_lies_beside_the_bundle(name: str, side: str) -> None:
    assert side_file_of(Path("out") / name) == Path("out") / side


@pytest.mark.parametrize("name", ["m.tgz", "m"])
def test_bundle_and_side_file_appear_when_they_are_finished(name: str, tmp_path: Path) -> None:
    destination = tmp_path / "new" / name
    with bundle_in_one_step(destination, side_file=True) as folder:
        (folder / "meta.json").write_text('{"name": "m"}')
        assert not destination.exists()
    assert sorted(path.name for path in destination.parent.iterdir()) == sorted([name, "m-meta.json"])
    assert json.loads((tmp_path / "new" / "m-meta.json").read_text()) == {"name": "m", "artifact": "@@ARTIFACT@@"}
    assert [path for path in destination.parent.rglob("*") if path.stat().st_mode & 0o444 != 0o444] == []


def test_a_failure_leaves_everything_as_it_was(tmp_path: Path) -> None:
    destination = tmp_path / "m.tgz"
    destination.write_text("the old bundle")
    with pytest.raises(ConversionError, match="half-way"), bundle_in_one_step(destination, side_file=True) as folder:
        (folder / "meta.json").write_text("{}")
        raise ConversionError("half-way")
    assert [(path.name, path.read_text()) for path in tmp_path.iterdir()] == [("m.tgz", "the old bundle")]


KILLED = """
import os, signal, sys
from pathlib import Path
from converters.exporting.bundle_files import bundle_in_one_step

def killed(*_):
    os.kill(os.getpid(), signal.SIGKILL)

if sys.argv[2] == "renaming":
    Path.replace = killed
with bundle_in_one_step(Path(sys.argv[1]), side_file=True) as folder:
    (folder / "meta.json").write_text('{"name": "new"}')
    if sys.argv[2] == "writing":
        killed()
"""


@pytest.mark.parametrize("name", ["m.tgz", "m"])
@pytest.mark.parametrize("moment", ["writing", "renaming"])
def test_a_killed_export_leaves_nothing_for_long_and_no_bundle_without_a_side_file(
    name: str, moment: str, tmp_path: Path
) -> None:
    destination = tmp_path / name
    killed = subprocess.run([sys.executable, "-c", KILLED, destination, moment], check=False)
    assert killed.returncode == -signal.SIGKILL
    assert not destination.exists()
    assert (tmp_path / "m-meta.json").exists() is (moment == "renaming")
    with bundle_in_one_step(tmp_path / "other", side_file=True) as folder:
        (folder / "meta.json").write_text("{}")
    left = {path.name for path in tmp_path.iterdir()}
    assert left - {"m-meta.json"} == {"other", "other-meta.json"}


@pytest.mark.parametrize("before", [None, '{"name": "old"}'])
def test_a_bundle_that_cannot_be_renamed_leaves_the_side_file_as_it_was(before: str | None, tmp_path: Path) -> None:
    side = tmp_path / "m-meta.json"
    if before is not None:
        side.write_text(before)
    with (
        pytest.raises(ConversionError, match="cannot be written"),
        bundle_in_one_step(tmp_path / "m", side_file=True) as folder,
    ):
        (folder / "meta.json").write_text('{"name": "new"}')
        (tmp_path / "m").mkdir()
        (tmp_path / "m" / "notes.txt").touch()
    assert (side.read_text() if side.exists() else None) == before
    assert {path.name for path in tmp_path.iterdir()} == {"m"} | ({"m-meta.json"} if before else set())


@pytest.mark.parametrize("name", ["full", "folder.tgz", "file/m.tgz"])
def test_a_destination_that_cannot_be_written_is_named(name: str, tmp_path: Path) -> None:
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "notes.txt").touch()
    (tmp_path / "folder.tgz").mkdir()
    (tmp_path / "file").touch()
    with pytest.raises(ConversionError, match=name), bundle_in_one_step(tmp_path / name):
        pass


def test_a_bundle_of_logits_tells_how_many_classes_there_are(logits: Path) -> None:
    assert require_runs(logits, Path("lite.tgz")) == 3


@pytest.mark.long
def test_a_bundle_of_masks_must_name_the_classes_that_it_returns(network: Any, tmp_path: Path) -> None:
    folder = export(network, tmp_path / "lite", output_op="argmax", input_shape=(1, 3, 96, 160))
    (folder / "meta.json").write_text(meta_text(meta_record(Description("lite", CLASSES[:1]), (1, 3, 96, 160))))
    with pytest.raises(ConversionError, match=r"lite\.tgz: not written, because the network returns class [12]"):
        require_runs(folder, Path("lite.tgz"))


@pytest.mark.parametrize("operation", ["argmax", pytest.param("softmax", marks=pytest.mark.long)])
def test_overlapping_classes_do_not_go_with_an_operator_that_lets_one_win(
    operation: OutputOp, network: Any, tmp_path: Path
) -> None:
    folder = export(network, tmp_path / "lite", output_op=operation)
    (folder / "meta.json").write_text(
        meta_text(meta_record(Description("lite", CLASSES, multilabel=True), (None, 3, None, None)))
    )
    with pytest.raises(ConversionError, match=rf"overlap \(multilabel\), and the network ends in {operation}"):
        require_runs(folder, Path("lite.tgz"))


def test_a_program_that_does_not_run_is_refused(logits: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(logits, tmp_path / "cut")
    weights = (folder / "model.pdiparams").read_bytes()
    (folder / "model.pdiparams").write_bytes(weights[: len(weights) // 2])
    with pytest.raises(ConversionError, match=r"lite\.tgz: not written, because the bundle does not work"):
        require_runs(folder, Path("lite.tgz"))
