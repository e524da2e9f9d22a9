"""`pseg tune`, and how `pseg predict` obeys what it wrote: on this host, with this bundle, and nowhere else."""

import json
import logging
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner, Result

from converters.exporting.packing import pack
from engine import Precision, open_bundle
from engine.options import RuntimeName
from engine.runtimes.profile import Profile, library_versions, profile_json, read_profile
from engine.system.machine.cores import usable_cores
from engine.system.machine.hardware import this_host
from service import cli
from service.commands.terminal import ExitStatus
from tests.service.bundles import bundle_folder
from tests.service.pictures import BLUE, GREEN, RED, painted


def pseg(*arguments: object) -> Result:
    return CliRunner().invoke(cli.app, [str(each) for each in arguments], catch_exceptions=False)


@pytest.fixture
def images(tmp_path: Path) -> Path:
    folder = tmp_path / "images"
    folder.mkdir()
    for index in range(8):
        (folder / f"{index}.png").write_bytes(painted(RED, GREEN, *([BLUE] * (index % 3)), width=48, height=32))
    return folder


@pytest.fixture
def masks(images: Path, tmp_path: Path) -> Path:
    """Labels of the pictures: the strongest band."""
    folder = tmp_path / "masks"
    folder.mkdir()
    for path in images.iterdir():
        with Image.open(path) as image:
            labels = np.asarray(image).argmax(axis=2).astype(np.uint8)
        Image.fromarray(labels).save(folder / path.name)
    return folder


def profile_for(bundle: Path) -> Profile:
    """One that fits here, and, on more than one core, differs from what `auto` does by itself."""
    with open_bundle(bundle) as opened:
        return Profile(
            bundle=opened.digest,
            host=this_host(),
            versions=library_versions(RuntimeName.ONNX),
            provider="cpu",
            precision=Precision.FP32,
            threads=1,
            batch_size=2,
            goal="throughput",
            reason="made up",
        )


def predicted(bundle: Path, images: Path, out: Path, *options: object) -> dict[str, Any]:
    """The provenance of a prediction."""
    result = pseg("predict", bundle, images / "0.png", "--out", out, "--json", *options)
    assert result.exit_code == ExitStatus.DONE, result.stderr
    return json.loads(result.stdout.splitlines()[0])["provenance"]


def carrying(bundle: Path, profile: bytes, destination: Path) -> Path:
    """A copy of a bundle with a profile."""
    with open_bundle(bundle) as opened:
        files = {
            path.relative_to(opened.folder).as_posix(): path for path in opened.folder.rglob("*") if path.is_file()
        }
        pack({**files, "profile.json": profile}, destination)
    return destination


@pytest.mark.long
def test_a_bundle_is_tuned_quantized_and_its_profile_obeyed(images: Path, masks: Path, tmp_path: Path) -> None:
    bundle, cache, tuned = bundle_folder(tmp_path / "files"), tmp_path / "cache", tmp_path / "tuned.tgz"
    result = pseg(
        "tune", bundle, "--images", images, "--masks", masks, "--budget-s", 25, "--into", tuned, "--cache-dir", cache,
        "--json",
    )  # fmt: skip
    assert result.exit_code == ExitStatus.DONE, result.stderr
    record = json.loads(result.stdout)
    tried = {(each["configuration"]["provider"], each["configuration"]["precision"]) for each in record["trials"]}
    assert {("cpu", "fp32"), ("cpu", "int8")} <= tried
    assert record["judged_by"] == "labels of 8 images"
    (chosen,) = [each for each in record["trials"] if each["chosen"]]
    assert chosen["broken"] == []
    assert chosen["summary"]["class_iou_kept"] == 1
    profile = record["profile"]
    assert {name: profile[name] for name in ("provider", "precision", "threads", "batch_size")} == {
        name: chosen["configuration"][name] for name in ("provider", "precision", "threads", "batch_size")
    }
    provenance = predicted(tuned, images, tmp_path / "out", "--cache-dir", cache)
    with open_bundle(tuned) as opened:
        carried = read_profile(opened.folder / "profile.json")
        assert carried.bundle == opened.digest == provenance["bundle"]
        assert opened.onnx_model(carried.precision) is not None
    assert provenance["profile"] == carried.digest
    assert (provenance["provider"], provenance["precision"], provenance["threads"]) == (
        profile["provider"],
        profile["precision"],
        profile["threads"],
    )


@pytest.mark.long
def test_a_profile_of_its_own_is_written_and_shown(bundle: Path, images: Path, tmp_path: Path) -> None:
    out = tmp_path / "profile.json"
    options = ("--images", images, "--budget-s", 0.1, "--cache-dir", tmp_path / "c")
    result = pseg("tune", bundle, *options, "--goal", "memory", "--out", out)
    assert result.exit_code == ExitStatus.DONE, result.stderr
    assert "chosen" in result.stdout
    assert "with --into, one is made" in result.stdout
    assert "the budget ended the search early" in result.stdout
    profile = read_profile(out)
    assert (profile.provider, profile.precision, profile.goal) == ("cpu", Precision.FP32, "memory")
    assert profile.reason in result.stdout
    assert predicted(bundle, images, tmp_path / "out", "--profile", out)["profile"] == profile.digest


