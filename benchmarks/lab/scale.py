"""`make bench-scale`: large images measured: memory whatever the size, seams, throughput.

`python -m benchmarks.lab.scale [--sizes 10000 20000 30000] [--bundle …] [--out …]`. Every part is kept in a JSON file
of the output folder as soon as it is done, and not done again; `--again` does. The orthomosaics are kept, too.
"""

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from benchmarks.lab.orthomosaic import write_orthomosaic
from benchmarks.measuring.environment import environment
from engine.system.memory import process_memory_bytes

_ROOT = Path(__file__).parents[2]
_SEED = 20240
_MIB = 1 << 20
_MEMORY_LIMIT_MIB = 1536
_SEAM_LIMIT = 0.001
_COMMAND = "from service.start import main; main()"
PARTS = ("memory", "seams", "throughput")


@dataclass(frozen=True, slots=True)
class ScaleRequest:
    """What is measured.

    Attributes:
        bundle: the model.
        sizes: sides of the orthomosaics whose memory is measured, in pixels.
        whole_size: side of the one that also fits whole, in pixels.
        memory_mib: the limit that tiles are chosen by.
        streams: of the runs that are measured; the bare session has one.
        parts: which ones.
        out: folder of results and orthomosaics.
        again: whether finished parts are done again.
    """

    bundle: Path
    sizes: tuple[int, ...]
    whole_size: int
    memory_mib: int
    streams: int
    parts: tuple[str, ...]
    out: Path
    again: bool


def measure(request: ScaleRequest, tell: Callable[[str], None]) -> dict[str, Any]:
    """Measure what is asked for and was not measured before.

    Args:
        request: what.
        tell: is told every step.

    Returns:
        Environment, limits and the results of all parts in the folder.

    Raises:
        RuntimeError: a part failed; what was done before is kept.
    """
    folder = request.out / request.bundle.name.partition(".")[0]
    folder.mkdir(parents=True, exist_ok=True)
    memory: dict[str, Callable[[], dict[str, Any]]] = {
        f"memory_{size}": lambda size=size: memory_of(request, size) for size in request.sizes
    }
    comparing: dict[str, Callable[[], dict[str, Any]]] = {
        "seams": lambda: _child_part(request, "seams"),
        f"throughput_{request.streams}": lambda: _child_part(request, "throughput"),
    }
    for name, run in {**memory, **comparing}.items():
        path = folder / f"{name}.json"
        if name.partition("_")[0] not in request.parts or (path.exists() and not request.again):
            continue
        tell(f"{name} …")
        found = run()
        path.write_text(json.dumps({**found, "environment": asdict(environment())}, indent=1))
        tell(f"{name}: {found}")
    results = {path.stem: json.loads(path.read_text()) for path in sorted(folder.glob("*.json"))}
    return {"bundle": request.bundle.name, "memory_limit_mib": request.memory_mib, "results": results}


def orthomosaic(request: ScaleRequest, size: int) -> Path:
    """Make an orthomosaic, or find it.

    Args:
        request: names the folder.
        size: side in pixels.

    Returns:
        The file.
    """
    path = request.out / f"orthomosaic_{size}.tif"
    if not path.exists():
        write_orthomosaic(path, size, _SEED)
    return path


def memory_of(request: ScaleRequest, size: int) -> dict[str, Any]:
    """Run `pseg predict` as users do, and watch its peak.

    Args:
        request: bundle and limit.
        size: side of the orthomosaic, in pixels.

    Returns:
        Peak of the whole process, time, tiling, covers.

    Raises:
        RuntimeError: the command failed.
    """
    source = orthomosaic(request, size)
    masks = request.out / "masks"
    arguments = [
        "predict", request.bundle, source, "--tile", "--max-memory", f"{request.memory_mib}MiB",
        "--streams", request.streams, "--out", masks, "--json",
    ]  # fmt: skip
    started = time.perf_counter()
    with subprocess.Popen(  # noqa: S603
        [sys.executable, "-c", _COMMAND, *map(str, arguments)], cwd=_ROOT, stdout=subprocess.PIPE
    ) as process:
        peak = 0
        while process.poll() is None:
            # The kernel keeps the peak, so that looking now and then misses only what the last moment adds.
            peak = max(peak, process_memory_bytes("VmHWM", process.pid))
            time.sleep(0.02)
        output = process.stdout.read() if process.stdout else b""
    elapsed_s = time.perf_counter() - started
    if process.returncode:
        raise RuntimeError(f"pseg ended with {process.returncode} on {source}: {output.decode()}")
    record = json.loads(output)
    return {
        "size": size,
        "peak_mib": peak / _MIB,
        "seconds": elapsed_s,
        "megapixels_per_second": size * size / 1e6 / elapsed_s,
        "source_mib": source.stat().st_size / _MIB,
        "mask_mib": Path(record["mask"]["path"]).stat().st_size / _MIB,
        "tiling": record["provenance"]["tiling"],
        "timings_ms": record["timings_ms"],
    }


