"""Commands that are killed at a random moment, and what they leave: looked at by somebody who knows what is right."""

import csv
import io
import json
import os
import signal
import subprocess
import sys
import tarfile
import time
import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import numpy as np
import onnx
from PIL import Image

from engine.runtimes.profile import read_profile

REPOSITORY = Path(__file__).parents[2]
PSEG = Path(sys.executable).with_name("pseg")
_ORPHANS_S = 120.0
_RUN = "PSEG_TEST_RUN"


@dataclass(frozen=True, slots=True)
class Place:
    """A folder in which commands run, with temporary files and caches of its own.

    Attributes:
        root: the folder.
        name: marks the processes of this place.
        durations_s: of commands that came to their end, by command.
    """

    root: Path
    name: str = field(default_factory=lambda: uuid.uuid4().hex)
    durations_s: dict[str, list[float]] = field(default_factory=dict[str, list[float]])

    def __post_init__(self) -> None:
        for folder in (self.temporary, self.out):
            folder.mkdir()

    @property
    def temporary(self) -> Path:
        return self.root / "temporary"

    @property
    def cache(self) -> Path:
        return self.root / "cache"

    @property
    def out(self) -> Path:
        return self.root / "out"

    def start(self, command: Sequence[object]) -> "subprocess.Popen[bytes]":
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("IVCAP_", "PSEG_"))}
        environment = {
            **kept,
            "PYTHONPATH": str(REPOSITORY),
            "TMPDIR": str(self.temporary),
            "PSEG_CACHE_DIR": str(self.cache),
            _RUN: self.name,
        }
        with (self.root / "messages").open("wb") as messages:
            return subprocess.Popen(
                [*map(str, command)], cwd=self.root, env=environment, stdout=messages, stderr=messages
            )

    def finish(self, command: Sequence[object]) -> float:
        """Run a command to its end, which must be a good one; seconds that it took."""
        started = time.monotonic()
        status = self.start(command).wait()
        assert status == 0, (self.root / "messages").read_text(errors="replace")
        seconds = time.monotonic() - started
        self.durations_s.setdefault(str(command[1]), []).append(seconds)
        return seconds

    def kill(self, command: Sequence[object], moment: Callable[[], bool]) -> bool:
        """Start a command and kill it, and it alone, when its moment comes; whether it was still running then.

        Its children must end by themselves.
        """
        process, started = self.start(command), time.monotonic()
        while process.poll() is None and not moment():
            time.sleep(0.001)
        caught = process.poll() is None
        if not caught:
            self.durations_s.setdefault(str(command[1]), []).append(time.monotonic() - started)
        process.send_signal(signal.SIGKILL)
        process.wait()
        ends = time.monotonic() + _ORPHANS_S
        while self.orphans():
            assert time.monotonic() < ends, f"children outlive their parent: {self.orphans()}"
            time.sleep(0.02)
        return caught

    def orphans(self) -> list[str]:
        """Command lines of the processes of this place."""
        mark = f"{_RUN}={self.name}".encode()
        found: list[str] = []
        for folder in Path("/proc").glob("[0-9]*"):
            try:
                if mark in (folder / "environ").read_bytes().split(b"\0"):
                    found.append((folder / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace"))
            except OSError:
                continue
        return [each for each in found if each]

    def empty_files(self) -> list[str]:
        """Results without a byte; unfinished ones have a name that begins with a dot, and a ledger begins empty."""
        files = [path for path in self.out.iterdir() if path.is_file() and not path.name.startswith(".")]
        return [path.name for path in files if path.stat().st_size == 0 and path.suffix != ".jsonl"]

    def require_nothing_half_written(self) -> None:
        """Whatever stands under a final name is whole, in the folder of results and in the cache; or it is empty."""
        for path in self.out.rglob("*"):
            if path.is_file() and not path.name.startswith(".") and path.stat().st_size > 0:
                require_whole(path)
        for model in self.cache.glob("onnx/*/model.onnx"):
            cast("Any", onnx.checker).check_model(str(model))
            json.loads((model.parent / "parity.json").read_bytes())

    def require_tidy(self) -> None:
        """Nothing is left of those that were killed."""
        assert list(self.out.rglob(".*")) == []
        assert [name for name in self.empty_files() if not name.endswith(".json")] == []
        assert list(self.temporary.iterdir()) == []
        assert list(self.cache.glob("onnx/*/making-*")) == []


def after(seconds: float) -> Callable[[], bool]:
    """The moment so many seconds from now on."""
    ends = time.monotonic() + seconds
    return lambda: time.monotonic() >= ends


def when_written(folder: Path, files: int, seconds: float) -> Callable[[], bool]:
    """The moment some seconds after so many more files came to lie in a folder."""
    before = sum(1 for _ in folder.iterdir())
    later: list[Callable[[], bool]] = []

    def moment() -> bool:
        if not later and sum(1 for _ in folder.iterdir()) >= before + files:
            later.append(after(seconds))
        return bool(later) and later[0]()

    return moment


def after_share(place: Place, command: str, share: float) -> Callable[[], bool]:
    """The moment at that share of the shortest run of a command that came to its end, however busy the machine was."""
    return after(share * min(place.durations_s[command]))


def shares(count: int) -> list[float]:
    """Shares of a run after which it is killed, seeded: from its first fifth to its end."""
    return np.random.default_rng(count).uniform(0.2, 1, count).tolist()


def moments_of_writing(count: int, files: int) -> list[tuple[int, float]]:
    """Moments for `when_written`, seeded: after fewer files than a run writes, and up to 20 ms later."""
    chance = np.random.default_rng(count)
    return list(zip(chance.integers(files, size=count).tolist(), chance.uniform(0, 0.02, count).tolist(), strict=True))


def require_whole(path: Path) -> None:
    """A picture decodes, a record parses, a table has whole rows, a bundle unpacks."""
    content = path.read_bytes()
    match path.suffix:
        case ".png" | ".jpg":
            with Image.open(io.BytesIO(content)) as image:
                assert np.asarray(image).size > 0
        case ".json":
            if path.name == "profile.json":
                read_profile(path)
            json.loads(content)
        case ".jsonl":
            # The last line of a ledger may be torn: whoever reads it drops what does not end.
            [json.loads(line) for line in content[: content.rfind(b"\n") + 1].splitlines()]
        case ".csv":
            rows = list(csv.DictReader(io.StringIO(content.decode(), newline="")))
            assert all(None not in row and None not in row.values() for row in rows)
        case ".html":
            assert content.rstrip().endswith(b"</html>")
        case ".tgz":
            with tarfile.open(fileobj=io.BytesIO(content)) as archive:
                for member in archive:
                    opened = archive.extractfile(member)
                    assert opened is not None
                    opened.read()
        case _:
            raise AssertionError(f"{path} is not known")
