"""What every runtime must keep, run on all of them."""

from collections.abc import Callable, Generator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
import pytest

from engine import Bundle, InferenceError, OnnxOptions, PaddleOptions, Provider, Runtime, open_runtime
from engine.options import RuntimeOptions
from engine.runtimes import Tensor, probe_feeds
from engine.runtimes.fake import FakeRuntime

Image: TypeAlias = npt.NDArray[np.float32]

SIZES = [(1, 64, 96), (2, 96, 64), (1, 75, 101), (1, 128, 128), (3, 32, 32), (1, 64, 96)]


def test_fixture_names_every_runtime() -> None:
    kinds = ["fake", "onnx-cpu", "onnx-openvino", "paddle-cpu", "paddle-onednn"]
    assert [each.name for each in PEERS if each.streams == 1] == kinds
    assert {each.kind for each in PEERS if each.streams > 1} == {
        "onnx-cpu",
        "onnx-openvino",
        "paddle-cpu",
        "paddle-onednn",
    }


def fake_network() -> Callable[[Tensor], Tensor]:
    """A network that hands out its own scratch array, as a careless library would."""
    scratch = np.zeros(0, dtype=np.float32)

    def network(tensor: Tensor) -> Tensor:
        nonlocal scratch
        if tensor.shape != scratch.shape:
            scratch = np.empty_like(tensor)
        return np.add(tensor[:, ::-1] * 2, 1, out=scratch)

    return network


def threadsafe_fake_network(tensor: Tensor) -> Tensor:
    return tensor[:, ::-1] * 2 + 1


@dataclass(frozen=True)
class Peer:
    name: str
    options: RuntimeOptions | None

    def open(self, bundle: Bundle, load_marks: Path) -> Runtime:
        if self.options is None:
            return FakeRuntime(fake_network())
        return open_runtime(bundle, self.options, load_marks=load_marks)

    @property
    def kind(self) -> str:
        return self.name.partition(",")[0]

    @property
    def provider(self) -> str:
        return "fake" if self.options is None else self.options.label

    @property
    def threads(self) -> int:
        return 1 if self.options is None else self.options.threads

    @property
    def streams(self) -> int:
        return 1 if self.options is None else self.options.streams


PEERS = [
    Peer("fake", None),
    Peer("onnx-cpu", OnnxOptions(threads=2)),
    Peer("onnx-openvino", OnnxOptions(provider=Provider.OPENVINO, threads=2)),
    Peer("paddle-cpu", PaddleOptions(threads=2)),
    Peer("paddle-onednn", PaddleOptions(onednn=True, threads=2)),
    Peer("onnx-cpu, streams of one thread", OnnxOptions(threads=2, streams=2)),
    Peer("onnx-cpu, streams of two threads", OnnxOptions(threads=4, streams=2)),
    Peer("onnx-openvino, streams", OnnxOptions(provider=Provider.OPENVINO, threads=2, streams=2)),
    Peer("paddle-cpu, streams", PaddleOptions(threads=2, streams=2)),
    Peer("paddle-onednn, streams", PaddleOptions(onednn=True, threads=2, streams=2)),
]


@pytest.fixture(scope="module", params=PEERS, ids=lambda peer: peer.name)
def peer(request: pytest.FixtureRequest) -> Peer:
    return request.param


@pytest.fixture(scope="module")
def runtime(peer: Peer, small_bundle: Bundle, load_marks: Path) -> Generator[Runtime]:
    opened = peer.open(small_bundle, load_marks)
    yield opened
    opened.close()


def noise(batch: int, height: int, width: int, seed: int = 0) -> Image:
    return np.random.default_rng(seed).standard_normal((batch, 3, height, width), dtype=np.float32)


def result(runtime: Runtime, tensor: Tensor) -> Tensor:
    outputs = runtime.run({"x": tensor})
    assert len(outputs) == 1
    return outputs[runtime.outputs[0].name]


def test_specs_state_names_types_and_free_axes(runtime: Runtime) -> None:
    (taken,), (returned,) = runtime.inputs, runtime.outputs
    assert (taken.name, taken.dtype, taken.shape) == ("x", np.dtype(np.float32), (None, 3, None, None))
    assert returned.dtype == np.float32
    assert len(returned.shape) == 4
    assert returned.shape[0] is None


def test_outputs_are_as_stated(runtime: Runtime) -> None:
    tensor = noise(2, 64, 96)
    outputs = runtime.run({"x": tensor})
    assert list(outputs) == [spec.name for spec in runtime.outputs]
    for spec in runtime.outputs:
        output = outputs[spec.name]
        assert output.dtype == spec.dtype
        assert all(want in {None, have} for want, have in zip(spec.shape, output.shape, strict=True))
        assert output.shape == (2, 3, 64, 96)
        assert np.isfinite(output).all()
        assert np.ptp(output) > 0


