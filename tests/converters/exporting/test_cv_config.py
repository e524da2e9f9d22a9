"""The pipeline's configuration: two ways of naming classes."""

import json
from pathlib import Path
from typing import Any

import pytest

from converters.exporting.cv_config import read_cv_config
from converters.exporting.export import ExportClass
from engine import ConversionError


def written(folder: Path, content: Any) -> Path:
    path = folder / "cv.json"
    path.write_text(json.dumps(content))
    return path


def test_a_list_of_classes(tmp_path: Path) -> None:
    content: dict[str, Any] = {
        "name": "not looked at",
        "classes": [
            {"name": "Sand", "def_color": [194, 178, 128]},
            {"name": "Fern", "def_color": []},
            {"name": "Other", "id": "urn:ibenthos:segmentation:class:rest"},
        ],
    }
    read = read_cv_config(written(tmp_path, content))
    assert read.classes == (
        ExportClass("Sand", (194, 178, 128)),
        ExportClass("Fern"),
        ExportClass("Other", None, "urn:ibenthos:segmentation:class:rest"),
    )
    assert read.classes[2].urn == "urn:ibenthos:segmentation:class:rest"
    assert (read.config, read.weights, read.multilabel) == (None, None, None)


@pytest.mark.parametrize("stated", [True, False])
def test_whether_classes_overlap_may_be_all_that_is_said(stated: bool, tmp_path: Path) -> None:
    assert read_cv_config(written(tmp_path, {"multilabel": stated})).multilabel is stated


def test_the_pipelines_own_keys(tmp_path: Path) -> None:
    content = {
        "segmentationpostprocessing_classes": ["Strappy large", "Sand"],
        "segmentationpostprocessing_default_class_colours": [[0, 128, 0]],
        "paddlepaddlesegmentation_config_filename": "seagrass.yml",
        "paddlepaddlesegmentation_model_filename": "best/model.pdparams",
    }
    read = read_cv_config(written(tmp_path, content))
    assert read.classes == (ExportClass("Strappy large", (0, 128, 0)), ExportClass("Sand"))
    assert read.config == tmp_path / "seagrass.yml"
    assert read.weights == tmp_path / "best" / "model.pdparams"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({}, "names no classes"),
        ([], "must be a mapping of names"),
        ({"classes": [{"def_color": [1, 2, 3]}]}, r"classes\.0\.name"),
        ({"classes": [{"name": "a", "def_color": [1, 2, 300]}]}, r"classes\.0\.def_color\.2"),
        ({"classes": [{"name": "a", "def_color": [0.1, 0.2, 0.3]}]}, r"classes\.0\.def_color\.0"),
        ({"classes": [{"name": "a"}, {"name": "A"}]}, "'a' and 'A'"),
        ({"classes": [{"name": "a"}], "multilabel": "no"}, "multilabel: .*'no'"),
        ({"classes": [{"name": "a"}], "segmentationpostprocessing_classes": ["a"]}, "names classes twice"),
        (
            {
                "segmentationpostprocessing_classes": ["a"],
                "segmentationpostprocessing_default_class_colours": [[1, 2, 3], [4, 5, 6]],
            },
            "2 colours for 1 classes",
        ),
    ],
)
def test_what_cannot_be_meant_is_refused(content: Any, message: str, tmp_path: Path) -> None:
    with pytest.raises(ConversionError, match=message) as caught:
        read_cv_config(written(tmp_path, content))
    assert "cv.json" in str(caught.value)


def test_a_file_that_is_no_json_is_named(tmp_path: Path) -> None:
    (tmp_path / "cv.json").write_text("classes: [sand]")
    with pytest.raises(ConversionError, match=r"cv\.json is not valid JSON"):
        read_cv_config(tmp_path / "cv.json")
    with pytest.raises(ConversionError, match="absent"):
        read_cv_config(tmp_path / "absent.json")


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-32"])
def test_what_editors_make_of_a_text(encoding: str, tmp_path: Path) -> None:
    text = '{\r\n"classes": [{"name": "Großes Seegras"}]}'
    (tmp_path / "classes.json").write_bytes(text.encode(encoding))
    assert read_cv_config(tmp_path / "classes.json").classes == (ExportClass("Großes Seegras"),)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('{\n"classes": [{"name": "Großes"}]}'.encode("latin-1"), r"byte 0xdf in line 2 .*: save the file as UTF-8"),
        (b" " * (5 << 20), r"is larger than 4194304 bytes"),
        (b'{"classes": [], "classes": []}', "key 'classes' is there twice"),
        (b"[" * 100_000, "is not valid JSON"),
        (b'{"classes": [{"name": "\\ud800"}]}', r"classes\.0\.name: .*but it is"),
        (b'{"classes": [{"name": "' + b"n" * 2000 + b'"}]}', r"classes\.0\.name: .*at most 1000 characters"),
        (b'{"classes": [{"name": "a", "def_color": [NaN, 0, 0]}]}', r"classes\.0\.def_color\.0"),
    ],
)
def test_hostile_texts(content: bytes, message: str, tmp_path: Path) -> None:
    (tmp_path / "cv.json").write_bytes(content)
    with pytest.raises(ConversionError, match=message) as caught:
        read_cv_config(tmp_path / "cv.json")
    assert str(tmp_path / "cv.json") in str(caught.value)
    assert len(str(caught.value)) < 1000
