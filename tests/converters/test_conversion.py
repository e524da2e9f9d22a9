"""Conversions in a child process: what succeeds, what is refused, what is only for now."""
# pyright: reportMissingTypeStubs=false, reportUnknownMemberType=false, reportUnknownVariableType=false
# pyright: reportUnknownArgumentType=false

import hashlib
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
from PIL import Image

from converters import conversion, paddle_to_onnx, rewriting
from converters.conversion import CERTIFICATE, ConversionRequest, convert, write_bundle, write_copy
from converters.exporting.packing import pack
from converters.graph_optimization import fold_constants
from converters.parity import ParityError, ParityLimits
from converters.repository import MODEL, RefusedError, Repository
from engine import (
    Bundle,
    CalibrationError,
    ConversionError,
    ModelLoadError,
    OnnxModel,
    OnnxOptions,
    OptionError,
    PaddleOptions,
    Precision,
    RuntimeName,
    RuntimeRequest,
    open_bundle,
    open_predictor,
    open_runtime,
)
from engine.bundle.bundle import SegmentationClass
from engine.images import ImageLimits
from engine.runtimes import trial
from service.session import Caches, certify
from tests.launcher import Launcher
from tests.robustness.strangers.hostile_models import calling, function
from tests.service.bundles import bundle_folder, strongest_band_network


@pytest.fixture
def unconverted(small_bundle: Bundle) -> Bundle:
    return replace(small_bundle, onnx=())


@pytest.mark.parametrize("size", [(1, 64, 96), (2, 128, 160), (1, 75, 101)], ids=str)
def test_logits_are_those_of_paddle_at_any_size(
    small_bundle: Bundle, load_marks: Path, size: tuple[int, int, int]
) -> None:
    batch, height, width = size
    tensor = np.random.default_rng(2).standard_normal((batch, 3, height, width), dtype=np.float32)
    (wanted,) = open_runtime(small_bundle, PaddleOptions(threads=2), load_marks=load_marks).run({"x": tensor}).values()
    (found,) = open_runtime(small_bundle, OnnxOptions(threads=2)).run({"x": tensor}).values()
    assert found.shape == wanted.shape
    assert np.abs(found - wanted).max() < 1e-4 * np.ptp(wanted)


def test_conversion_is_made_once(
    unconverted: Bundle, conversions: Repository, load_marks: Path, launcher: Launcher
) -> None:
    first = convert(unconverted, conversions, load_marks=load_marks)
    launcher.forbid()
    again = convert(unconverted, conversions, load_marks=load_marks)
    assert again == first
    assert first.model.precision is Precision.FP32
    assert first.model.path.is_relative_to(conversions.root)
    with pytest.raises(AssertionError, match="a child was started"):
        convert(unconverted, conversions, ConversionRequest(opset=18), load_marks=load_marks)


def test_refusal_names_the_operator_and_is_remembered(
    refused_network: Path, conversions: Repository, load_marks: Path, launcher: Launcher
) -> None:
    with open_bundle(refused_network) as bundle:
        with pytest.raises(RefusedError, match=r"pd_op\.fft.*runtime paddle"):
            convert(bundle, conversions, load_marks=load_marks)
        launcher.forbid()
        with pytest.raises(RefusedError, match=r"pd_op\.fft"):
            convert(bundle, conversions, load_marks=load_marks)


@pytest.mark.parametrize("opset", [6, 22])
def test_operator_sets_beyond_those_of_the_converter_are_refused(opset: int) -> None:
    """Its own message: "The Opset Version must be between 7 and 21"."""
    assert [ConversionRequest(opset=each).opset for each in (7, 21)] == [7, 21]
    with pytest.raises(OptionError, match=f"opset: {opset} is "):
        ConversionRequest(opset=opset)


