"""Which libraries are installed, and in which versions."""

from collections.abc import Iterable
from importlib import metadata


def installed_version(distribution: str) -> str | None:
    """Look up the version of a distribution.

    Returns:
        The version; None if the distribution is not installed.
    """
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return None


def installed_versions(distributions: Iterable[str]) -> dict[str, str]:
    """Look up the versions of several distributions."""
    found = {name: installed_version(name) for name in distributions}
    return {name: version for name, version in found.items() if version is not None}
