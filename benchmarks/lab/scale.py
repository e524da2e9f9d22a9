"""`make bench-scale`: large images measured: memory whatever the size, seams, throughput.

`python -m benchmarks.lab.scale [--sizes 10000 20000 30000] [--bundle …] [--out …]`. Every part is kept in a JSON file
of the output folder as soon as it is done, and not done again; `--again` does. The orthomosaics are kept, too.
"""

import argparse
import json
import resource
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from shutil import rmtree
from tempfile import TemporaryFile
from typing import Any

from benchmarks.lab.orthomosaic import write_orthomosaic
from benchmarks.lab.tile_quality import TileWork, measure_tiles
from benchmarks.measuring.environment import environment
from benchmarks.results.markdown import Markup, Table, markdown
from engine.system.machine.memory import process_memory_bytes
from engine.system.process import Limits, run_isolated, value_of

_ROOT = Path(__file__).parents[2]
_SEED = 20240
_MIB = 1 << 20
_MEMORY_LIMIT_MIB = 1536
_ORDER_SIDE = 10_000
_SEAM_LIMIT = 0.001
_TIMEOUT_S = 24 * 3600
_COMMAND = "from service.start import main; main()"
_ORDER = "from service.order import main; main()"
CONTAINER_BYTES = 4 << 30
"""Memory of a container, as the description of the service asks for it."""
PARTS = ("memory", "order", "seams", "throughput")


@dataclass(frozen=True, slots=True)
class ScaleRequest:
    """What is measured; sides of orthomosaics are in pixels, `whole_size` is of the one that also fits whole.

    `memory_mib` is the limit that tiles are chosen by; the runs that are measured have so many `streams`, the bare
    session one.
    """

    bundle: Path
    sizes: Sequence[int]
    whole_size: int
    memory_mib: int
    streams: int
    parts: Sequence[str]
    out: Path
    again: bool


def measure(request: ScaleRequest, report: Callable[[str], None]) -> dict[str, Any]:
    """Measure what is asked for and was not measured before."""
    folder = request.out / request.bundle.name.partition(".")[0]
    folder.mkdir(parents=True, exist_ok=True)
    memory: dict[str, Callable[[], dict[str, Any]]] = {
        f"memory_{size}": lambda size=size: memory_of(request, size) for size in request.sizes
    }
    memory |= {
        f"order_{size}": lambda size=size: order_of(request, size) for size in request.sizes if size <= _ORDER_SIDE
    }
    comparing: dict[str, Callable[[], dict[str, Any]]] = {
        "seams": lambda: _child_part(request, "seams"),
        f"throughput_{request.streams}": lambda: _child_part(request, "throughput"),
    }
    for name, run in {**memory, **comparing}.items():
        path = folder / f"{name}.json"
        if name.partition("_")[0] not in request.parts or (path.exists() and not request.again):
            continue
        report(f"{name} …")
        found = run()
        path.write_text(json.dumps({**found, "environment": asdict(environment())}, indent=1))
        report(f"{name}: {found}")
    results = {path.stem: json.loads(path.read_text()) for path in sorted(folder.glob("*.json"))}
    return {"bundle": request.bundle.name, "memory_limit_mib": request.memory_mib, "results": results}


def orthomosaic(request: ScaleRequest, size: int) -> Path:
    """Make an orthomosaic, or find it."""
    path = request.out / f"orthomosaic_{size}.tif"
    if not path.exists():
        write_orthomosaic(path, size, _SEED)
    return path


def memory_of(request: ScaleRequest, size: int) -> dict[str, Any]:
    """Run `pseg predict` as users do, and watch its peak."""
    source = orthomosaic(request, size)
    masks = request.out / "masks"
    arguments = [
        "predict", request.bundle, source, "--tile", "--max-memory", f"{request.memory_mib}MiB",
        "--streams", request.streams, "--out", masks, "--json",
    ]  # fmt: skip
    peak, elapsed_s, status, output = _watched([_COMMAND, *arguments])
    if status:
        raise RuntimeError(f"pseg ended with {status} on {source}: {output.decode()}")
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


def order_of(request: ScaleRequest, size: int) -> dict[str, Any]:
    """Do an order of an orthomosaic with polygons, as a container of 4 GiB would, and watch its peak.

    A process that wants more private memory than the container has fails; what all its processes hold is added up.
    """
    source, out = orthomosaic(request, size), request.out / "order"
    rmtree(out, ignore_errors=True)
    out.mkdir()
    arguments = [
        _ORDER, "--model", request.bundle, "--image", source, "--vectors", "gpkg",
        "--ivcap:in-dir", request.out, "--ivcap:out-dir", out,
    ]  # fmt: skip
    peak, elapsed_s, status, output = _watched(arguments, limit_bytes=CONTAINER_BYTES)
    if status:
        raise RuntimeError(f"the order of {source} ended with {status}: {output.decode()[-2000:]}")
    [mask], [polygons] = out.glob("*.tif"), out.glob("*.gpkg")
    return {
        "size": size,
        "peak_mib": peak / _MIB,
        "seconds": elapsed_s,
        "megapixels_per_second": size * size / 1e6 / elapsed_s,
        "mask_mib": mask.stat().st_size / _MIB,
        "polygons_mib": polygons.stat().st_size / _MIB,
    }