def test_identity_is_what_was_asked_for(runtime: Runtime, peer: Peer, small_bundle: Bundle) -> None:
    identity = runtime.identity
    assert identity.provider == peer.provider
    match peer.options:
        case OnnxOptions():
            assert identity.runtime == "onnx"
            assert identity.model_digest == small_bundle.onnx[0].digest
            library = "openvino" if peer.provider == "openvino" else "onnxruntime"
            assert list(identity.versions) == [library]
        case PaddleOptions():
            assert identity.runtime == "paddle"
            assert small_bundle.paddle is not None
            assert identity.model_digest == small_bundle.paddle.digest
            assert "paddlepaddle" in identity.versions
        case None:
            return
    assert (identity.threads, identity.streams) == (peer.threads, peer.streams)
    assert identity.precision == "fp32"


def test_caller_owns_the_results(runtime: Runtime) -> None:
    tensor, other = noise(1, 64, 96), noise(1, 64, 96, seed=1)
    first = result(runtime, tensor)
    kept = first.copy()
    assert first.flags.writeable
    assert not np.shares_memory(first, tensor)
    second = result(runtime, other)
    assert not np.shares_memory(first, second)
    np.testing.assert_array_equal(first, kept)
    first[:] = np.nan
    second[:] = np.nan
    np.testing.assert_array_equal(result(runtime, tensor), kept)


def test_feeds_are_neither_kept_nor_changed(runtime: Runtime) -> None:
    tensor = noise(1, 64, 96)
    untouched = tensor.copy()
    output = result(runtime, tensor)
    kept = output.copy()
    np.testing.assert_array_equal(tensor, untouched)
    tensor[:] = np.nan
    np.testing.assert_array_equal(output, kept)
    np.testing.assert_array_equal(result(runtime, untouched), kept)


def test_layout_and_rights_of_the_feed_do_not_matter(runtime: Runtime) -> None:
    tensor = noise(1, 64, 96)
    wanted = result(runtime, tensor)
    strided = np.ascontiguousarray(tensor.transpose(0, 2, 3, 1)).transpose(0, 3, 1, 2)
    assert not strided.flags.c_contiguous
    strided.flags.writeable = False
    np.testing.assert_array_equal(result(runtime, strided), wanted)


def test_several_sizes_in_turn(runtime: Runtime) -> None:
    first = [result(runtime, noise(*size)) for size in SIZES]
    for size, output in zip(SIZES, first, strict=True):
        assert (output.shape[0], *output.shape[2:]) == size
    again = [result(runtime, noise(*size)) for size in reversed(SIZES)]
    for output, repeated in zip(first, reversed(again), strict=True):
        np.testing.assert_array_equal(output, repeated)


def test_batch_is_its_singles(runtime: Runtime) -> None:
    batch = noise(3, 64, 64)
    together = result(runtime, batch)
    singles = np.concatenate([result(runtime, batch[index : index + 1]) for index in range(3)])
    np.testing.assert_allclose(together, singles, atol=1e-4 * float(np.ptp(singles)))


UNFIT: dict[str, dict[str, Any]] = {
    "rank": {"x": np.zeros((3, 64, 64), np.float32)},
    "bands": {"x": np.zeros((1, 4, 64, 64), np.float32)},
    "float64": {"x": np.zeros((1, 3, 64, 64), np.float64)},
    "uint8": {"x": np.zeros((1, 3, 64, 64), np.uint8)},
    "missing": {},
    "misnamed": {"image": np.zeros((1, 3, 64, 64), np.float32)},
    "one too many": {"x": np.zeros((1, 3, 64, 64), np.float32), "y": np.zeros((1, 3, 64, 64), np.float32)},
    "empty batch": {"x": np.zeros((0, 3, 64, 64), np.float32)},
    "empty height": {"x": np.zeros((1, 3, 0, 64), np.float32)},
}


@pytest.mark.parametrize("feeds", UNFIT.values(), ids=UNFIT.keys())
def test_unfit_feeds_are_refused_and_do_no_harm(runtime: Runtime, feeds: dict[str, Tensor]) -> None:
    tensor = noise(1, 64, 96)
    wanted = result(runtime, tensor)
    with pytest.raises(InferenceError):
        runtime.run(feeds)
    np.testing.assert_array_equal(result(runtime, tensor), wanted)


def test_eight_threads_get_their_own_results(runtime: Runtime, peer: Peer) -> None:
    shared = FakeRuntime(threadsafe_fake_network) if peer.name == "fake" else runtime
    tensors = [noise(1, *(((64, 96), (96, 64))[seed % 2]), seed=seed) for seed in range(8)]
    wanted = [result(shared, tensor) for tensor in tensors]

    def run_often(index: int) -> list[Tensor]:
        return [result(shared, tensors[index]) for _ in range(6)]

    with ThreadPoolExecutor(8) as threads:
        found = list(threads.map(run_often, range(8)))
    for outputs, right in zip(found, wanted, strict=True):
        for output in outputs:
            np.testing.assert_allclose(output, right, atol=1e-5 * float(np.ptp(right)))


def test_close_twice_then_run_is_an_error(peer: Peer, small_bundle: Bundle, load_marks: Path) -> None:
    opened = peer.open(small_bundle, load_marks)
    feeds = probe_feeds(opened.inputs)
    opened.run(feeds)
    opened.close()
    opened.close()
    with pytest.raises(InferenceError, match="closed"):
        opened.run(feeds)
    assert opened.identity.provider == peer.provider
    assert opened.inputs[0].name == "x"
