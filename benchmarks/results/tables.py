"""Results for people and programs: tables for the terminal and for Markdown, CSV, JSON."""

from collections.abc import Mapping, Sequence
from typing import Any

from pydantic import TypeAdapter

from benchmarks.measuring.configurations import Configuration, Size
from benchmarks.measuring.samples import STAGES, Measurement, Results, Summary, pareto_front, summarize
from benchmarks.results.markdown import Table, escaped, markdown, shown, shown_share
from engine.system.machine.hardware import telling_flags
from engine.system.text import csv_table

_RESULTS = TypeAdapter(Results)
_SUMMARY = TypeAdapter(Summary)


def measured(results: Results) -> list[tuple[Measurement, Summary]]:
    """Pick what came to its end."""
    return [(each, summarize(each)) for each in results.measurements if each.error is None]


def front(results: Results) -> frozenset[Configuration]:
    """Find the configurations that no other of their size beats in both median latency and smallest class IoU.

    There are none where masks were not compared.
    """
    points: dict[Size | None, list[tuple[float, float, Configuration]]] = {}
    for each, summary in measured(results):
        if summary.p50_ms is not None and summary.min_class_iou is not None:
            point = (summary.p50_ms, summary.min_class_iou, each.configuration)
            points.setdefault(each.configuration.size, []).append(point)
    fronts = (pareto_front(each, lambda point: point[0], lambda point: point[1]) for each in points.values())
    return frozenset(configuration for one in fronts for _, _, configuration in one)


def figures(results: Results) -> Table:
    """Lay out latency, throughput, memory and agreement."""
    best = front(results)
    header = (
        "configuration", "p50 ms", "p90 ms", "p99 ms", "images/s", "CPU s/image", "load ms", "first run ms", "peak MiB",
        "ppm differ", "min IoU", "cover error", "front",
    )  # fmt: skip
    return Table(
        header,
        tuple(
            (
                each.configuration.label,
                shown(summary.p50_ms, 1),
                shown(summary.p90_ms, 1),
                shown(summary.p99_ms, 1),
                shown(summary.images_per_s, 2),
                shown(summary.cpu_s_per_image, 3),
                shown(summary.load_ms, 0),
                shown(summary.first_run_ms, 1),
                shown(summary.peak_rss_mib, 0),
                shown(summary.mismatched_ppm, 1),
                shown_share(summary.min_class_iou, 4),
                shown_share(summary.max_cover_error, 5),
                "yes" if each.configuration in best else "",
            )
            for each, summary in _fastest_first(results)
        ),
    )


def time_split(results: Results) -> Table:
    """Lay out where the time goes: medians in milliseconds of what came to its end, the fastest first."""
    return Table(
        ("configuration", *(f"{stage} ms" for stage in STAGES)),
        tuple(
            (each.configuration.label, *(shown(summary.stages_ms.get(stage), 1) for stage in STAGES))
            for each, summary in _fastest_first(results)
        ),
    )


def class_agreement(results: Results) -> Table:
    """Lay out the IoU of every class with the reference."""
    compared = [(each, summary) for each, summary in _fastest_first(results) if summary.class_iou]
    names = list(dict.fromkeys(name for _, summary in compared for name in summary.class_iou))
    return Table(
        ("configuration", *(f"IoU {name}" for name in names)),
        tuple(
            (each.configuration.label, *(shown_share(summary.class_iou.get(name), 5) for name in names))
            for each, summary in compared
        ),
    )


def troubles(results: Results) -> list[tuple[str, tuple[str, ...]]]:
    reasons: dict[str, list[str]] = {}
    for each in results.measurements:
        if each.error is not None:
            reasons.setdefault(f"failed: {each.error}", []).append(each.configuration.label)
    for each in results.skipped:
        reasons.setdefault(f"skipped: {each.reason}", []).append(each.configuration.label)
    return [(reason, tuple(labels)) for reason, labels in reasons.items()]


def _fastest_first(results: Results) -> list[tuple[Measurement, Summary]]:
    return sorted(measured(results), key=lambda each: each[1].p50_ms or 0)


def record(results: Results) -> dict[str, Any]:
    """Make a record of everything, raw samples included."""
    everything: dict[str, Any] = _RESULTS.dump_python(results, mode="json")
    for entry, each in zip(everything["measurements"], results.measurements, strict=True):
        entry["label"] = each.configuration.label
        entry["summary"] = _SUMMARY.dump_python(summarize(each), mode="json")
    return everything


