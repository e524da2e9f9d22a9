"""The clean-up that a bundle states in meta.json: what users get of it, what they see of it, what is refused."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image

from tests.service.bundles import bundle_folder, packed
from tests.service.commands.test_cli import pseg, pseg_error
from tests.service.commands.test_evaluate_command import COLORS, evaluated
from tests.service.ivcap.test_fulfilment import Picture, Pictures, Scene
from tests.service.results.test_orthomosaics import SMALL, classes_of, geotiff


def stating(folder: Path, **cleanup: Any) -> Path:
    """A bundle folder that finds the strongest band, and states a clean-up."""
    made = bundle_folder(folder)
    meta = json.loads((made / "meta.json").read_text())
    (made / "meta.json").write_text(json.dumps({**meta, "cleanup": cleanup}))
    return made


def dotted(path: Path) -> tuple[Path, npt.NDArray[np.int_]]:
    """A red picture with green squares of 4 and of 100 pixels and a blue one of 100, and its classes."""
    classes = np.zeros((40, 60), int)
    classes[5:7, 5:7] = 1
    classes[20:30, 30:40] = 1
    classes[20:30, 45:55] = 2
    Image.fromarray(COLORS[classes]).save(path)
    return path, classes


def covers(record: Any) -> list[float]:
    return [each["cover"] for each in record["cover"]]


def test_it_is_done_unless_the_user_says_otherwise_and_named_as_the_bundles(tmp_path: Path) -> None:
    bundle = stating(tmp_path / "bundle", min_area="10px", median=3)
    photo, classes = dotted(tmp_path / "photo.png")
    small, all_green = 100 / classes.size, 104 / classes.size
    for options, least, measuring in (
        ((), 96 / classes.size, {"median": 3, "min_area": "10px", "from_bundle": ["median", "min_area"]}),
        (("--min-area", "101px"), 0.0, {"median": 3, "min_area": "101px", "from_bundle": ["median"]}),
        (("--ignore-bundle-cleanup",), all_green, None),
        (("--ignore-bundle-cleanup", "--min-area", "5px"), small, {"min_area": "5px"}),
    ):
        out, page = tmp_path / f"out-{len(options)}-{least}", tmp_path / "page.html"
        arguments = (*options, "--out", out, "--save", "mask", "--report", page, "--json")
        (record,) = pseg("predict", bundle, photo, *arguments).records
        assert record["provenance"].get("measuring") == measuring
        # A median rounds the corners of a square off.
        assert record["cover"][1]["cover"] == pytest.approx(least, abs=1e-6)
        assert pseg("reproduce", out, "--bundle", bundle).status == 0
        stated = "clean-up that the bundle states</dt>" in page.read_text()
        assert stated is bool(measuring and "from_bundle" in measuring)


def test_rasters_have_it_too(tmp_path: Path) -> None:
    bundle = stating(tmp_path / "bundle", min_area="20m2")
    _, classes = dotted(tmp_path / "photo.png")
    source = geotiff(tmp_path / "reef.tif", np.moveaxis(COLORS[classes], -1, 0))
    # A pixel has 0.25 square metres: 80 pixels.
    (record,) = pseg("predict", bundle, source, "--out", tmp_path / "out", *SMALL, "--json").records
    assert record["provenance"]["measuring"] == {"min_area": "20m2", "from_bundle": ["min_area"]}
    found = classes_of(tmp_path / "out" / "reef.tif")
    assert (found[:10] == 0).all() and (found == 1).sum() == 100
    # Nothing tells the size of a photograph on the ground: an error of the image, with the remedy.
    outcome = pseg("predict", bundle, tmp_path / "photo.png", "--out", tmp_path / "other", "--json")
    assert outcome.status == 1
    assert "ignore-bundle-cleanup" in outcome.records[0]["error"]["message"]


def test_evaluations_judge_what_users_get(tmp_path: Path) -> None:
    bundle = stating(tmp_path / "bundle", min_area="10px")
    (tmp_path / "images").mkdir()
    (tmp_path / "masks").mkdir()
    _, classes = dotted(tmp_path / "images" / "1.png")
    labels = classes.copy()
    labels[5:7, 5:7] = 0
    Image.fromarray(labels.astype(np.uint8)).save(tmp_path / "masks" / "1.png")
    folders = ("--images", tmp_path / "images", "--masks", tmp_path / "masks")
    (as_got,) = evaluated(bundle, *folders)["results"]
    (bare,) = evaluated(bundle, *folders, "--ignore-bundle-cleanup")["results"]
    assert as_got["accuracy"] == 1
    assert bare["accuracy"] == pytest.approx(1 - 4 / classes.size)
    assert as_got["provenance"]["measuring"] == {"min_area": "10px", "from_bundle": ["min_area"]}


def test_orders_have_it_and_can_leave_it_out(tmp_path: Path) -> None:
    photo, classes = dotted(tmp_path / "photo.png")
    bundle = packed(stating(tmp_path / "files", min_area="10px"), tmp_path / "stating.tgz")
    cases: list[tuple[dict[str, Any], int]] = [({}, 100), ({"ignore_bundle_cleanup": True}, 104)]
    for given, green in cases:
        (tmp_path / str(green)).mkdir()
        scene = Scene(tmp_path / str(green), bundle)
        outcome, _ = scene.do(Pictures([Picture(photo, scene.history)], scene.history), **given)
        assert outcome.problems == []
        assert outcome.published[0].covers[1].cover == pytest.approx(green / classes.size)


def test_pack_writes_it_and_inspect_shows_it(tmp_path: Path, bundle: Path) -> None:
    first, second, bare = (tmp_path / f"{name}.tgz" for name in ("first", "second", "bare"))
    pseg("pack", bundle, "--for", "onnx-fp32", "--out", first, "--min-area", "10px", "--keep-classes", "green")
    pseg("pack", first, "--for", "onnx-fp32", "--out", second, "--fill-holes", "--min-area", "20px")
    pseg("pack", second, "--for", "onnx-fp32", "--out", bare, "--ignore-bundle-cleanup")
    shown = [pseg("inspect", each, "--json").records[0] for each in (bundle, first, second, bare)]
    assert [each["cleanup"] for each in shown] == [
        {},
        {"keep_classes": "green", "min_area": "10px"},
        {"keep_classes": "green", "fill_holes": True, "min_area": "20px"},
        {},
    ]
    assert len({each["digest"] for each in shown[:3]}) == 3
    assert "min_area 20px" in pseg("inspect", second).stdout
    plain = ("--for", "onnx-fp32", "--out", tmp_path / "x.tgz")
    assert "--ignore-bundle-cleanup: the bundle states no" in pseg_error(
        "pack", bundle, *plain, "--ignore-bundle-cleanup"
    )
    assert "not a class of this bundle" in pseg_error("pack", bundle, *plain, "--keep-classes", "mud")


@pytest.mark.parametrize(
    ("cleanup", "said"),
    [
        ({"median": 4}, "cleanup.median: 4 is even"),
        ({"median": 103}, "cleanup.median: 103 is more than 101"),
        ({"median": 10**30}, "cleanup.median"),
        ({"median": "5"}, "cleanup.median"),
        ({"median": True}, "cleanup.median"),
        ({"fill_holes": "yes"}, "cleanup.fill_holes"),
        ({"min_area": "0px"}, "cleanup.min_area: 0px: give an area"),
        ({"min_area": "9" * 400 + "px"}, "cleanup.min_area"),
        ({"min_area": 50}, "cleanup.min_area"),
        ({"keep_classes": "mud"}, "cleanup.keep_classes: mud is not a class of this bundle"),
        ({"keep_classes": "a" * 2000}, "cleanup.keep_classes"),
        ({"min-area": "50px"}, "cleanup.min-area"),
        ({"ignore_bundle_cleanup": True}, "cleanup.ignore_bundle_cleanup"),
    ],
)
def test_values_outside_of_their_limits_are_refused_by_name(tmp_path: Path, cleanup: dict[str, Any], said: str) -> None:
    bundle = stating(tmp_path / "bundle", **cleanup)
    photo, _ = dotted(tmp_path / "photo.png")
    outcome = pseg("predict", bundle, photo, "--out", tmp_path / "out")
    assert outcome.status != 0
    assert "meta.json" in outcome.stderr and said in outcome.stderr
    assert not [*(tmp_path / "out").glob("*.png")]
