"""A profile is obeyed by `auto` where it was made, and nowhere else."""

import doctest
import json
import logging
from dataclasses import replace
from pathlib import Path

import pytest

from engine.bundle.bundle import Bundle, DeclaredOutput, OnnxModel
from engine.errors import ModelLoadError, OptionError
from engine.options import (
    Device,
    GpuOptions,
    OnnxOptions,
    PaddleOptions,
    Precision,
    Provider,
    RuntimeName,
    RuntimeOptions,
)
from engine.runtimes import Runtime, Tensor
from engine.runtimes import profile as module
from engine.runtimes.fake import FakeRuntime
from engine.runtimes.profile import Profile, library_versions, profile_json, read_profile
from engine.runtimes.selection import RuntimeRequest, candidates
from engine.segmentation.opening import open_first, open_predictor
from engine.system.machine import hardware as host_module
from engine.system.machine.hardware import Host, this_host

HOST = Host("Fast", ("avx2", "fma"), 4, None)
VERSIONS = {"onnxruntime": "1.2.3"}
PROFILE = Profile(
    bundle="5" * 64,
    host=HOST,
    versions=VERSIONS,
    provider="cpu",
    precision=Precision.INT8,
    threads=2,
    batch_size=3,
    goal="latency",
    reason="twice as fast",
)
BUNDLE = Bundle(
    name="reef",
    source=Path("reef.tgz"),
    folder=Path(),
    digest="5" * 64,
    classes=(),
    transforms=(),
    paddle=None,
    onnx=tuple(OnnxModel(Path(f"{each}.onnx"), each, "1" * 64) for each in (Precision.FP32, Precision.INT8)),
    declared=DeclaredOutput(None, None, None),
    multilabel=False,
    notes=(),
)
OPTIONS = {
    "cpu": OnnxOptions(Provider.CPU, Precision.FP32, 2),
    "openvino": OnnxOptions(Provider.OPENVINO, Precision.FP32, 2),
    "cuda": OnnxOptions(Provider.CUDA, Precision.FP32, 2),
    "paddle-cpu": PaddleOptions(precision=Precision.FP32, threads=2),
    "paddle-onednn": PaddleOptions(onednn=True, precision=Precision.FP32, threads=2),
    "paddle-gpu": PaddleOptions(Device.GPU, precision=Precision.FP32, threads=2),
}


def mismatch(profile: Profile, bundle: Bundle = BUNDLE) -> str | None:
    return profile.mismatch(bundle, HOST, VERSIONS)


@pytest.mark.parametrize("checked", [module, host_module], ids=lambda each: each.__name__)
def test_examples(checked: object) -> None:
    result = doctest.testmod(checked)  # pyright: ignore[reportArgumentType]
    assert result.attempted > 0
    assert result.failed == 0


def test_a_profile_survives_its_file(tmp_path: Path) -> None:
    (tmp_path / "p.json").write_bytes(profile_json(PROFILE))
    assert read_profile(tmp_path / "p.json") == PROFILE
    assert read_profile(tmp_path / "p.json").digest == PROFILE.digest
    assert replace(PROFILE, threads=1).digest != PROFILE.digest


def test_what_fits_is_obeyed_and_nothing_else_is() -> None:
    assert mismatch(PROFILE) is None
    assert "another bundle" in str(mismatch(replace(PROFILE, bundle="6" * 64)))
    assert "processor 'Slow' there, 'Fast' here" in str(
        mismatch(replace(PROFILE, host=replace(HOST, processor="Slow")))
    )
    assert "flags fma differ" in str(mismatch(replace(PROFILE, host=replace(HOST, flags=("avx2",)))))
    assert "8 cores there, 4 here" in str(mismatch(replace(PROFILE, host=replace(HOST, cores=8))))
    assert "GPU A100 there, none here" in str(mismatch(replace(PROFILE, host=replace(HOST, gpu="A100"))))
    told = str(mismatch(replace(PROFILE, versions={"onnxruntime": "1.2.2"})))
    assert "onnxruntime 1.2.2 there, onnxruntime 1.2.3 here" in told
    # As profiles have it that were made with ONNX Runtime's plugin for OpenVINO, which is no longer used.
    plugin = replace(PROFILE, provider="openvino", versions={**VERSIONS, "onnxruntime-ep-openvino": "1.8.1"})
    assert "tuned with other versions" in str(mismatch(plugin))
    without_int8 = replace(BUNDLE, onnx=BUNDLE.onnx[:1])
    assert "holds no onnx/int8/model.onnx" in str(mismatch(PROFILE, without_int8))
    # An FP32 model can be made on the fly.
    assert mismatch(replace(PROFILE, precision=Precision.FP32), replace(BUNDLE, onnx=())) is None


