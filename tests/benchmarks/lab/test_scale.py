"""The synthetic orthomosaic, the peer's way to tile, and the table of `make bench-scale`."""
# rasterio ships no type information.
# pyright: reportMissingTypeStubs=false, reportUnknownMemberType=false, reportUnknownVariableType=false
# pyright: reportUnknownArgumentType=false

from pathlib import Path

import numpy as np
import pytest
import rasterio

from benchmarks.lab.half_overlap import predict_with_half_overlap
from benchmarks.lab.orthomosaic import write_orthomosaic
from benchmarks.lab.scale import to_markdown
from engine import Predictor
from engine.runtimes import Tensor
from engine.runtimes.fake import FakeRuntime
from tests.engine.segmentation.test_predictor import bundle_of, image_of, noise


def test_an_orthomosaic_has_data_an_edge_without_and_is_the_same_again(tmp_path: Path) -> None:
    shares: list[float] = []
    for name in ("a.tif", "b.tif"):
        write_orthomosaic(tmp_path / name, 700, 3, advance=shares.append)
    assert (tmp_path / "a.tif").read_bytes() == (tmp_path / "b.tif").read_bytes()
    assert shares == [0.25, 0.5, 0.75, 1.0] * 2
    with rasterio.open(tmp_path / "a.tif") as dataset:
        pixels, valid = dataset.read(), dataset.dataset_mask() > 0
        assert (dataset.crs, dataset.block_shapes[0]) == ("EPSG:32755", (512, 512))
    rows, columns = np.indices((700, 700))
    np.testing.assert_array_equal(valid, rows + columns > 175)
    bright = pixels[:, valid].mean(axis=0)
    assert (bright > 220).mean() > 0.01, "a frame"
    assert (pixels[1] > pixels[0])[valid].mean() > 0.05, "seagrass"


@pytest.mark.parametrize("size", [(70, 100), (32, 32), (20, 65)])
def test_half_overlap_gives_a_pixelwise_network_its_own_mask(size: tuple[int, int]) -> None:
    def pixelwise(tensor: Tensor) -> Tensor:
        return tensor

    predictor = Predictor(bundle_of(), FakeRuntime(pixelwise))
    image = image_of(noise(*size))
    mask, tiles = predict_with_half_overlap(predictor, image, 32)
    np.testing.assert_array_equal(mask, predictor.predict(image).mask)
    rows, columns = (max(1, int(np.ceil((side - 32) / 16)) + 1) for side in size)
    assert tiles == rows * columns


def test_the_table_holds_results_against_goals() -> None:
    environment = {
        "processor": "P", "usable_cores": 2, "python": "3.11",
        "libraries": {"onnxruntime": "1", "rasterio": "2", "numpy": "3"},
    }  # fmt: skip
    tiling = {"tile": [1024, 1024], "tiles": 9}
    text = to_markdown(
        {
            "bundle": "model.tgz",
            "results": {
                "memory_2000": {
                    "size": 2000, "peak_mib": 417.4, "seconds": 10.0, "megapixels_per_second": 0.4, "tiling": tiling,
                    "environment": environment,
                },
                "seams": {
                    "pixels": [4000, 4000], "tiles": 9, "overlap": 256, "mismatched": 0.0002,
                    "mismatched_without_overlap": 0.02, "environment": environment,
                },
                "throughput_1": {"tiles_run": 9, "streams": 1, "ratio": 0.851, "environment": environment},
                "throughput_2": {"tiles_run": 9, "streams": 2, "ratio": 0.909, "environment": environment},
            },
        }
    )  # fmt: skip
    assert "| 417 MiB | ≤ 1536 MiB |" in text
    assert "| 0.0200% | < 0.1% |" in text
    assert "streams: 1 | 0.85 |" in text
    assert "streams: 2 | 0.91 |" in text
    assert text.count("On P, 2 cores") == 1