def to_csv(results: Results) -> bytes:
    """Write a row per configuration, also of those that failed or were skipped."""
    rows = [_csv_row(each.configuration, each) for each in results.measurements]
    rows += [{**_csv_row(each.configuration), "status": "skipped", "reason": each.reason} for each in results.skipped]
    columns = list(dict.fromkeys(name for row in rows for name in row))
    return csv_table(columns, ([row.get(column) for column in columns] for row in rows))


def _csv_row(configuration: Configuration, measurement: Measurement | None = None) -> dict[str, Any]:
    row: dict[str, Any] = {
        "runtime": configuration.provider.runtime.value,
        "provider": configuration.provider.value,
        "precision": configuration.precision.value,
        "threads": configuration.threads,
        "streams": configuration.streams,
        "batch_size": configuration.batch_size,
        "size": configuration.size and str(configuration.size),
        "min_subgraph_size": configuration.min_subgraph_size if configuration.provider.is_tensorrt else None,
    }
    if measurement is None:
        return row
    summary: Mapping[str, Any] = _SUMMARY.dump_python(summarize(measurement), mode="json")
    row |= {"status": "failed" if measurement.error else "ok", "reason": measurement.error}
    row |= {name: value for name, value in summary.items() if not isinstance(value, dict)}
    row |= {f"{stage}_ms": summary["stages_ms"].get(stage) for stage in STAGES}
    return row | {f"iou {name}": iou for name, iou in summary["class_iou"].items()}


def facts(results: Results) -> list[tuple[str, str]]:
    """Tell what figures should be read with."""
    machine, reference = results.environment, results.reference
    quota = "" if machine.quota_cores is None else f", quota {machine.quota_cores:g}"
    told = [
        ("bundle", f"{results.bundle} ({results.bundle_digest[:8]})"),
        ("images", f"{results.images}; {results.repeats} turns each"),
        ("reference", f"{reference.label}, {reference.images} images" if reference.label else "none"),
        ("processor", f"{machine.processor}; {machine.usable_cores} of {machine.logical_cores} cores{quota}"),
        ("processor's flags", " ".join(telling_flags(machine.flags)) or "-"),
        ("memory", f"{machine.memory_bytes / 2**30:.1f} GiB"),
        ("GPU", machine.gpu or "none"),
        ("load before", f"{machine.load_average:.2f}"),
        ("system", f"{machine.system}, Python {machine.python}"),
        ("libraries", ", ".join(f"{name} {version}" for name, version in machine.libraries.items())),
        ("commit", machine.commit or "not known"),
    ]
    lots = 1 + max((each.lot for each in results.measurements), default=0)
    if lots > 1:
        told.append(("lots", f"{lots}, since memory does not hold all at once: only those of one lot took turns"))
    return told if reference.note is None else [*told, ("note", reference.note)]


def to_markdown(results: Results, plots: Sequence[str] = ()) -> str:
    parts = [f"# Measured: {escaped(results.bundle)}", markdown(figures(results)), _LEGEND]
    parts += [f"![{name.rpartition('.')[0].replace('_', ' ')}]({name})" for name in plots]
    parts += ["## Where the time goes", markdown(time_split(results))]
    classes = class_agreement(results)
    if classes.rows:
        parts += ["## Agreement with the reference, class by class", markdown(classes)]
    lines = [f"- {escaped('; '.join(labels))}: {escaped(reason)}" for reason, labels in troubles(results)]
    if lines:
        parts += ["## Not measured", "\n".join(lines)]
    told = Table(("", ""), tuple(facts(results)))
    return "\n\n".join([*parts, "## Read with", markdown(told)]) + "\n"


_LEGEND = (
    "Latency is that of one image (of a batch: of the whole batch) from the start of decoding to the end of encoding, "
    "while all streams are busy; "
    "images per second and CPU seconds are those of the pipeline, where these overlap. Peak memory is `VmHWM` of the "
    "configuration's own process. *ppm differ*, *min IoU* and *cover error* compare masks with the reference's. "
    "*front*: no other configuration of this size of images is both faster at the median and closer to the reference."
)
