"""Parameters are validated once, and whoever gets them wrong is told what is allowed."""

import os
from dataclasses import FrozenInstanceError
from pathlib import Path

import pytest

from engine import Device, OneDnn, OptionError, Precision, Provider, RuntimeName
from engine.declaration import declared_options
from engine.options import OnnxOptions, PaddleOptions
from engine.runtimes.selection import candidates
from engine.system.machine.cores import usable_cores
from service.ivcap.parameters import ServiceRequest, build_service_request
from service.request import PredictRequest, build_request, require_writable, require_writable_file


def test_defaults_leave_every_choice_to_the_engine() -> None:
    request = build_request().network
    assert request.leaves_all_to_a_profile
    assert (request.runtime, request.provider, request.device, request.threads) == (None, None, None, None)
    assert {options.precision for options in candidates(request)} == {Precision.FP32}
    assert not request.wants_tensorrt


def test_every_choice_reaches_the_engine() -> None:
    request = build_request(
        runtime="onnx",
        provider="tensorrt",
        device="gpu",
        precision="fp16",
        threads=3,
        min_subgraph_size=7,
        print_detail=True,
    ).network
    assert request.runtime is RuntimeName.ONNX
    assert request.provider is Provider.TENSORRT
    assert request.device is Device.GPU
    assert request.precision is Precision.FP16
    assert (request.threads, request.gpu.min_subgraph_size) == (3, 7)
    assert request.wants_tensorrt
    assert request.verbose
    assert build_request(runtime="paddle", mkldnn="off").network.onednn is OneDnn.OFF


@pytest.mark.parametrize(("device", "index"), [("cpu", 0), ("gpu", 0), ("gpu:0", 0), ("gpu:2", 2)])
def test_a_gpu_is_named_by_its_number_at_every_door(device: str, index: int) -> None:
    order = build_service_request(model="urn:m", image="urn:i", device=device)
    assert order.model_dump(mode="json")["device"] == device
    for request in (build_request(device=device), order.predict_request()):
        assert request.network.device == device
        assert request.network.device_id == index
        assert request.network.wanted_device.value == device.partition(":")[0]


@pytest.mark.parametrize("device", ["gpu:", "gpu:x", "cpu:0", "gpu:-1"])
def test_an_order_for_a_device_that_cannot_be(device: str) -> None:
    with pytest.raises(OptionError, match="device"):
        build_service_request(model="urn:m", image="urn:i", device=device)


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"runtime": "torch"}, "^runtime: torch is none of auto, onnx, paddle$"),
        ({"provider": "rocm"}, "^provider: rocm is none of auto, cpu, openvino, cuda, tensorrt$"),
        ({"device": "xpu"}, "^device: xpu: give cpu, gpu, or a GPU by its number, such as gpu:1$"),
        ({"precision": "bf16"}, "^precision: bf16 is none of fp32, fp16, int8$"),
        ({"mkldnn": "yes"}, "^mkldnn: yes is none of auto, on, off$"),
        ({"mask_size": "half"}, "^mask-size: half is none of original, inference$"),
        ({"threads": 0}, "^threads: 0 is less than 1$"),
        ({"batch_size": 0}, "^batch-size: 0 is less than 1$"),
        ({"max_pixels": 0}, "^max-pixels: 0 is less than 1$"),
        ({"min_subgraph_size": 0}, "^min-subgraph-size: 0 is less than 1$"),
        ({"max_img_size": 0}, "^max-img-size: 0 is not allowed$"),
        ({"max_img_size": -2}, "^max-img-size: -2 is less than -1$"),
        ({"save": "png"}, "^save: png: give any of pseudo, mask, overlay"),
        ({"threshold": 1.0}, "^threshold: 1.0 is not between 0 and 1$"),
        ({"threshold": 0}, "^threshold: 0 is not between 0 and 1$"),
        ({"threshold": float("nan")}, "^threshold: nan is not between 0 and 1$"),
        ({"scales": "1,x"}, "^scales: 1,x: give numbers separated by commas, such as 0.75,1.0,1.25$"),
        ({"auto_tune_shapes": True}, "^auto-tune-shapes: it .* needs use-trt"),
        ({"precision": "fp16"}, "fp16 needs a GPU"),
        ({"use_trt": True}, "TensorRT needs a GPU"),
        ({"runtime": "onnx", "mkldnn": "on"}, "oneDNN belongs to Paddle"),
        ({"device": "gpu", "mkldnn": "on"}, "oneDNN runs on the CPU only"),
        ({"runtime": "paddle", "provider": "openvino"}, "belongs to ONNX Runtime"),
        ({"provider": "cuda", "device": "cpu"}, "cuda runs on the gpu"),
        ({"provider": "cuda", "use_trt": True}, "use-trt: it needs provider tensorrt"),
    ],
)
def test_wrong_parameters_are_named_with_what_is_allowed(parameters: dict[str, object], message: str) -> None:
    with pytest.raises(OptionError, match=message):
        build_request(**parameters)


