"""Secrets, and the platform's names of orders, stand in no log above the level of debugging."""

import io
import logging
import os
import subprocess
import sys
import time
from collections.abc import Generator
from pathlib import Path

import pytest

from service.ivcap.redaction import RedactedStream, keep_secrets_out_of_logs, redacted, without_secrets
from tests.service.bundles import bundle_folder, packed
from tests.service.pictures import RED, painted

ROOT = Path(__file__).parents[3]
ORDER = "urn:ivcap:order:0f9c2b6e-11d0"
WEB_TOKEN = "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiJyZWVmIn0.c2lnbmF0dXJlLW9mLW5vdGhpbmc"  # noqa: S105  (opens nothing)
KEY = "-----BEGIN RSA PRIVATE KEY-----\nMIIBOgIBAAJB\nAKj34Gkx\n-----END RSA PRIVATE KEY-----"


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


# What must be gone, and a text that holds it.
SECRETS = [
    (WEB_TOKEN, f"refused: {WEB_TOKEN}"),
    (WEB_TOKEN, f"/1/artifacts?x={WEB_TOKEN}"),
    (WEB_TOKEN, f"a.b.{WEB_TOKEN}.c"),
    (WEB_TOKEN, f'{{"jwt":"{WEB_TOKEN}"}}'),
    ("c2VjcmV0MTIzNDU2Nzg5", "Bearer c2VjcmV0MTIzNDU2Nzg5 was refused"),
    ("c2VjcmV0", "AUTHORIZATION=Bearer c2VjcmV0"),
    ("bWU6d29yZA==", "basic bWU6d29yZA=="),
    ("deadbeef", 'Authorization: Digest username="me", response="deadbeef"'),
    ("deadbeef", "{'Proxy-Authorization': 'Digest username=\"me\", response=\"deadbeef\"'}"),
    ("topsecret", '{"access_token": "topsecret"}'),
    ("topsecret", '{"body": "{\\"refresh_token\\": \\"topsecret\\"}"}'),
    ("topsecret", "accessToken=topsecret&a=1"),
    ("topsecret", "client_secret: topsecret"),
    ("topsecret", "X-Api-Key: topsecret"),
    ("topsecret", "apikey=topsecret"),
    ("topsecret", "password='two words; topsecret'"),
    ("topsecret", "passwd = topsecret"),
    ("topsecret", "pwd=topsecret"),
    ("topsecret", "{'signature': 'topsecret'}"),
    ("topsecret", "AWS_SECRET_ACCESS_KEY=topsecret"),
    ("topsecret", "aws_access_key_id = topsecret"),
    ("topsecret", "X-Amz-Security-Token: topsecret"),
    ("topsecret", "x-amz-server-side-encryption-customer-key=topsecret"),
    ("topsecret", "https://host/q.jpg?sv=2024-08-04&sr=b&sig=topsecret"),
    ("topsecret", "sv=2024-08-04&ss=b&sig=topsecret%3D"),
    ("topsecret", "AccountName=reef;AccountKey=topsecret==;EndpointSuffix=core"),
    ("topsecret", "https://host/q.jpg?key=topsecret"),
    ("topsecret", "Cookie: a=b; session=topsecret"),
    ("topsecret", "{'set-cookie': 'session=topsecret; HttpOnly'}"),
    ("topsecret", "https://me:topsecret@host/q.jpg"),
    ("AKj34Gkx", KEY),
    ("AKj34Gkx", repr(KEY)),
    ("AKj34Gkx", KEY.partition("\n-----END")[0]),
]


@pytest.mark.parametrize(("secret", "text"), SECRETS)
def test_a_secret_is_gone_from_logs_and_results(secret: str, text: str) -> None:
    for hide in (redacted, without_secrets):
        assert secret not in hide(text)
        assert "[hidden]" in hide(text)
        assert hide(hide(text)) == hide(text)
        assert secret not in hide(f"first line\n{text}\nlast line")


