"""A rendered survey to try things with: ``python -m demo.survey --out dives --labels labels``.

Two sites with three transects each are seen on two dates, five quadrats on every transect: 60 pictures with exact
labels, whose paths say where they belong (``{site}/{transect}/{date}/{quadrat}.jpg``). Seagrass is more on one site
than on the other, and less on the second date.
"""

import argparse
import itertools
from collections.abc import Sequence
from pathlib import Path, PurePath

import numpy as np

from demo.scenes import SEAGRASS, render_scene, save_scene

PATTERN = "{site}/{transect}/{date}/{quadrat}.jpg"
_SITES = {"bay": 1.0, "point": 0.0}
_DATES = {"2025-03-14": 0.5, "2026-03-12": 0.0}
"""How much seagrass a site or date has more than the other, beside a spread of 1 among quadrats."""
_TRANSECTS, _QUADRATS = 3, 5


def render_survey(out: Path, labels: Path | None, *, seed: int = 910_000, width: int = 480, height: int = 360) -> None:
    """Render the survey; the same arguments always give the same files.

    Labels are palette PNG in the same sub-folders; the seed is of the first picture, the next ones count up.
    """
    generator = np.random.default_rng(seed)
    places: list[tuple[float, PurePath]] = []
    for (site, richer), transect in itertools.product(_SITES.items(), range(1, _TRANSECTS + 1)):
        own = generator.normal(0, 0.4)
        for (date, earlier), quadrat in itertools.product(_DATES.items(), range(1, _QUADRATS + 1)):
            rank = richer + earlier + own + generator.normal()
            places.append((rank, PurePath(site, f"T{transect}", date, f"Q{quadrat}")))
    scenes = [render_scene(seed + number, width, height) for number in range(len(places))]
    # A seed decides how much seagrass there is: the pictures are laid where as much is wanted.
    by_cover = sorted(scenes, key=lambda scene: float((scene.labels == SEAGRASS).mean()))
    for scene, (_, place) in zip(by_cover, sorted(places), strict=True):
        mask = None if labels is None else labels / place.with_suffix(".png")
        save_scene(scene, out / place.with_suffix(".jpg"), mask)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m demo.survey", description=__doc__)
    parser.add_argument("--out", type=Path, required=True, help="folder for the pictures, made if absent")
    parser.add_argument("--labels", type=Path, help="folder for the exact labels")
    options = parser.parse_args(arguments)
    for folder in (options.out, options.labels):
        if folder is not None and folder.is_dir() and any(folder.iterdir()):
            parser.error(f"{folder} is not empty, and would hold pictures of two surveys: name another folder")
    render_survey(options.out, options.labels)
    print(f"{len(list(options.out.rglob('*.jpg')))} pictures -> {options.out}")


if __name__ == "__main__":
    main()
