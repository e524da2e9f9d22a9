"""What the tests of the front doors share: a real bundle, and photographs whose right mask is known."""

import logging
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.service.bundles import bundle_folder, packed


@pytest.fixture(scope="session")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("bundle")
    return packed(bundle_folder(folder / "files"), folder / "strongest-band.tgz")


@pytest.fixture(autouse=True)
def _logging_as_before() -> Iterator[None]:  # pyright: ignore[reportUnusedFunction]
    """The command line sets up logging for its process; in here it must not outlive the test."""
    root = logging.getLogger()
    handlers, level = list(root.handlers), root.level
    yield
    logging.captureWarnings(capture=False)
    root.handlers, root.level = handlers, level