def test_results_still_say_what_they_are_about() -> None:
    text = f"{ORDER}: https://host/get?file=7&token=abc"
    assert without_secrets(text) == f"{ORDER}: https://host/get?file=7&token=[hidden]"


# Names of images, classes and models as people give them, and sentences of ours.
HARMLESS = [
    "token.jpg: done",
    "password.png: failed: is not a JPEG, PNG, TIFF, WebP or BMP file",
    "signature_plant_07.jpg: done",
    "secret beach 3.jpeg: done",
    "eyJellyfish.v2.pseudo.png: done",
    "eyJhbGciOiJIUzI1NiJ9.pseudo.png: done",
    "sigmoid: 0.31, sigma=2.5",
    "Basic substrate: 0.2",
    "basic photograph-2024.jpg: done",
    "Bearer of news 2024-11-29.jpg: done",
    "bearer_ring-buoy-2024-11-29-0001.jpg: done",
    "max_tokens: 3, tokenizer: none",
    "design=3, desig=4",
    "monkey=1, keys=2, key: value",
    "cookiecutter shark: 0.1",
    "Siganus (rabbitfish): 0.02; Zostera muelleri: 0.4",
    "urn:ivcap:artifact:0197f3c2-77aa-7c31-9d5e-authorization1",
    "urn:ivcap:collection:token-reef",
    "https://host/dive.2024.11/sig/token/q7.jpg: 404 Not Found",
    "a.b.c.d.e.f_eyJ.g",
]


@pytest.mark.parametrize("text", HARMLESS)
def test_what_is_no_secret_stays(text: str) -> None:
    assert redacted(text) == without_secrets(text) == text


HOSTILE_UNITS = (
    *("a", "?", "&a=", "a://", "@", "token", "token=\\'", "token='", "Bearer ", "basic a", "eyJ", "eyJa.", "x-amz-a"),
    *("-----BEGIN ", "-----BEGIN PRIVATE KEY-----", "urn:ivcap:order:", "cookie: ", "authorization=", "\\", '"', "\n"),
)


@pytest.mark.parametrize("unit", HOSTILE_UNITS)
def test_a_hostile_line_takes_no_longer_than_it_is_long(unit: str) -> None:
    text = unit * ((1 << 18) // len(unit))
    began = time.process_time()
    redacted(text)
    # A quarter of a second on a slow machine; what grows with the square of the length takes hours.
    assert time.process_time() - began < 5


def test_what_libraries_print_is_changed_line_by_line() -> None:
    written = io.StringIO()
    stream = RedactedStream(written)
    print(">>>>", "pass", end="", file=stream)
    print("word=topsecret", "and more", file=stream)
    print("token=to", end="", file=stream)
    assert written.getvalue() == ">>>> password=[hidden] and more\n"
    print("psecret", end="", file=stream, flush=True)
    assert written.getvalue().endswith("\ntoken=[hidden]")


LAST_WORDS = """
import os, sys
from service.logs import set_up_logs
from service.ivcap.redaction import keep_secrets_out_of_logs
keep_secrets_out_of_logs()
set_up_logs({"PSEG_LOG_FORMAT": sys.argv[1]}, sys.stdout)
print("printed: password=topsecret")
print("to stderr: password=topsecret", file=sys.stderr)
raise RuntimeError("GET http://host/?sig=topsecret")
"""


@pytest.mark.parametrize("form", ["text", "json"])
def test_the_last_words_of_a_process_hold_no_secret(form: str) -> None:
    ended = subprocess.run(
        [sys.executable, "-c", LAST_WORDS, form], capture_output=True, text=True, check=False, timeout=60
    )
    assert ended.returncode == 1
    said = ended.stdout + ended.stderr
    assert "topsecret" not in said
    assert "RuntimeError: GET http://host/?sig=[hidden]" in said
    assert "printed: password=[hidden]" in said
    assert "to stderr: password=[hidden]" in said


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
