"""Secrets, and the platform's names of orders, stand in no log above the level of debugging."""

import io
import logging
import os
import subprocess
import sys
from collections.abc import Generator
from pathlib import Path

import pytest

from service.redaction import keep_secrets_out_of_logs, redacted
from tests.service.bundles import bundle_folder, packed
from tests.service.pictures import RED, painted

ROOT = Path(__file__).parents[2]
ORDER = "urn:ivcap:order:0f9c2b6e-11d0"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (f"Starting order '{ORDER}' now", "Starting order 'urn:ivcap:order:[hidden]' now"),
        ("urn:ivcap:job:12-3: done", "urn:ivcap:job:[hidden] done"),
        ("Authorization: Bearer e30.e30.c2ln", "Authorization: Bearer [hidden]"),
        ("{'Authorization': 'Basic bWU6d29yZA==', 'a': 1}", "{'Authorization': 'Basic [hidden]', 'a': 1}"),
        ("token=abc, password: 'xyz'", "token=[hidden], password: '[hidden]'"),
        ("IVCAP_ACCESS_TOKEN=abc", "IVCAP_ACCESS_TOKEN=[hidden]"),
        ("api-key: abc; next", "api-key: [hidden] next"),
        ("GET http://me:word@host/a", "GET http://[hidden]@host/a"),
        ("http://h/q.jpg?X-Amz-Signature=a%2Fb&n=1: 403", "http://h/q.jpg?X-Amz-Signature=[hidden]&n=[hidden] 403"),
        ("(Caused by url: /q.jpg?sig=abc)", "(Caused by url: /q.jpg?sig=[hidden])"),
    ],
)
def test_secrets_are_hidden(text: str, expected: str) -> None:
    assert redacted(text) == expected


@pytest.mark.parametrize(
    "text",
    [
        "q7.jpg: done",
        "urn:ivcap:artifact:7: failed: what is it? a=b",
        "https://host/dive/q7.jpg: 404 Not Found; again in 2 s",
        "onednn does not run seagrass; stepping down: 3.2 % > 1.0 %",
    ],
)
def test_everything_else_stays(text: str) -> None:
    assert redacted(text) == text


@pytest.fixture
def log() -> Generator[tuple[logging.Logger, io.StringIO]]:
    """A log that hides secrets, and what was written to it."""
    usual, written = logging.getLogRecordFactory(), io.StringIO()
    logger = logging.getLogger("a library of the platform")
    handler = logging.StreamHandler(written)
    logger.addHandler(handler)
    logger.setLevel(logging.DEBUG)
    keep_secrets_out_of_logs()
    yield logger, written
    logging.setLogRecordFactory(usual)
    logger.removeHandler(handler)


def test_every_record_is_changed(log: tuple[logging.Logger, io.StringIO]) -> None:
    logger, written = log
    logger.info("order %s of %d", ORDER, 3)
    logger.debug("order %s", "urn:ivcap:order:shown")
    try:
        raise ValueError("GET http://host/?sig=abc")
    except ValueError:
        logger.exception("broke off")
    text = written.getvalue()
    assert "order urn:ivcap:order:[hidden] of 3" in text
    assert "urn:ivcap:order:shown" in text
    assert "ValueError: GET http://host/?sig=[hidden]" in text
    assert "Traceback" in text


def test_the_log_of_an_order_names_no_order(tmp_path: Path) -> None:
    bundle = packed(bundle_folder(tmp_path / "bundle"), tmp_path / "bundle.tgz")
    (tmp_path / "red.png").write_bytes(painted(RED))
    out = tmp_path / "out"
    out.mkdir()
    command = [sys.executable, str(ROOT / "service.py"), "--device", "cpu", "--model", str(bundle)]
    done = subprocess.run(
        [*command, "--image", "red.png", "--ivcap:in-dir", ".", "--ivcap:out-dir", str(out)],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT), "IVCAP_ORDER_ID": ORDER, "PSEG_CACHE_DIR": str(tmp_path / "cache")},
        capture_output=True,
        check=False,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    said = done.stdout + done.stderr
    assert "1 done, 0 failed" in said
    assert "Starting order 'urn:ivcap:order:[hidden]'" in said
    assert ORDER not in said