def test_all_problems_of_an_order_are_told_at_once() -> None:
    """A line each, in the words of the command line."""
    with pytest.raises(OptionError) as told:
        build_service_request(
            **{"model": "urn:m", "image": "urn:i", "min-subgraph-size": 0, "batch-size": "many", "treshold": 0.3},
            **{"tile-size": 0, "precision": "int7", "device": "tpu", "report": "perhaps"},
        )
    assert sorted(str(told.value).splitlines()) == [
        "batch-size: must be a whole number, but it is 'many'",
        "device: must have the form ^(cpu|gpu|gpu:(0|[1-9][0-9]{0,2}))$, but it is 'tpu'",
        "min-subgraph-size: 0 is less than 1",
        "precision: 'int7' is none of 'fp32', 'fp16', 'int8'",
        "report: must be true or false, but it is 'perhaps'",
        "tile-size: 0 is less than 1",
        "treshold: unknown parameter; did you mean threshold?",
    ]


def test_a_request_cannot_be_changed() -> None:
    request = PredictRequest()
    with pytest.raises(FrozenInstanceError):
        request.batch_size = 4  # pyright: ignore[reportAttributeAccessIssue]


def test_every_option_of_a_prediction_is_offered_by_orders_and_jobs() -> None:
    """But for those that make no sense there: an order writes one kind of mask, and is run by one stream."""
    offered = set(ServiceRequest.model_fields)
    known_otherwise = {"threads": "cpu_threads", "mkldnn": "enable_mkldnn", "auto_tune_shapes": "enable_auto_tune"}
    declared = {known_otherwise.get(each.name, each.name) for each in declared_options(PredictRequest)}
    assert declared - offered == {"save", "streams", "max_pixels", "overlay_legend"}


def test_an_output_folder_is_made_and_left_empty(tmp_path: Path) -> None:
    folder = tmp_path / "a" / "b"
    require_writable(folder)
    assert list(folder.iterdir()) == []


def test_proving_a_folder_writable_spoils_no_other_run(tmp_path: Path) -> None:
    # Another run that proves the same folder at the same moment may hold a file of any name.
    (tmp_path / ".pseg-write-test").mkdir()
    require_writable(tmp_path)


@pytest.mark.parametrize("name", ["taken", "taken/below"])
def test_a_file_in_place_of_the_output_folder_is_refused(tmp_path: Path, name: str) -> None:
    (tmp_path / "taken").touch()
    with pytest.raises(OptionError, match="cannot be written to"):
        require_writable(tmp_path / name)


def test_a_folder_in_place_of_an_output_file_is_refused(tmp_path: Path) -> None:
    require_writable_file(tmp_path / "new" / "cover.csv")
    with pytest.raises(OptionError, match="is a folder"):
        require_writable_file(tmp_path)


@pytest.mark.parametrize("name", ["s3://reef/masks", "file:///data/masks", "https://reef.org/masks"])
def test_an_address_is_no_folder_of_this_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(OptionError, match=r"://.*masks is an address, and results are written to folders"):
        require_writable(Path(name))
    with pytest.raises(OptionError, match=r"s3://cover\.csv is an address"):
        require_writable_file(Path("s3://cover.csv"))
    assert list(tmp_path.iterdir()) == []


def test_a_device_or_a_pipe_in_place_of_an_output_file_is_refused(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "nothing").symlink_to("/dev/null")
    for name in ("pipe", "nothing"):
        with pytest.raises(OptionError, match="a device, a pipe or a socket"):
            require_writable_file(tmp_path / name)


