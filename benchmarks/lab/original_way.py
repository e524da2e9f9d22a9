"""A bundle the way PaddleSeg's own deployment runs it: what `pseg` is measured against."""

# Paddle and PaddleSeg are imported, the predictor is made from the model files with the settings that PaddleSeg's
# `deploy/python/infer.py` has without options (ten threads; oneDNN as Paddle has it by default, since the script never
# switches it off), PaddleSeg's own transforms prepare the picture, and the pseudo-colour picture is saved at the
# network's size. `python benchmarks/lab/original_way.py FOLDER IMAGE OUT.png`
# pyright: reportMissingTypeStubs=false, reportUnknownMemberType=false, reportUnknownVariableType=false
# pyright: reportUnknownArgumentType=false, reportMissingImports=false

import sys
from pathlib import Path
from typing import Any

import yaml

_CPU_THREADS = 10


def segment(folder: Path, picture: Path, out: Path) -> None:
    import numpy as np
    import paddleseg.transforms as transforms
    from paddle import inference
    from paddleseg.utils import visualize

    deploy = yaml.safe_load((folder / "deploy.yaml").read_text())["Deploy"]
    settings: Any = inference.Config(str(folder / deploy["model"]), str(folder / deploy["params"]))
    if deploy["model"].endswith(".pdmodel"):
        # On a PIR program Paddle 3.2 fails in it, unless an executor is switched on that the script knows nothing of.
        settings.enable_memory_optim()
    settings.disable_gpu()
    settings.set_cpu_math_library_num_threads(_CPU_THREADS)
    predictor: Any = inference.create_predictor(settings)

    steps = [
        getattr(transforms, each["type"])(**{name: value for name, value in each.items() if name != "type"})
        for each in deploy["transforms"] or []
    ]
    prepared: Any = transforms.Compose(steps)({"img": str(picture)})
    batch = np.stack([prepared["img"]])
    feed = predictor.get_input_handle(predictor.get_input_names()[0])
    feed.reshape(batch.shape)
    feed.copy_from_cpu(batch)
    predictor.run()
    output = predictor.get_output_handle(predictor.get_output_names()[0]).copy_to_cpu()
    mask = output[0].argmax(axis=0) if output.ndim == 4 else output[0]
    visualize.get_pseudo_color_map(mask.astype(np.uint8)).save(out)


if __name__ == "__main__":
    segment(*map(Path, sys.argv[1:4]))