@pytest.mark.long
def test_limits_that_nothing_keeps_leave_no_profile(bundle: Path, images: Path, tmp_path: Path) -> None:
    out = tmp_path / "profile.json"
    options = ("--images", images, "--budget-s", 0.1, "--cache-dir", tmp_path / "c")
    result = pseg("tune", bundle, *options, "--max-rss-mib", 1, "--out", out)
    assert result.exit_code == ExitStatus.INCOMPLETE
    assert "limit 1 MiB" in result.stdout
    assert "keeps the limits" in result.stdout
    assert not out.exists()


def test_a_carried_profile_decides_threads_and_batches(
    bundle: Path, images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from service import session

    batches: list[int] = []
    real = session.Pipeline

    def remembering(*arguments: Any, batch_size: int, **settings: Any) -> object:
        batches.append(batch_size)
        return real(*arguments, batch_size=batch_size, **settings)

    monkeypatch.setattr(session, "Pipeline", remembering)
    profile = profile_for(bundle)
    tuned = carrying(bundle, profile_json(profile), tmp_path / "tuned.tgz")
    provenance = predicted(tuned, images, tmp_path / "out")
    assert (provenance["profile"], provenance["threads"]) == (profile.digest, 1)
    assert provenance["fallbacks"] == []
    assert predicted(tuned, images, tmp_path / "out", "--batch-size", 3)["profile"] == profile.digest
    assert "profile" not in predicted(bundle, images, tmp_path / "untuned")
    assert batches == [2, 3, 1]


@pytest.mark.parametrize(
    "named",
    [("--runtime", "onnx"), ("--provider", "cpu"), ("--precision", "fp32"), ("--threads", 1), ("--device", "cpu")],
)
def test_a_profile_and_what_runs_the_network_are_not_both_named(
    bundle: Path, images: Path, tmp_path: Path, named: tuple[object, ...]
) -> None:
    (tmp_path / "p.json").write_bytes(profile_json(profile_for(bundle)))
    result = pseg("predict", bundle, images, "--out", tmp_path / "out", "--profile", tmp_path / "p.json", *named)
    assert result.exit_code == ExitStatus.WRONG_REQUEST
    assert "--profile: it has no effect, because other options name what runs" in " ".join(result.stderr.split())


def test_a_profile_of_elsewhere_is_ignored_with_a_note(
    bundle: Path, images: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    profile = profile_for(bundle)
    strangers = {
        "it was tuned on another host (processor 'Slow'": replace(
            profile, host=replace(profile.host, processor="Slow")
        ),
        "it was tuned with other versions (onnxruntime 0.1": replace(profile, versions={"onnxruntime": "0.1"}),
        "it was tuned for another bundle": replace(profile, bundle="0" * 64),
        "it names int8": replace(profile, precision=Precision.INT8),
    }
    for reason, stranger in strangers.items():
        caplog.clear()
        tuned = carrying(bundle, profile_json(stranger), tmp_path / "tuned.tgz")
        with caplog.at_level(logging.WARNING):
            provenance = predicted(tuned, images, tmp_path / "out")
        assert "profile" not in provenance
        assert provenance["threads"] == usable_cores()
        assert f"profile.json of {tuned} is ignored: {reason}" in caplog.text


def test_a_damaged_profile_is_ignored_in_a_bundle_and_refused_when_named(
    bundle: Path, images: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    tuned = carrying(bundle, b"{}", tmp_path / "tuned.tgz")
    with caplog.at_level(logging.WARNING):
        assert "profile" not in predicted(tuned, images, tmp_path / "out")
    assert "is not a tuned profile" in caplog.text
    (tmp_path / "p.json").write_bytes(b"{}")
    result = pseg("predict", bundle, images, "--out", tmp_path / "out", "--profile", tmp_path / "p.json")
    assert result.exit_code == ExitStatus.WRONG_REQUEST
    assert "is not a tuned profile" in " ".join(result.stderr.split())


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ((), "give either --out for a profile, or --into"),
        (("--out", "p.json", "--into", "b.tgz"), "give either --out for a profile, or --into"),
        (("--out", "p.json", "--budget-s", 0), "--budget-s: 0.0 is not more than 0"),
        (("--out", "p.json", "--min-iou", 2), "--min-iou: 2.0 is more than 1"),
    ],
)
def test_wrong_options_are_refused(
    bundle: Path,
    images: Path,
    tmp_path: Path,
    arguments: tuple[object, ...],
    said: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    result = pseg("tune", bundle, "--images", images, *arguments)
    assert result.exit_code == ExitStatus.WRONG_REQUEST
    assert said in " ".join(result.stderr.split())


def test_labels_that_lack_a_class_are_no_judge(bundle: Path, images: Path, masks: Path, tmp_path: Path) -> None:
    for path in masks.iterdir():
        with Image.open(path) as image:
            labels = np.asarray(image)
        Image.fromarray(np.where(labels == 1, 255, labels).astype(np.uint8)).save(path)
    out = tmp_path / "p.json"
    result = pseg("tune", bundle, "--images", images, "--masks", masks, "--budget-s", 1, "--out", out)
    assert result.exit_code == ExitStatus.WRONG_REQUEST
    assert "--masks: no pixel is labelled as class 1 (green)" in " ".join(result.stderr.split())
    assert not out.exists()


def test_the_bundle_itself_is_never_changed(bundle: Path, images: Path) -> None:
    result = pseg("tune", bundle, "--images", images, "--into", bundle)
    assert result.exit_code == ExitStatus.WRONG_REQUEST
    assert "never changed in place" in " ".join(result.stderr.split())
