"""Where the limits of this process's control group lie: its folders and those of the groups above it."""

from collections.abc import Iterator
from pathlib import Path

CGROUP_ROOT = Path("/sys/fs/cgroup")
OWN_CGROUPS = Path("/proc/self/cgroup")


def group_folders(controller: str, *, root: Path = CGROUP_ROOT, own: Path = OWN_CGROUPS) -> Iterator[tuple[int, Path]]:
    """List the folders whose limits bind this process, with the version of the control group, 1 or 2.

    The controller is one of version 1, such as `cpu` or `memory`; version 2 has one folder for all. Not every folder
    exists or holds a limit: inside of a container the list may name groups that only the host sees, and then the
    mount's top holds the limits.
    """
    try:
        lines = own.read_text().splitlines()
    except OSError:
        return
    for line in lines:
        _, controllers, group = line.split(":", 2)
        relative = group.lstrip("/")
        if not controllers:
            version, mounts = 2, (root, root / "unified")
        elif controller in controllers.split(","):
            version, mounts = 1, (root / controllers, root / controller)
        else:
            continue
        for mount in mounts:
            for folder in _ancestors(mount / relative, mount):
                yield version, folder


def read_number(path: Path) -> int | None:
    """Read a file that holds one whole number; None if it is absent or says something else, such as `max`."""
    try:
        return int(path.read_text().strip())
    except (OSError, ValueError):
        return None


def _ancestors(folder: Path, top: Path) -> list[Path]:
    inside = [folder, *folder.parents]
    return [each for each in inside if each == top or top in each.parents]
