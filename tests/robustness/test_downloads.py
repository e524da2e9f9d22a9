"""Downloads without end, bombs and lies about sizes; addresses and local files in the parameters of orders and jobs.

All servers are on loopback. What is fetched by orders, by jobs and from a manifest's addresses meets the same answers.
"""

import tempfile
from collections.abc import Callable, Generator
from pathlib import Path

import httpx
import pytest
import requests
from ivcap_sdk_service.cio.readable_proxy import ReadableProxy  # pyright: ignore[reportMissingTypeStubs]

from service.collections.storage import StoreError, copy_to
from service.ivcap.items import FetchError
from service.ivcap.names import ARTIFACT_URN, is_platform_urn, product_stem
from service.ivcap.order_files import downloaded
from service.ivcap.transfer.limited_httpx import LimitedClient
from service.ivcap.transfer.limits import Allowance, RetryPolicy, Sizes, TransferError
from service.ivcap.transfer.transport import limited_requests, receiving
from tests.robustness.conftest import LOST, Tally
from tests.robustness.serving import DiskWatch, forget_peak, peak_memory_bytes
from tests.service.bundles import bundle_folder, packed
from tests.service.ivcap.test_order import ORDER, new_platform
from tests.service.pictures import RED, painted
from tests.standins.data_proxy import DataProxy
from tests.standins.hostile_server import ANSWERS, CONTENT, HostileServer

pytestmark = pytest.mark.long

DOWNLOADS = "downloads that lie"
ADDRESSES = "addresses and files in parameters"
LIMIT = Allowance(12 << 20, "raise the limit")
POLICY = RetryPolicy(connect_s=2, silence_s=3, answer_s=0.5, retries=0, pause_s=0.01)
TAKEN = {
    *("good", "good-chunks", "good-identity", "more-than-stated", "same-length-twice"),
    # urllib3 strips what a line of a header must not hold, and httpx takes many headers.
    *("split", "many-headers"),
}
MOST_MEMORY_BYTES = 64 << 20

Fetch = Callable[[str, Path], bytes]


def by_order(address: str, folder: Path) -> bytes:
    with limited_requests(POLICY):
        return downloaded(ReadableProxy(address, address), folder, LIMIT).fetch().read_bytes()


def by_job(address: str, folder: Path) -> bytes:
    with LimitedClient(POLICY, Sizes()) as client, receiving(LIMIT, folder), client.stream("GET", address) as answer:
        answer.raise_for_status()
        return b"".join(answer.iter_bytes())


def by_manifest(address: str, folder: Path) -> bytes:
    with (folder / "image").open("w+b") as file:
        copy_to(file, address, LIMIT)
        file.seek(0)
        return file.read()


@pytest.fixture(scope="module")
def liar() -> Generator[HostileServer]:
    with HostileServer() as server:
        yield server


@pytest.mark.parametrize("fetch", [by_order, by_job, by_manifest])
@pytest.mark.parametrize("path", sorted(set(ANSWERS) - {"to-another"}))
def test_answers_that_lie(
    liar: HostileServer,
    fetch: Fetch,
    path: str,
    tmp_path: Path,
    tally: Tally,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for variable, value in (("RETRIES", "0"), ("ANSWER_S", "0.5"), ("SILENCE_S", "3")):
        monkeypatch.setenv(f"PSEG_HTTP_{variable}", value)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    forget_peak()
    before = peak_memory_bytes()
    with DiskWatch(tmp_path) as disk:
        try:
            outcome = "taken" if fetch(f"{liar.url}/{path}", tmp_path) == CONTENT and path in TAKEN else LOST
        except (FetchError, StoreError, TransferError, requests.RequestException, httpx.HTTPError):
            outcome = "refused"
    if peak_memory_bytes() - before > MOST_MEMORY_BYTES or disk.peak_bytes > LIMIT.most_bytes:
        outcome = LOST
    tally(DOWNLOADS, outcome)


SCHEMES = ("file", "FILE", "urn:file", "data", "ftp", "gopher", "jar", "dict", "unix", "s3", "http+unix", "javascript")
TAILS = ("///etc/hostname", ":/etc/hostname", "://localhost/etc/hostname", ":etc", "", ":")
ENDS = (
    *("../x", "a/../b", "a/b", "a\\b", "a?b", "a#b", "%2e%2e", "a b", "a\tb", "a\r\nX-Evil: 1", "a\0", "a\x85b"),
    *("a\u2028b", "", ":", "x" * 2000, "a\x1b[31m"),
)
LABELS = (
    *("../../x", "/etc/passwd", "..", ".", "", "a\0b", "a\nb\x1b[31m", "x" * 5000, "фото" * 500, "con", "NUL.txt"),
    *("COM1", "lpt9.tar.gz", "a\ud800", "a\u202egpj.exe", "C:\\x\\y.png", "https://h/%2e%2e%2fx", "urn:a:b:.."),
    *("https://h/a%00", "https://h/", "https://[", "~", "-rf", "a\u0085b", "$(id)", "conin$", "a. "),
)


def test_parameters_of_orders(tmp_path: Path, tally: Tally) -> None:
    platform = new_platform(tmp_path)
    bundle = packed(bundle_folder(tmp_path / "files"), tmp_path / "bundle.tgz")
    (tmp_path / "a.png").write_bytes(painted(RED))
    with DataProxy() as proxy:
        storage, other = proxy.storage(), proxy.storage()
        model = storage.put("model", bundle.read_bytes())
        elsewhere = other.url.replace("127.0.0.1", "localhost")
        names = [
            *(f"{scheme}{tail}" for scheme in SCHEMES for tail in TAILS),
            *(f"urn:ivcap:artifact:{end}" for end in ENDS if "\0" not in end),
            *("a.png", "./a.png", str(tmp_path / "a.png"), f"{elsewhere}/a.png", f"urn:{elsewhere}/a.png", elsewhere),
            *(f"{storage.url}/x", f"urn:{storage.url}.example/", f"urn:{storage.url}@localhost/", "http://"),
            *("http://169.254.169.254/latest/", "http://[fe80::1]/", "http://2852039166/", "HTTP://localhost/"),
            "//host/a",
        ]
        base = ["--ivcap:storage-url", storage.url, "--ivcap:order-id", ORDER, "--ivcap:out-dir", "."]
        orders = [
            *(["--model", model, f"--image={name}", *base] for name in names),
            *(["--model", model, f"--images={name}", *base] for name in names),
            *([f"--model={name}", "--image", "urn:ivcap:artifact:a", *base] for name in names),
        ]
        statuses = platform.orders(orders)
        for status in statuses:
            tally(ADDRESSES, "refused" if status == 2 else LOST)
        assert [order for order, status in zip(orders, statuses, strict=True) if status != 2] == []
        assert (storage.events, other.events) == ([], [])


def test_names_of_jobs(tally: Tally) -> None:
    for end in ENDS:
        tally(ADDRESSES, LOST if is_platform_urn(f"{ARTIFACT_URN}{end}", ARTIFACT_URN) else "refused")


@pytest.mark.parametrize("number", range(len(LABELS)))
def test_names_of_artifacts_name_files(number: int, tmp_path: Path, tally: Tally) -> None:
    stem = product_stem(LABELS[number])
    assert len(stem.encode()) <= 255
    path = tmp_path / f"{stem}.png"
    path.write_bytes(b"")
    assert list(tmp_path.iterdir()) == [path]
    assert stem.isprintable()
    assert stem.partition(".")[0].lower() not in {"con", "nul", "com1", "lpt9", "conin$"}
    tally(ADDRESSES, "named")