def test_int8_needs_operators_that_scale_each_channel(tmp_path: Path) -> None:
    """Source: the standard gives DequantizeLinear an axis from operator set 13 on."""
    assert "axis" not in onnx.defs.get_schema("DequantizeLinear", 12).attributes
    assert "axis" in onnx.defs.get_schema("DequantizeLinear", 13).attributes
    ConversionRequest(precision=Precision.INT8, opset=13)
    with pytest.raises(OptionError, match="INT8 needs operator set 13"):
        ConversionRequest(precision=Precision.INT8, opset=12)
    folder = bundle_folder(tmp_path / "old", network=strongest_band_network(opset=12))
    request = ConversionRequest(precision=Precision.INT8, calibration=tuple(Path(f"{n}.png") for n in range(8)))
    with open_bundle(folder) as bundle, pytest.raises(ConversionError, match="13 or later, and its ONNX model has 12"):
        convert(bundle, Repository(tmp_path / "cache"), request)


@pytest.mark.long
def test_an_operator_set_is_never_replaced_by_a_newer_one_in_silence(
    unconverted: Bundle, load_marks: Path, tmp_path: Path
) -> None:
    """Resize has sizes from operator set 11 on, and the converter goes on with that by itself."""
    request = ConversionRequest(opset=9)
    with pytest.raises(RefusedError, match="needs operator set 11 or later, and 9 was asked for"):
        convert(unconverted, Repository(tmp_path), request, load_marks=load_marks)


def test_auto_steps_down_to_paddle_and_records_why(
    refused_network: Path, conversions: Repository, load_marks: Path
) -> None:
    with (
        open_bundle(refused_network) as bundle,
        open_predictor(
            bundle,
            RuntimeRequest(threads=2),
            convert=lambda each: convert(each, conversions, load_marks=load_marks).model,
            load_marks=load_marks,
        ) as predictor,
    ):
        assert predictor.provenance.provider == "paddle-onednn"
        (fallback,) = predictor.provenance.fallbacks
        assert fallback.startswith("cpu fp32: ")
        assert "pd_op.fft" in fallback


def with_its_last_bit_flipped(path: Path) -> None:
    content = path.read_bytes()
    path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))


def without_its_end(path: Path) -> None:
    path.write_text(path.read_text()[:-100])


