"""KNet of PaddleSeg, which mixes the images of a run: its attention takes the batch for the kernels.

Its convolutions have weights that it computes from each picture; oneDNN keeps those of the first one.
"""
# pyright: reportMissingTypeStubs=false, reportUnknownMemberType=false, reportUnknownVariableType=false
# pyright: reportUnknownArgumentType=false, reportUnknownParameterType=false, reportUntypedBaseClass=false
# Paddle and PaddleSeg ship no type information.

from pathlib import Path

import numpy as np
import pytest

from converters.exporting.export import export_bundle
from engine import RuntimeName, RuntimeRequest, open_bundle, open_predictor
from tests.conftest import NORMALIZE, Convert, vendor_warnings_ignored
from tests.converters.exporting.trainings import kernels_updated_once, logits_of


@pytest.mark.parametrize("runtime", [RuntimeName.PADDLE, pytest.param(RuntimeName.ONNX, marks=pytest.mark.long)])
def test_a_batch_gives_what_the_network_gives_for_each_image(
    runtime: RuntimeName, converter: Convert, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with vendor_warnings_ignored():
        import paddle
        from paddleseg.models.knet import KernelUpdateHead

        # PaddleSeg's own export has no adapters, and leaves the batch free.
        monkeypatch.setattr("converters.exporting.adapters.ADAPTERS", ())
        paddle.seed(3)
        network = kernels_updated_once(KernelUpdateHead)
        network.eval()
        pictures = [np.random.default_rng(seed).integers(0, 256, (40, 56, 3), np.uint8) for seed in range(3)]
        pictures[1] //= 3
        inputs = np.stack(pictures).transpose(0, 3, 1, 2).astype(np.float32) / np.float32(127.5) - np.float32(1)
        expected = np.concatenate([logits_of(network, each[np.newaxis]) for each in inputs]).argmax(axis=1)
        together = logits_of(network, inputs).argmax(axis=1)
        export_bundle(network, tmp_path / "bundle", name="knet", classes=[], transforms=[NORMALIZE])
    assert (together != expected).mean() > 0.01
    with (
        open_bundle(tmp_path / "bundle") as bundle,
        open_predictor(bundle, RuntimeRequest(runtime=runtime), convert=converter) as predictor,
    ):
        found = predictor.predict_batch(pictures)
        assert any("one by one" in each for each in predictor.provenance.fallbacks)
    for prediction, wanted in zip(found, expected, strict=True):
        assert (prediction.mask != wanted).mean() < 0.001
