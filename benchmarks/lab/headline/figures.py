"""The figures that the page begins with, derived from what was measured, and the goals that they are held against."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from benchmarks.lab.headline.convolutions import GFLOP
from benchmarks.lab.headline.measured import Part, fastest
from benchmarks.lab.headline.scenarios import Software
from benchmarks.measuring.configurations import ProviderName
from engine.options import Precision

NETWORK_GFLOP = 1227.0
"""Convolutions of OCRNet on HRNet-W48 at 864×1152; a multiplication and an addition are two."""
_PEERS = (Software.PADDLE, Software.DEPLOY_SCRIPT, Software.ONNX_RUNTIME, Software.OPENVINO)


@dataclass(frozen=True, slots=True)
class Figure:
    """One line of the headline table; `reached` is None where there is nothing to judge."""

    what: str
    goal: str
    found: str
    reached: bool | None


def network_figures(part: Part) -> list[Figure]:
    """Against the original, against the best FP32 of all, of FP32 alone, of the machine's roof."""
    ours = [each for each in part.results if each.is_of(Software.PSEG)]
    best = fastest(ours)
    best_peer = fastest(each for each in part.results if each.is_of(*_PEERS))
    without_onednn = fastest(
        each for each in part.results if each.is_of(Software.PADDLE) and each.provider is ProviderName.PADDLE_CPU
    )
    script = fastest(each for each in part.results if each.is_of(Software.DEPLOY_SCRIPT))
    our_fp32 = fastest(each for each in ours if each.precision is Precision.FP32)
    faster, than_script = without_onednn.median_s / best.median_s, script.median_s / best.median_s
    memory = best.peak_rss_bytes / without_onednn.peak_rss_bytes
    than_fp32 = min(best_peer.median_s, our_fp32.median_s) / best.median_s
    of_peer = our_fp32.median_s / best_peer.median_s
    lines = [
        Figure(
            f"our best ({best.way.label}) against Paddle with oneDNN off and 10 threads",
            "at least 14 times faster",
            f"{faster:.1f} times (against today's deploy script {than_script:.1f} times)",
            faster >= 14,
        ),
        Figure("its peak memory, of the same", "at most 0.33", f"{memory:.2f}", memory <= 0.33),
        Figure(
            f"our best against the best FP32 of any peer ({best_peer.way.label})",
            "at least 3.5 times faster",
            f"{than_fp32:.2f} times",
            than_fp32 >= 3.5,
        ),
        Figure(
            "our FP32 against the best FP32 of any peer",
            "never slower than 1.02",
            f"{of_peer:.3f} times its time",
            of_peer <= 1.02,
        ),
    ]
    for precision, goal in ((Precision.INT8, 0.9), (Precision.FP32, None)):
        stacks = [each for each in part.results if each.is_of(Software.CONVOLUTIONS, precision=precision)]
        networks = [each for each in ours if each.precision is precision]
        if stacks and networks:
            roof, reached = GFLOP / fastest(stacks).median_s, NETWORK_GFLOP / fastest(networks).median_s
            what = f"share of this machine's {precision.upper()} roof ({roof:.0f} GFLOP/s in convolutions alone)"
            told = "no goal" if goal is None else f"at least {goal:g}"
            lines.append(Figure(what, told, f"{reached / roof:.2f}", None if goal is None else reached / roof >= goal))
    return lines


def folder_figures(part: Part) -> list[Figure]:
    """The pipeline's rate against the bare session's, for each network."""
    lines: list[Figure] = []
    for ((network, pictures), results), goal in zip(part.by_scenario().items(), (0.80, 0.95), strict=False):
        bare = fastest(each for each in results if each.is_of(Software.ONNX_RUNTIME)).images_per_s
        found = {
            each.way.configuration.streams: each.images_per_s / bare
            for each in results
            if each.is_of(Software.PSEG) and each.way.configuration
        }
        told = ", ".join(f"{each} stream{'s' * (each > 1)}: {ratio:.2f}" for each, ratio in found.items())
        what = f"{network}, {pictures}: whole pipeline against the bare session on prepared tensors"
        lines.append(Figure(what, f"at least {goal:.2f} of its images per second", told, max(found.values()) >= goal))
    return lines


def growth_figures(part: Part) -> list[Figure]:
    """Seconds per image of the largest folder, against the smallest."""
    each_s = {each.way.images or 0: 1 / each.images_per_s for each in part.results if each.is_of(Software.PSEG)}
    fewest, most = min(each_s), max(each_s)
    told = ", ".join(f"{images} images: {1000 * seconds:.1f} ms" for images, seconds in each_s.items())
    what = f"seconds per image from {fewest} to {most} images"
    return [Figure(what, "flat within 5 %", told, each_s[most] <= 1.05 * each_s[fewest])]


def family_figures(part: Part) -> list[Figure]:
    """Of each network: the better of this engine's two FP32 ways, against the best FP32 peer."""
    ratios: dict[str, float] = {}
    for (network, _), results in part.by_scenario().items():
        measured = [each for each in results if each.error is None]
        ours = fastest(each for each in measured if each.is_of(Software.PSEG))
        ratios[network] = ours.median_s / fastest(each for each in measured if each.is_of(*_PEERS)).median_s
    told = ", ".join(f"{network} {ratio:.2f}" for network, ratio in ratios.items())
    what = "our better FP32 provider against the best FP32 of any peer, 512×512"
    return [Figure(what, "at most 1.02 times its time, for each", told, max(ratios.values()) <= 1.02)]


def start_figures(part: Part) -> list[Figure]:
    ours = fastest(each for each in part.results if each.is_of(Software.PSEG))
    theirs = fastest(each for each in part.results if each.is_of(Software.DEPLOY_SCRIPT))
    ratio = theirs.median_s / ours.median_s
    found = f"{ratio:.2f} times ({ours.median_s:.2f} s against {theirs.median_s:.2f} s)"
    return [Figure("start to first mask, PP-LiteSeg on 657×667", "at least 5 times faster", found, ratio >= 5)]


def auto_ratios(part: Part) -> dict[str, float]:
    """Network to the latency of `auto`, of the best configuration's; 1 is the best."""
    return {
        network: fastest(each for each in results if each.error is None and each.way.configuration is None).median_s
        / fastest(each for each in results if each.error is None and each.way.configuration is not None).median_s
        for (network, _), results in part.by_scenario().items()
    }


def auto_figures(part: Part) -> list[Figure]:
    ratios = auto_ratios(part)
    worst = max(ratios, key=lambda name: ratios[name])
    return [
        Figure(
            f"`auto` with a profile against the best single configuration, {len(ratios)} networks",
            "at most 1.05 times its latency, for each",
            f"at most {ratios[worst]:.3f} ({worst})",
            ratios[worst] <= 1.05,
        )
    ]


FIGURES: Mapping[str, Callable[[Part], list[Figure]]] = {
    "network": network_figures,
    "folder": folder_figures,
    "families": family_figures,
    "auto": auto_figures,
    "start": start_figures,
    "growth": growth_figures,
}
"""Part to what derives its figures, in the order of the page."""