def _child_part(request: ScaleRequest, part: str) -> dict[str, Any]:
    source = orthomosaic(request, request.whole_size)
    command = [
        sys.executable, "-m", "benchmarks.lab.tile_quality", part, request.bundle.resolve(), source.resolve(),
        str(request.memory_mib * _MIB), request.streams, (request.out / "conversions").resolve(),
    ]  # fmt: skip
    done = subprocess.run(list(map(str, command)), cwd=_ROOT, stdout=subprocess.PIPE, check=False)  # noqa: S603
    if done.returncode:
        raise RuntimeError(f"{part} ended with {done.returncode}")
    return json.loads(done.stdout)


def to_markdown(measured: dict[str, Any]) -> str:
    """Lay the results out.

    Args:
        measured: from `measure`.

    Returns:
        A table and a line about the machine.
    """
    lines = [f"### {measured['bundle']}", "", "| measured | result | goal |", "| --- | ---: | ---: |"]
    results: dict[str, dict[str, Any]] = measured["results"]
    by_size = sorted(
        (each for name, each in results.items() if name.startswith("memory_")), key=lambda each: each["size"]
    )
    for each in by_size:
        tiling = each["tiling"]
        lines.append(
            f"| peak memory of the process, {each['size']}×{each['size']} pixels, {tiling['tiles']} tiles of "
            f"{tiling['tile'][0]}×{tiling['tile'][1]} | {each['peak_mib']:.0f} MiB | ≤ {_MEMORY_LIMIT_MIB} MiB |"
        )
        lines.append(
            f"| time for it, from start to the written map | {each['seconds']:.0f} s, "
            f"{each['megapixels_per_second']:.2f} megapixels/s | |"
        )
    if "seams" in results:
        seams = results["seams"]
        side = seams["pixels"][0]
        lines += [
            f"| pixels of {side}×{side} that differ from the whole image, {seams['tiles']} tiles, overlap "
            f"{seams['overlap']} | {seams['mismatched']:.4%} | < {_SEAM_LIMIT:.1%} |",
            f"| the same without overlap | {seams['mismatched_without_overlap']:.4%} | |",
        ]
        if "half_overlap_mismatched" in seams:
            lines.append(
                f"| habitat-mapper's rule (half overlap, Bartlett–Hann), {seams['half_overlap_tiles']} tiles | "
                f"{seams['half_overlap_mismatched']:.4%} | |"
            )
    for speed in (each for name, each in results.items() if name.startswith("throughput_")):
        lines.append(
            f"| speed against the bare session on prepared tiles, {speed['tiles_run']} tiles, file to file, streams: "
            f"{speed['streams']} | {speed['ratio']:.2f} | |"
        )
    machines = {
        f"{each['environment']['processor']}, {each['environment']['usable_cores']} cores, Python "
        f"{each['environment']['python']}, "
        + ", ".join(f"{name} {each['environment']['libraries'][name]}" for name in ("onnxruntime", "rasterio", "numpy"))
        for each in results.values()
    }
    return "\n".join([*lines, "", *(f"On {machine}." for machine in sorted(machines)), ""])


def _request(arguments: Sequence[str] | None) -> ScaleRequest:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.lab.scale", description=__doc__)
    parser.add_argument("--sizes", type=int, nargs="*", default=[10_000, 20_000, 30_000])
    parser.add_argument("--bundle", type=Path, default=_ROOT / "demo" / "demo_seagrass.tgz")
    parser.add_argument("--whole-size", type=int, default=4000)
    parser.add_argument("--max-memory-mib", type=int, default=_MEMORY_LIMIT_MIB)
    parser.add_argument("--streams", type=int, default=1)
    parser.add_argument("--parts", nargs="*", choices=PARTS, default=list(PARTS))
    parser.add_argument("--out", type=Path, default=_ROOT / ".benchmarks" / "scale")
    parser.add_argument("--again", action="store_true")
    given = parser.parse_args(arguments)
    return ScaleRequest(
        given.bundle.resolve(),
        tuple(given.sizes),
        given.whole_size,
        given.max_memory_mib,
        given.streams,
        tuple(given.parts),
        given.out.resolve(),
        given.again,
    )


def _tell(step: str) -> None:
    sys.stderr.write(f"{step}\n")
    sys.stderr.flush()


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, and write `scale_<bundle>.json` and `.md`.

    Args:
        arguments: of the command line.
    """
    request = _request(arguments)
    measured = measure(request, _tell)
    name = f"scale_{request.bundle.name.partition('.')[0]}"
    (request.out / f"{name}.json").write_text(json.dumps(measured, indent=1))
    text = to_markdown(measured)
    (request.out / f"{name}.md").write_text(text)
    sys.stdout.write(text)


if __name__ == "__main__":
    main()
