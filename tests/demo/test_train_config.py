"""The recipe of docs/export.md: twenty small pictures are trained on, exported, converted and judged."""
# pyright: reportMissingTypeStubs=false, reportUnknownMemberType=false, reportUnknownVariableType=false
# pyright: reportUnknownArgumentType=false
# Paddle and PaddleSeg ship no type information.

import json
import re
import subprocess
import sys
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from PIL import Image

from demo.scenes import render_scene
from demo.train_config import cross_entropy
from tests.conftest import vendor_warnings_ignored

REPOSITORY = Path(__file__).parents[2]
PSEG = Path(sys.executable).with_name("pseg")
IGNORED = 255


def loss_of_paddleseg(**settings: Any) -> Any:
    """The settings of PaddleSeg's loss, as its constructor keeps them."""
    from paddleseg.models.losses import CrossEntropyLoss

    return CrossEntropyLoss(**settings)


def surprises(logits: Any, labels: Any) -> Any:
    """float64[N, H, W]: minus the logarithm of the probability of the label; 0 where it is ignored."""
    powers = np.exp(logits.astype(np.float64))
    probabilities = powers / powers.sum(axis=1, keepdims=True)
    known = np.where(labels == IGNORED, 0, labels)[:, np.newaxis]
    return np.where(labels == IGNORED, 0, -np.log(np.take_along_axis(probabilities, known, axis=1)[:, 0]))


@pytest.fixture(scope="module")
def batch() -> tuple[Any, Any]:
    with vendor_warnings_ignored():
        import_module("paddleseg.models")
    random = np.random.default_rng(5)
    labels = random.integers(0, 3, (2, 6, 7))
    labels[:, 2] = IGNORED
    return random.standard_normal((2, 3, 6, 7)).astype(np.float32), labels


@pytest.mark.parametrize("weights", [None, [0.5, 1.0, 3.0]])
def test_cross_entropy_is_the_mean_of_the_pixels_that_count(
    batch: tuple[Any, Any], weights: list[float] | None
) -> None:
    import paddle

    logits, labels = batch
    found = cross_entropy(loss_of_paddleseg(weight=weights), paddle.to_tensor(logits), paddle.to_tensor(labels))
    each = np.where(labels == IGNORED, 0, np.array(weights or [1.0] * 3)[np.where(labels == IGNORED, 0, labels)])
    assert float(found) == pytest.approx((each * surprises(logits, labels)).sum() / each.sum(), rel=1e-5)


def test_cross_entropy_of_the_hardest_pixels_and_of_weighted_ones(batch: tuple[Any, Any]) -> None:
    import paddle

    logits, labels = batch
    tensors = (paddle.to_tensor(logits), paddle.to_tensor(labels))
    hardest = np.sort(surprises(logits, labels), axis=None)[-21:]
    found = cross_entropy(loss_of_paddleseg(top_k_percent_pixels=0.25), *tensors)
    assert float(found) == pytest.approx(hardest.mean(), rel=1e-5)
    shares = np.linspace(0, 2, labels.size).reshape(labels.shape).astype(np.float32)
    found = cross_entropy(loss_of_paddleseg(avg_non_ignore=False), *tensors, paddle.to_tensor(shares))
    assert float(found) == pytest.approx((shares * surprises(logits, labels)).mean(), rel=1e-5)


def configuration_of_the_docs() -> dict[str, Any]:
    """The first configuration of docs/export.md, with small crops and a network that learns within a minute."""
    page = (REPOSITORY / "docs" / "export.md").read_text(encoding="utf-8")
    found = next(each for each in re.findall(r"```yaml\n(.*?)```", page, re.DOTALL) if "train_dataset" in each)
    assert found.count("[512, 512]") == 1
    content = yaml.safe_load(found.replace("[512, 512]", "[96, 96]"))
    content["model"] = {"type": "PPHumanSegLite", "num_classes": content["model"]["num_classes"]}
    content["loss"]["coef"] = [1]
    return content


def write_pictures(folder: Path) -> None:
    """Twenty scenes, of which four are for the validation."""
    lines: list[str] = []
    for part in ("images", "masks"):
        (folder / part).mkdir(parents=True)
    for number in range(20):
        scene = render_scene(number, 160, 120)
        Image.fromarray(scene.image).save(folder / "images" / f"{number}.jpg")
        Image.fromarray(scene.labels).save(folder / "masks" / f"{number}.png")
        lines.append(f"images/{number}.jpg masks/{number}.png\n")
    (folder / "train.txt").write_text("".join(lines[:16]))
    (folder / "val.txt").write_text("".join(lines[16:]))


@pytest.mark.long
@pytest.mark.timeout(900)
def test_the_recipe_of_the_docs(tmp_path: Path) -> None:
    write_pictures(tmp_path / "data")
    (tmp_path / "seagrass.yml").write_text(yaml.safe_dump(configuration_of_the_docs()))
    classes = [{"name": name} for name in ("Sand", "Seagrass", "Frame")]
    (tmp_path / "classes.json").write_text(json.dumps({"classes": classes}))

    def said(*command: str | Path) -> str:
        done = subprocess.run(
            [*map(str, command)],
            cwd=tmp_path,
            env={"PATH": "/usr/bin:/bin", "HOME": str(tmp_path), "PYTHONPATH": str(REPOSITORY)},
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    train = ("-m", "demo.train_config", "seagrass.yml", "--save-dir", "output", "--iters", "100")
    best = tmp_path / said(sys.executable, "-W", "ignore", *train).splitlines()[-1]
    assert best == tmp_path / "output" / "best_model" / "model.pdparams"
    names = ("--config", "seagrass.yml", "--weights", best, "--cv-config", "classes.json")
    said(PSEG, "export", *names, "--out", "seagrass.tgz")
    converted = json.loads(said(PSEG, "convert", "seagrass.tgz", "--out", "seagrass_onnx.tgz", "--json"))
    assert converted["parity"]["mismatched_ppm"] <= 100
    data = ("--images", "data/images", "--masks", "data/masks")
    (result,) = json.loads(said(PSEG, "evaluate", "seagrass_onnx.tgz", *data, "--json"))["results"]
    # One class everywhere, which is what an untrained network tends to, has at most a third.
    assert result["miou"] > 0.34