def _watched(arguments: Sequence[object], limit_bytes: int | None = None) -> tuple[int, float, int, bytes]:
    """Peak in bytes of a program and its children, seconds, status, and what it prints."""
    started = time.perf_counter()
    with TemporaryFile() as output:
        with subprocess.Popen(  # noqa: S603
            [sys.executable, "-c", *map(str, arguments)], cwd=_ROOT, stdout=output
        ) as process:
            if limit_bytes is not None:
                resource.prlimit(process.pid, resource.RLIMIT_DATA, (limit_bytes, limit_bytes))
            peak = 0
            while process.poll() is None:
                # The kernel keeps the peak of the one process; of several what they hold now is added up.
                peak = max(peak, process_memory_bytes("VmHWM", process.pid), _held_bytes(process.pid))
                time.sleep(0.02)
        output.seek(0)
        return peak, time.perf_counter() - started, process.returncode, output.read()


def _held_bytes(pid: int) -> int:
    try:
        threads = list(Path(f"/proc/{pid}/task").iterdir())
        children = [int(child) for thread in threads for child in (thread / "children").read_text().split()]
        return process_memory_bytes("VmRSS", pid) + sum(map(_held_bytes, children))
    except OSError:
        # It has ended.
        return 0


def _child_part(request: ScaleRequest, part: str) -> dict[str, Any]:
    raster = orthomosaic(request, request.whole_size)
    conversions = request.out / "conversions"
    work = TileWork(part, request.bundle, raster, request.memory_mib * _MIB, request.streams, conversions)
    outcome = run_isolated(measure_tiles, work, Limits(_TIMEOUT_S))
    return value_of(outcome, lambda said: RuntimeError(f"{part}: the process {said}"))


def to_markdown(measured: dict[str, Any]) -> str:
    """Lay out what `measure` returned: a table, and a line about each machine."""
    results: dict[str, dict[str, Any]] = measured["results"]
    of_part = {part: [each for name, each in results.items() if name.partition("_")[0] == part] for part in PARTS}
    rows: list[tuple[str, str, str]] = []
    for each in sorted(of_part["memory"], key=lambda one: one["size"]):
        tiling, size = each["tiling"], each["size"]
        what = f"{size}×{size} pixels, {tiling['tiles']} tiles of {tiling['tile'][0]}×{tiling['tile'][1]}"
        speed = f"{each['seconds']:.0f} s, {each['megapixels_per_second']:.2f} megapixels/s"
        rows += [
            (f"peak memory of the process, {what}", f"{each['peak_mib']:.0f} MiB", f"≤ {_MEMORY_LIMIT_MIB} MiB"),
            ("time for it, from start to the written map", speed, ""),
        ]
    for each in of_part["order"]:
        what = f"peak memory of an order with polygons, {each['size']}×{each['size']} pixels"
        rows.append((what, f"{each['peak_mib']:.0f} MiB", f"≤ {CONTAINER_BYTES // _MIB} MiB"))
    for each in of_part["seams"]:
        side, tiles = each["pixels"][0], f"{each['tiles']} tiles, overlap {each['overlap']}"
        what = f"pixels of {side}×{side} that differ from the whole image, {tiles}"
        rows += [
            (what, f"{each['mismatched']:.4%}", Markup(f"< {_SEAM_LIMIT:.1%}")),
            ("the same without overlap", f"{each['mismatched_without_overlap']:.4%}", ""),
        ]
        if "half_overlap_mismatched" in each:
            what = f"habitat-mapper's rule (half overlap, Bartlett–Hann), {each['half_overlap_tiles']} tiles"
            rows.append((what, f"{each['half_overlap_mismatched']:.4%}", ""))
    for each in of_part["throughput"]:
        how = f"{each['tiles_run']} tiles, file to file, streams: {each['streams']}"
        rows.append((f"speed against the bare session on prepared tiles, {how}", f"{each['ratio']:.2f}", ""))
    machines = sorted({_machine(each["environment"]) for each in results.values()})
    table = markdown(Table(("measured", "result", "goal"), tuple(rows)))
    return "\n\n".join([f"### {measured['bundle']}", table, "\n".join(machines)]) + "\n"


def _machine(environment: dict[str, Any]) -> str:
    libraries = ", ".join(f"{name} {environment['libraries'][name]}" for name in ("onnxruntime", "rasterio", "numpy"))
    return (
        f"On {environment['processor']}, {environment['usable_cores']} cores, Python {environment['python']}, "
        f"{libraries}."
    )


def _request(arguments: Sequence[str] | None) -> ScaleRequest:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.lab.scale", description=__doc__)
    parser.add_argument("--sizes", type=int, nargs="*", default=[10_000, 20_000, 30_000])
    parser.add_argument("--bundle", type=Path, default=_ROOT / "demo" / "demo_seagrass.tgz")
    parser.add_argument("--whole-size", type=int, default=4000)
    parser.add_argument("--max-memory-mib", type=int, default=_MEMORY_LIMIT_MIB, dest="memory_mib")
    parser.add_argument("--streams", type=int, default=1)
    parser.add_argument("--parts", nargs="*", choices=PARTS, default=list(PARTS))
    parser.add_argument("--out", type=Path, default=_ROOT / ".benchmarks" / "scale")
    parser.add_argument("--again", action="store_true")
    given = ScaleRequest(**vars(parser.parse_args(arguments)))
    return replace(given, bundle=given.bundle.resolve(), out=given.out.resolve())


def _report(step: str) -> None:
    sys.stderr.write(f"{step}\n")
    sys.stderr.flush()


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, and write `scale_<bundle>.json` and `.md`."""
    request = _request(arguments)
    measured = measure(request, _report)
    name = f"scale_{request.bundle.name.partition('.')[0]}"
    (request.out / f"{name}.json").write_text(json.dumps(measured, indent=1))
    text = to_markdown(measured)
    (request.out / f"{name}.md").write_text(text)
    sys.stdout.write(text)


if __name__ == "__main__":
    main()