@pytest.mark.parametrize(
    ("name", "damage"),
    [
        (MODEL, with_its_last_bit_flipped),
        pytest.param(CERTIFICATE, without_its_end, marks=pytest.mark.long),
        pytest.param(CERTIFICATE, Path.unlink, marks=pytest.mark.long),
    ],
)
def test_what_runs_is_what_the_certificate_is_of(
    name: str,
    damage: Callable[[Path], object],
    unconverted: Bundle,
    conversions: Repository,
    load_marks: Path,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    convert(unconverted, conversions, load_marks=load_marks)
    repository = Repository(tmp_path / "conversions")
    shutil.copytree(conversions.root, repository.root)
    whole = convert(unconverted, repository, load_marks=load_marks)
    damage(whole.model.path.with_name(name))
    again = convert(unconverted, repository, load_marks=load_marks)
    assert "damaged, so the model is made again" in caplog.text
    assert hashlib.sha256(again.model.path.read_bytes()).hexdigest() == again.model.digest == whole.model.digest
    assert json.loads(again.model.path.with_name(CERTIFICATE).read_text())["model_digest"] == whole.model.digest


def test_no_program(small_bundle: Bundle, tmp_path: Path) -> None:
    with pytest.raises(ConversionError, match="holds no Paddle program"):
        convert(replace(small_bundle, paddle=None), Repository(tmp_path))


def test_converter_is_not_installed(unconverted: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(conversion, "_CONVERTER_PACKAGES", ("paddle2onnx-of-another-world",))
    with pytest.raises(ConversionError, match=r"is not installed: install the extras `convert`"):
        convert(unconverted, Repository(tmp_path))


def test_time_out_is_not_remembered(unconverted: Bundle, tmp_path: Path) -> None:
    repository = Repository(tmp_path)
    for _ in range(2):
        with pytest.raises(ConversionError, match=r"did not finish within 0\.05 s") as caught:
            convert(unconverted, repository, ConversionRequest(timeout_s=0.05))
        assert not isinstance(caught.value, RefusedError)


def test_a_converter_that_wants_too_much_memory_is_stopped(
    unconverted: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(paddle_to_onnx, "MEMORY_BYTES", 192 << 20)
    monkeypatch.setattr(paddle_to_onnx, "MEMORY_PER_MODEL_BYTE", 0)
    with pytest.raises(ConversionError, match=r"wanted more than 0\.2 GiB of memory") as caught:
        convert(unconverted, Repository(tmp_path))
    assert not isinstance(caught.value, RefusedError)


@pytest.mark.parametrize(
    ("does", "says"),
    [
        ("kill -KILL $$", "killed, most likely for memory"),
        ("kill -TERM $$", "SIGTERM"),
        ("kill -SEGV $$", "SIGSEGV"),
        ("kill -ABRT $$", "SIGABRT"),
        ("exit 0", "status 0.*it said nothing"),
        ("echo 'TypeError: Descriptors cannot be created directly.' >&2; exit 1", "Descriptors cannot.*mend it"),
        ("echo 'ValueError: numpy.dtype size changed' >&2; exit 1", "status 1.*size changed"),
        ("echo 'Traceback' >&2; echo 'ImportError: libgomp.so.1' >&2; exit 1", "ImportError: libgomp"),
        ("echo 'MemoryError' >&2; exit 1", "wanted more than"),
        ("echo '[ERROR] std::bad_alloc'; exit 255", "wanted more than"),
        ("echo 'OSError: [Errno 28] No space left on device' >&2; exit 1", "No space left"),
    ],
)
def test_trouble_of_the_machine_is_not_remembered(
    unconverted: Bundle, tmp_path: Path, launcher: Launcher, does: str, says: str
) -> None:
    launcher.run_instead(tmp_path, does)
    with pytest.raises(ConversionError, match=says) as caught:
        convert(unconverted, Repository(tmp_path / "cache"))
    assert not isinstance(caught.value, RefusedError)
    assert not list((tmp_path / "cache").rglob("refused.json"))


@pytest.mark.parametrize(
    ("does", "says"),
    [
        ("echo '[ERROR] Oops, there are some operators not supported yet: pd_op.fft' >&2; exit 255", "pd_op.fft"),
        ("echo 'onnx.onnx_cpp2py_export.checker.ValidationError: no such operator' >&2; exit 1", "no such operator"),
        (
            "printf '\\033[31m[ERROR][Paddle2ONNX] [OP: fft] no such operator\\033[m\\n'; exit 1",
            r"status 1.: \[ERROR\]",
        ),
    ],
)
def test_trouble_with_the_network_is_remembered(
    unconverted: Bundle, tmp_path: Path, launcher: Launcher, does: str, says: str
) -> None:
    launcher.run_instead(tmp_path, does)
    for _ in range(2):
        with pytest.raises(RefusedError, match=says) as caught:
            convert(unconverted, Repository(tmp_path / "cache"))
        assert str(caught.value).startswith(f"{unconverted.source}: paddle2onnx")
        launcher.forbid()
    (remembered,) = (tmp_path / "cache").rglob("refused.json")
    assert str(unconverted.source) not in remembered.read_text()
    with pytest.raises(RefusedError, match=f"remove {remembered.parent} to try it again"):
        convert(unconverted, Repository(tmp_path / "cache"))


@pytest.mark.long
def test_a_certificate_is_of_its_own_bundle(unconverted: Bundle, tmp_path: Path, load_marks: Path) -> None:
    """Two bundles of one network, of which a stranger's was converted first, with the same cache."""
    evil = SegmentationClass("urn:evil", "evil", None)
    stranger = replace(unconverted, digest="of a stranger", classes=(evil,) * 8)
    repository = Repository(tmp_path / "cache")
    for bundle in (stranger, unconverted):
        report = convert(bundle, repository, load_marks=load_marks).certificate.report
        assert report.reference.bundle == report.candidate.bundle == bundle.digest
        assert all(("evil" in name) == (bundle is stranger) for name in report.class_iou)


def never_ending(path: Path) -> Path:
    """Functions that unfold to 2^24 nodes: whoever loads the model, or folds its constants, is at it for hours."""
    unfolding = (function(f"F{n}", *[f"F{n - 1}"] * 2) for n in range(1, 25))
    path.write_bytes(calling("F24", function("F0"), *unfolding).SerializeToString())
    return path


@pytest.mark.long
def test_a_model_that_never_loads_is_not_rewritten(
    small_bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = OnnxModel(never_ending(tmp_path / "model.onnx"), Precision.FP32, "of a stranger")
    stranger = replace(small_bundle, paddle=None, onnx=(model,))
    monkeypatch.setattr(trial, "ONNX_TIMEOUT_S", 5)
    with pytest.raises(ModelLoadError, match=rf"^{stranger.source}: .*did not finish loading within 5 s"):
        convert(stranger, Repository(tmp_path / "cache"), ConversionRequest(Precision.FP16))


def test_constants_are_folded_in_a_child_with_limits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = never_ending(tmp_path / "model.onnx")
    for name, value, said in (
        ("TIMEOUT_S", 2, "did not end within 2 s"),
        ("MEMORY_BYTES", 1 << 20, "GiB of memory|the process that did it ended"),
    ):
        with monkeypatch.context() as patch:
            patch.setattr(rewriting, name, value)
            with pytest.raises(ConversionError, match=said):
                fold_constants(path, tmp_path / "folded.onnx")
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.long
def test_a_trial_that_takes_too_long_is_not_remembered(
    unconverted: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    load_marks = tmp_path / "load_marks"
    with monkeypatch.context() as impatient:
        impatient.setattr(trial, "ONNX_TIMEOUT_S", 0.01)
        with pytest.raises(ConversionError, match=r"could not be tried: .*did not finish loading") as caught:
            convert(unconverted, Repository(tmp_path / "cache"), load_marks=load_marks)
        assert not isinstance(caught.value, RefusedError)
    assert (
        convert(unconverted, Repository(tmp_path / "cache"), load_marks=load_marks).certificate.report.mismatched_ppm
        < 100
    )


def test_result_that_does_not_run_is_refused(
    unconverted: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def write_nonsense(_program: object, destination: Path, *_rest: object, **_names: object) -> None:
        destination.write_bytes(b"no ONNX file")

    monkeypatch.setattr(conversion, "export_in_child", write_nonsense)
    with pytest.raises(RefusedError, match="ONNX Runtime does not load"):
        convert(unconverted, Repository(tmp_path))


def test_written_bundle_opens_and_holds_all(
    unconverted: Bundle, conversions: Repository, load_marks: Path, tmp_path: Path
) -> None:
    destination = tmp_path / "converted.tgz"
    conversion = convert(unconverted, conversions, load_marks=load_marks)
    write_bundle(unconverted, conversion, destination)
    with open_bundle(destination) as written:
        assert written.name == unconverted.name
        assert written.classes == unconverted.classes
        assert written.transforms == unconverted.transforms
        assert written.paddle is not None
        assert unconverted.paddle is not None
        assert written.paddle.digest == unconverted.paddle.digest
        assert [(each.precision, each.digest) for each in written.onnx] == [("fp32", conversion.model.digest)]
        with open_predictor(written, RuntimeRequest(runtime=RuntimeName.ONNX, threads=2)) as predictor:
            assert predictor.provenance.fallbacks == ()
        write_bundle(written, conversion, tmp_path / "again.tgz")
    assert (tmp_path / "again.tgz").read_bytes() == destination.read_bytes()


def test_unwritable_destination(unconverted: Bundle, conversions: Repository, load_marks: Path, tmp_path: Path) -> None:
    conversion = convert(unconverted, conversions, load_marks=load_marks)
    with pytest.raises(ConversionError, match=r"absent.bundle\.tgz: cannot be written"):
        write_bundle(unconverted, conversion, tmp_path / "absent" / "bundle.tgz")


def test_limits_hold_for_a_conversion_of_the_cache_too(
    unconverted: Bundle, conversions: Repository, load_marks: Path, launcher: Launcher
) -> None:
    found = convert(unconverted, conversions, load_marks=load_marks)
    launcher.forbid()
    impossible = ConversionRequest(limits=ParityLimits(max_mismatched_ppm=None, min_class_iou=1.1))
    for _ in range(2):
        with pytest.raises(ParityError, match=r"smallest class IoU 1\.0000, at least 1\.1") as caught:
            convert(unconverted, conversions, impossible, load_marks=load_marks)
        assert caught.value.report == found.certificate.report
    assert convert(unconverted, conversions, load_marks=load_marks) == found


def test_certificate_on_the_users_own_pictures(
    unconverted: Bundle, conversions: Repository, load_marks: Path, tmp_path: Path
) -> None:
    pictures = tuple(tmp_path / f"{number}.png" for number in range(2))
    for path in pictures:
        Image.effect_noise((80, 60), 90).convert("RGB").save(path)
    certificate = convert(
        unconverted, conversions, ConversionRequest(verification=pictures), load_marks=load_marks
    ).certificate
    assert certificate.compared_on == "verification"
    assert certificate.report.images == 2
    assert certificate.report.worst_image in {"0.png", "1.png"}
    assert convert(unconverted, conversions, load_marks=load_marks).certificate.compared_on == "generated"


def test_certificate_tells_what_was_compared(unconverted: Bundle, conversions: Repository, load_marks: Path) -> None:
    conversion = convert(unconverted, conversions, load_marks=load_marks)
    certificate = conversion.certificate
    assert certificate.model_digest == hashlib.sha256(conversion.model.path.read_bytes()).hexdigest()
    assert certificate.report.candidate.model == certificate.model_digest
    assert unconverted.paddle is not None
    assert certificate.report.reference.model == unconverted.paddle.digest
    assert certificate.report.reference.provider == "paddle-cpu"
    assert (certificate.opset, certificate.input_shape, certificate.excluded_nodes) == (17, None, ())


def test_bundle_holds_the_certificate(
    unconverted: Bundle, conversions: Repository, load_marks: Path, tmp_path: Path
) -> None:
    conversion = convert(unconverted, conversions, load_marks=load_marks)
    write_bundle(unconverted, conversion, tmp_path / "converted.tgz")
    with tarfile.open(tmp_path / "converted.tgz") as archive:
        content = archive.extractfile(f"onnx/fp32/{CERTIFICATE}")
        assert content is not None
        record = json.load(content)
    assert record["model_digest"] == conversion.model.digest
    assert record["report"]["mismatched_ppm"] <= 100


def test_a_copy_of_a_folder_holds_what_belongs_to_the_bundle(unconverted: Bundle, tmp_path: Path) -> None:
    folder = tmp_path / "model"
    shutil.copytree(unconverted.folder, folder)
    (folder / "old").mkdir()
    (folder / "old" / "deploy.yaml").write_text("Deploy: {}")
    (folder / "photograph.jpg").write_bytes(b"\xff\xd8")
    (folder / f"{'n' * 120}.txt").write_text("a note")
    (folder / "onnx" / "fp32").mkdir(parents=True)
    (folder / "onnx" / "fp32" / "._model.onnx").write_bytes(b"what macOS leaves")
    with open_bundle(folder) as bundle:
        write_copy(bundle, {}, tmp_path / "copy.tgz")
    with tarfile.open(tmp_path / "copy.tgz") as archive:
        copied = set(archive.getnames())
    with open_bundle(tmp_path / "copy.tgz") as again:
        assert again.digest == unconverted.digest
    assert copied == {path.relative_to(unconverted.folder).as_posix() for path in unconverted.folder.iterdir()}


def test_a_name_that_no_archive_takes_is_stated(tmp_path: Path) -> None:
    with pytest.raises(ConversionError, match=r"nnn\.json: does not go into an archive"):
        pack({f"{'n' * 120}.json": b"{}"}, tmp_path / "a.tgz")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("asked", [{"opset": 16}, {"input_shape": (64, 96)}])
def test_what_an_onnx_model_decides_cannot_be_asked_for(
    asked: dict[str, Any], small_bundle: Bundle, tmp_path: Path
) -> None:
    request = ConversionRequest(precision=Precision.FP16, **asked)
    with pytest.raises(OptionError, match="holds no Paddle program"):
        convert(replace(small_bundle, paddle=None), Repository(tmp_path), request)


@pytest.mark.parametrize("precision", [Precision.INT8, Precision.FP16])
def test_without_any_model(small_bundle: Bundle, tmp_path: Path, precision: Precision) -> None:
    request = ConversionRequest(precision=precision, calibration=tuple(Path(f"{n}.png") for n in range(8)))
    with pytest.raises(ConversionError, match="holds no Paddle program"):
        convert(replace(small_bundle, paddle=None, onnx=()), Repository(tmp_path), request)


def test_an_input_of_which_no_picture_can_be_made_is_refused() -> None:
    assert ConversionRequest(input_shape=(8192, 8192)).input_shape == (8192, 8192)  # 2^26 pixels
    with pytest.raises(OptionError, match=r"67117056 pixels .* at most 67108864"):
        ConversionRequest(input_shape=(8193, 8192))


def test_a_bundle_without_a_paddle_program_is_not_verified(small_bundle: Bundle, tmp_path: Path) -> None:
    bundle = replace(small_bundle, paddle=None)
    with pytest.raises(ConversionError, match="no Paddle program to compare with: name the bundle that it was made"):
        certify(bundle, OnnxOptions(threads=1), Caches(tmp_path), [], limits=ImageLimits())


@pytest.mark.long
def test_a_model_of_one_size_is_verified_on_pictures_of_that_size(small_bundle: Bundle, tmp_path: Path) -> None:
    model = small_bundle.onnx_model(Precision.FP32)
    assert model is not None
    path = tmp_path / "model.onnx"
    onnx.save(paddle_to_onnx.with_input_shape(onnx.load(model.path), (64, 96)), path)
    fixed = small_bundle.with_onnx(replace(model, path=path, digest="fixed"))
    report = certify(fixed, OnnxOptions(threads=1), Caches(tmp_path), [], limits=ImageLimits())
    assert (report.images, report.worst_image) == (1, "generated 96x64")
    assert report.mismatched_ppm <= 100


@pytest.mark.parametrize(("count", "held_out"), [(8, 0), (10, 0), (11, 3), (16, 4)])
def test_int8_is_judged_on_pictures_that_it_is_not_calibrated_on(count: int, held_out: int) -> None:
    pictures = tuple(Path(f"{number}.png") for number in range(count))
    request = ConversionRequest(precision=Precision.INT8, calibration=pictures)
    assert len(request.held_out) == held_out
    assert len(set(pictures) - set(request.held_out)) >= 8
    assert replace(request, verification=pictures[:1]).held_out == ()
    assert replace(request, verification=(Path("other.png"),)).compared_on == "verification"
    assert replace(request, verification=(Path("other.png"), Path("./x/../3.png"))).compared_on == "calibration"
    assert replace(request, precision=Precision.FP16).held_out == ()


@pytest.mark.long
def test_pictures_of_a_conversion_are_read_as_those_that_come(
    unconverted: Bundle, conversions: Repository, load_marks: Path, tmp_path: Path
) -> None:
    random = np.random.default_rng(0)
    pictures = tuple(tmp_path / f"{number:02}.png" for number in range(11))
    for path in pictures:
        Image.fromarray(random.integers(0, 256, (12, 16, 3), np.uint8)).resize((240, 180)).save(path)
    assert ConversionRequest().read(pictures[0]).pixels.shape == (180, 240, 3)
    limits = ParityLimits(max_mismatched_ppm=None, min_class_iou=0, max_cover_error=1)
    made = {
        size: convert(
            unconverted,
            conversions,
            ConversionRequest(Precision.INT8, calibration=pictures, images=ImageLimits(size), limits=limits),
            load_marks=load_marks,
        )
        for size in (1_000_000, 10_800)
    }
    for size, each in made.items():
        certificate = each.certificate
        assert (certificate.compared_on, certificate.report.images) == ("held-out", 3)
        assert certificate.report.worst_image in {"00.png", "04.png", "08.png"}
        assert certificate.max_img_size == size
    # Other pixels have other ranges.
    assert made[1_000_000].model.digest != made[10_800].model.digest


def test_too_few_calibration_pictures(unconverted: Bundle, tmp_path: Path) -> None:
    request = ConversionRequest(precision=Precision.INT8, calibration=tuple(Path(f"{n}.png") for n in range(7)))
    with pytest.raises(CalibrationError, match=r"at least 8 pictures.*7 were given.*calibrate on"):
        convert(unconverted, Repository(tmp_path), request)