def test_an_order_has_the_names_and_defaults_that_its_users_know() -> None:
    request = build_service_request(**{"model": "urn:m", "images": "urn:q", "max-img-size": -1, "cpu-threads": 3})
    asked = request.predict_request()
    assert (asked.images.max_img_size, asked.network.threads) == (-1, 3)
    assert request == build_service_request(model="urn:m", images="urn:q", max_img_size=-1, cpu_threads=3)
    defaults = build_service_request(model="urn:m", image="urn:i")
    assert defaults.model_dump(by_alias=True, mode="json", exclude={"model", "image", "images", "model_name"}) == {
        "max-img-size": 1_000_000,
        "batch-size": 1,
        "allow-tf32": False,
        "gpu-memory-limit": None,
        "device": "cpu",
        "use-trt": False,
        "precision": "fp32",
        "min-subgraph-size": 3,
        "enable-auto-tune": False,
        "cpu-threads": 10,
        "enable-mkldnn": False,
        "benchmark": False,
        "with-argmax": False,
        "print-detail": False,
        "runtime": "auto",
        "provider": "auto",
        "threshold": 0.5,
        "mask-size": "original",
        "unsure": None,
        "keep-classes": None,
        "median": None,
        "fill-holes": False,
        "min-area": None,
        "ignore-bundle-cleanup": False,
        "simplify": None,
        "roi": None,
        "quadrat-size": None,
        "exclude-class": None,
        "overlay": "fill",
        "overlay-strength": None,
        "report": False,
        "shard": None,
        "scale-range": None,
        "crop-size": None,
        "stride": None,
        "scales": None,
        "flip-horizontal": False,
        "flip-vertical": False,
        "tile": False,
        "as-photograph": False,
        "tile-size": None,
        "overlap": None,
        "bands": None,
        "vectors": "none",
    }


def test_the_parameters_of_an_order_reach_both_runtimes() -> None:
    request = build_service_request(
        **{"model": "urn:m", "image": "urn:i", "device": "gpu", "use-trt": True, "enable-auto-tune": True},
        **{"precision": "fp16", "min-subgraph-size": 7, "cpu-threads": 10_000, "print-detail": True},
        **{"batch-size": 4, "threshold": 0.25, "mask-size": "inference", "with-argmax": True},
    ).predict_request()
    assert (request.batch_size, request.masks.threshold, request.masks.mask_size.value) == (4, 0.25, "inference")
    assert request.masks.with_argmax
    assert request.auto_tune_shapes
    onnx, paddle = candidates(request.network)
    assert isinstance(onnx, OnnxOptions)
    assert isinstance(paddle, PaddleOptions)
    assert onnx.provider is Provider.TENSORRT
    assert paddle.tensorrt
    for options in (onnx, paddle):
        assert options.precision is Precision.FP16
        assert options.gpu.min_subgraph_size == 7
        assert options.threads == usable_cores()
        assert options.verbose


def test_onednn_is_demanded_or_left_to_the_runtime() -> None:
    demanded, left = (
        build_service_request(model="urn:m", image="urn:i", enable_mkldnn=given).predict_request()
        for given in (True, False)
    )
    assert demanded.network.onednn is OneDnn.ON
    assert left.network.onednn is OneDnn.AUTO


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({}, "^give either image or images, and not both"),
        ({"image": "urn:i", "images": "urn:q"}, "^give either image or images, and not both"),
        ({"image": "urn:i", "enable-auto-tune": True}, "enable-auto-tune: .* needs use-trt"),
        ({"image": "urn:i", "use-trt": True}, "TensorRT needs a GPU"),
        ({"image": "urn:i", "precision": "int8", "runtime": "paddle"}, "int8 under TensorRT only"),
        ({"image": "urn:i", "max-img-size": 0}, "max-img-size: 0 is not allowed"),
        ({"image": "urn:i", "cpu-threads": 0}, "^cpu-threads: 0 is less than 1"),
        ({"image": "urn:i", "scale-range": "4095"}, "^scale-range: 4095: give 2 numbers"),
        ({"image": "urn:i", "scale-range": "4095,0"}, "^scale-range: 4095 is not less than 0"),
        ({"image": "urn:i", "crop-size": "769", "stride": "769"}, "^crop-size: 769: give 2 numbers"),
        ({"image": "urn:i", "crop-size": "9,9,3", "stride": "9,9"}, "^crop-size: 9,9,3: give 2 numbers"),
        ({"image": "urn:i", "save-dir": "x"}, "save-dir: unknown parameter$"),
    ],
)
def test_orders_that_no_runtime_can_honour_are_refused(parameters: dict[str, object], message: str) -> None:
    with pytest.raises(OptionError, match=message):
        build_service_request(model="urn:m", **parameters)


def test_a_job_may_name_its_images_one_by_one() -> None:
    assert ServiceRequest(model="urn:m", images=["urn:a", "urn:b"]).images == ["urn:a", "urn:b"]
