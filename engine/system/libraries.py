"""Which libraries are installed, and in which versions."""

from collections.abc import Iterable
from functools import cache
from importlib import metadata


@cache
def installed_version(distribution: str) -> str | None:
    """Look up the version of a distribution, if it is installed."""
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return None


def version_of_pseg() -> str:
    """Look up the version of this package."""
    return metadata.version("paddleseg-dual-runtime")


TENSORRT_DISTRIBUTIONS = ("tensorrt-cu12", "tensorrt-cu13", "tensorrt")


def tensorrt_version() -> str:
    """Look up the version of TensorRT, whichever of its distributions is installed; else `unknown`."""
    return next(filter(None, map(installed_version, TENSORRT_DISTRIBUTIONS)), "unknown")


def installed_versions(distributions: Iterable[str]) -> dict[str, str]:
    """Look up the versions of those distributions that are installed."""
    found = {name: installed_version(name) for name in distributions}
    return {name: version for name, version in found.items() if version is not None}