def test_a_profile_made_here_fits_here() -> None:
    here = replace(PROFILE, host=this_host(), versions=library_versions(RuntimeName.ONNX))
    assert here.mismatch(BUNDLE) is None
    assert "onnxruntime" in here.versions
    assert here.host.processor


@pytest.mark.parametrize("provider", OPTIONS)
def test_every_provider_becomes_its_options(provider: str, tmp_path: Path) -> None:
    (tmp_path / "p.json").write_bytes(profile_json(replace(PROFILE, precision=Precision.FP32)))
    content = json.loads((tmp_path / "p.json").read_text()) | {"provider": provider}
    (tmp_path / "p.json").write_text(json.dumps(content))
    assert read_profile(tmp_path / "p.json").options() == OPTIONS[provider]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"provider": "tensorrt"}, "must be 'cpu'"),
        ({"threads": 0}, "threads: 0 is less than 1"),
        ({"batch_size": 0}, "batch size is 0"),
        ({"provider": "paddle-cpu"}, "int8 under TensorRT only"),
        ({"host": None}, "is not a tuned profile"),
        ({"threads": 4000, "streams": 2000}, "4000 threads on 4 cores"),
        ({"streams": 100_000}, "cannot be shared evenly by 100000 streams"),
        ({"batch_size": 65}, "batch size is 65; it must be 1 to 64"),
        ({"threads": float("nan")}, "is not a tuned profile"),
        ({"reason": "\x1b]0;title\x07"}, "control characters"),
        ({"versions": {"onnxruntime\n": "1"}}, "control characters"),
        ({"reason": "r" * 100_000}, "larger than 65536 bytes"),
        ({"unknown": "[[[[]]]]" * 10_000}, "larger than 65536 bytes"),
    ],
)
def test_a_damaged_profile_is_refused(change: dict[str, object], said: str, tmp_path: Path) -> None:
    path = tmp_path / "p.json"
    path.write_bytes(profile_json(PROFILE))
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(OptionError, match=said):
        read_profile(path)


def test_what_is_no_profile_at_all_is_refused(tmp_path: Path) -> None:
    with pytest.raises(OptionError, match="cannot be read"):
        read_profile(tmp_path / "absent.json")
    (tmp_path / "p.json").write_bytes(b"[" * 60_000)
    with pytest.raises(OptionError, match=r"p\.json: is not a tuned profile"):
        read_profile(tmp_path / "p.json")
    (tmp_path / "p.json").write_bytes(b"\xff{")
    with pytest.raises(OptionError, match=r"p\.json: is not a tuned profile"):
        read_profile(tmp_path / "p.json")


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16"])
def test_a_profile_that_an_editor_saved_again(encoding: str, tmp_path: Path) -> None:
    (tmp_path / "p.json").write_text(profile_json(PROFILE).decode(), encoding=encoding, newline="\r\n")
    assert read_profile(tmp_path / "p.json") == PROFILE


def test_a_profile_of_gigabytes_is_not_read(tmp_path: Path) -> None:
    with (tmp_path / "p.json").open("wb") as file:
        file.truncate(8 << 30)
    with pytest.raises(OptionError, match="is larger than 65536 bytes"):
        read_profile(tmp_path / "p.json")


def test_the_tuned_configuration_is_tried_first_and_once() -> None:
    untuned = candidates(RuntimeRequest())
    assert candidates(RuntimeRequest(tuned=PROFILE)) == (OnnxOptions(precision=Precision.INT8, threads=2), *untuned)
    first = untuned[0]
    like_it = replace(PROFILE, precision=Precision.FP32, threads=first.threads)
    assert candidates(RuntimeRequest(tuned=like_it)) == untuned


def identity(tensor: Tensor) -> Tensor:
    return tensor


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> list[RuntimeOptions]:
    """What was opened, of runtimes that all work, but not with seven threads."""
    seen: list[RuntimeOptions] = []

    def open_runtime(_bundle: Bundle, options: RuntimeOptions, *, load_marks: Path | None = None) -> Runtime:
        assert load_marks is None
        seen.append(options)
        if options.threads == 7:
            raise ModelLoadError("seven is too many")
        return FakeRuntime(identity)

    def require_available(_options: RuntimeOptions) -> None:
        """Everything is there."""

    monkeypatch.setattr("engine.segmentation.opening.require_available", require_available)
    monkeypatch.setattr("engine.segmentation.opening.open_runtime", open_runtime)
    return seen


def test_the_provenance_names_the_profile(opened: list[RuntimeOptions]) -> None:
    with open_predictor(BUNDLE, RuntimeRequest(tuned=PROFILE)) as predictor:
        assert predictor.provenance.profile == PROFILE.digest
    assert opened == [PROFILE.options()]
    with open_predictor(BUNDLE) as predictor:
        assert predictor.provenance.profile is None


def test_a_tuned_configuration_that_fails_is_a_recorded_step_down(
    opened: list[RuntimeOptions], caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        result = open_first(BUNDLE, RuntimeRequest(tuned=replace(PROFILE, threads=7, host=replace(HOST, cores=8))))
    assert result.profile is None
    assert result.fallbacks == ("cpu int8: seven is too many",)
    assert [each.precision for each in opened] == [Precision.INT8, Precision.FP32]
    assert "stepping down" in caplog.text


def test_streams_reach_the_runtime_and_older_profiles_have_one() -> None:
    streamed = replace(PROFILE, streams=2)
    assert (streamed.options().threads, streamed.options().streams) == (2, 2)
    assert replace(streamed, provider="paddle-onednn", precision=Precision.FP32).options().streams == 2
    with pytest.raises(OptionError, match="2 threads cannot be shared evenly by 3 streams"):
        replace(PROFILE, streams=3)


def test_profile_written_before_streams_has_one(tmp_path: Path) -> None:
    record = json.loads(profile_json(PROFILE))
    del record["streams"]
    (tmp_path / "profile.json").write_text(json.dumps(record))
    assert read_profile(tmp_path / "profile.json") == PROFILE


def test_a_profile_leaves_tf32_to_the_user() -> None:
    tuned = replace(PROFILE, provider="cuda", precision=Precision.FP32)
    request = RuntimeRequest(tuned=tuned, gpu=GpuOptions(allow_tf32=True))
    assert request.leaves_all_to_a_profile
    assert {options.gpu.allow_tf32 for options in candidates(request)} == {True}


def test_what_the_first_version_wrote_is_read_and_ignored_by_its_versions(tmp_path: Path) -> None:
    """The text word for word; a profile had no streams then."""
    path = tmp_path / "profile.json"
    path.write_text(
        """{
  "bundle": "5555555555555555555555555555555555555555555555555555555555555555",
  "host": {
    "processor": "Fast",
    "flags": [
      "avx2",
      "fma"
    ],
    "cores": 4,
    "gpu": null
  },
  "versions": {
    "onnxruntime": "1.26.0"
  },
  "provider": "cpu",
  "precision": "fp32",
  "threads": 2,
  "batch_size": 1,
  "goal": "latency",
  "reason": "cpu fp32, 2 threads: best latency of 5 configurations: 15.2 ms"
}
"""
    )
    profile = read_profile(path)
    assert profile.options() == OnnxOptions(Provider.CPU, Precision.FP32, 2, streams=1)
    assert profile.mismatch(BUNDLE, HOST, {"onnxruntime": "1.26.0"}) is None
    told = profile.mismatch(BUNDLE, HOST, {"onnxruntime": "1.32.0"})
    assert told == "it was tuned with other versions (onnxruntime 1.26.0 there, onnxruntime 1.32.0 here)"
