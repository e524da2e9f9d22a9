"""Requests of libraries that set no limits: they end in time and at a size, and are repeated where that may help."""

# ruff: noqa: S113  (requests without a time limit are what this is about)

import io
import time
from collections.abc import Callable, Generator
from pathlib import Path

import httpx
import pytest
import requests

from engine import OptionError
from service.ivcap.transfer.limited_httpx import LimitedClient
from service.ivcap.transfer.limits import Allowance, RetryPolicy, Sizes, TransferError, retry_policy_from, sizes_from
from service.ivcap.transfer.transport import limited_requests, receiving
from tests.standins.data_proxy import DataProxy, Fault, FaultKind, Storage
from tests.standins.hostile_server import CONTENT, HostileServer

SHORT = RetryPolicy(silence_s=0.5, retries=2, pause_s=0.01)


@pytest.fixture(scope="module")
def proxy() -> Generator[DataProxy]:
    with DataProxy() as proxy:
        yield proxy


@pytest.fixture
def storage(proxy: DataProxy) -> Storage:
    return proxy.storage()


KINDS: tuple[FaultKind, ...] = ("500", "reset", "slow", "truncated")


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("stream", [True, False])
def test_what_passes_is_not_seen(storage: Storage, kind: FaultKind, stream: bool) -> None:
    content = bytes(range(256)) * 1000
    urn = storage.put("large", content)
    storage.faults.append(Fault("read", kind, 2))
    with limited_requests(SHORT), requests.get(f"{storage.url}/{urn}", stream=stream) as answer:
        assert b"".join(answer.iter_content(chunk_size=None)) == content
    assert storage.faults[0].times == 0


@pytest.mark.parametrize("kind", KINDS)
def test_what_stays_is_an_error(storage: Storage, kind: FaultKind) -> None:
    urn = storage.put("image", b"0123456789")
    storage.faults.append(Fault("read", kind, 99))
    with limited_requests(SHORT), pytest.raises(requests.RequestException) as caught:
        requests.get(f"{storage.url}/{urn}")
    assert caught.value.request is not None
    assert storage.faults[0].times == 96, "the first request and two more"


def test_a_body_from_a_file_is_sent_whole_again(storage: Storage) -> None:
    storage.faults.append(Fault("upload", "reset", 2))
    with limited_requests(SHORT):
        answer = requests.post(storage.url, data=io.BytesIO(b"mask" * 1000), headers={"X-Name": "m"})
    assert answer.json()["size"] == 4000
    assert [each.content for each in storage.uploads] == [b"mask" * 1000]


def test_other_answers_are_handed_on(storage: Storage) -> None:
    storage.queue.append(storage.put("first", b"x"))
    with limited_requests(SHORT):
        assert requests.get(f"{storage.url}/urn:ivcap:artifact:none").status_code == 404
        taken = requests.get(f"{storage.url}/urn:ivcap:queue:q", allow_redirects=False)
        looked = requests.head(f"{storage.url}/urn:ivcap:artifact:first")
    assert (taken.status_code, taken.headers["X-Ack-Token"]) == (307, "token-of-urn:ivcap:artifact:first")
    assert looked.headers["Content-Length"] == "1"
    assert len(storage.done("read")) == 1


def test_nobody_there_is_repeated_too(caplog: pytest.LogCaptureFixture) -> None:
    with limited_requests(SHORT), pytest.raises(requests.ConnectionError):
        requests.get("http://127.0.0.1:9/x")
    assert len(caplog.records) == 2


def test_the_limits_end_with_their_block(storage: Storage) -> None:
    usual = requests.Session().get_adapter("http://host/")
    with limited_requests(SHORT):
        assert type(requests.Session().get_adapter("http://host/")) is not type(usual)
    assert type(requests.Session().get_adapter("http://host/")) is type(usual)


def test_settings_come_from_the_environment() -> None:
    given = {"PSEG_HTTP_CONNECT_S": "1", "PSEG_HTTP_SILENCE_S": "2.5", "PSEG_HTTP_RETRIES": "0", "HOME": "/"}
    assert retry_policy_from(given) == RetryPolicy(connect_s=1, silence_s=2.5, retries=0)
    assert retry_policy_from({}) == RetryPolicy()


@pytest.mark.parametrize("value", ["often", "-1", "nan", "inf", ""])
@pytest.mark.parametrize("variable", ["PSEG_HTTP_RETRIES", "PSEG_HTTP_SILENCE_S"])
def test_wrong_settings_are_named(variable: str, value: str) -> None:
    with pytest.raises(OptionError, match=variable):
        retry_policy_from({variable: value})


@pytest.mark.parametrize("value", ["much", "-1", "1e9", ""])
def test_wrong_sizes_are_named(value: str) -> None:
    with pytest.raises(OptionError, match="PSEG_HTTP_IMAGE_BYTES"):
        sizes_from({"PSEG_HTTP_IMAGE_BYTES": value})


def test_sizes_come_from_the_environment() -> None:
    given = {"PSEG_HTTP_IMAGE_BYTES": "5", "PSEG_HTTP_BUNDLE_BYTES": "6", "PSEG_HTTP_RECORD_BYTES": "7"}
    sizes = sizes_from(given)
    assert [each.most_bytes for each in (sizes.image, sizes.bundle, sizes.record)] == [5, 6, 7]
    assert sizes_from({}) == Sizes()


# Answers that lie

LIMITS = Sizes(record=Allowance(1000, "raise PSEG_HTTP_RECORD_BYTES"))
ONCE = RetryPolicy(connect_s=2, silence_s=5, answer_s=0.5, retries=1, pause_s=0.01)
Get = Callable[[str], bytes]


@pytest.fixture(scope="module")
def liar() -> Generator[HostileServer]:
    with HostileServer() as server:
        yield server


@pytest.fixture(scope="module", params=["requests", "httpx"])
def get(request: pytest.FixtureRequest) -> Generator[Get]:
    """Ask by either library."""
    with limited_requests(ONCE, LIMITS), LimitedClient(ONCE, LIMITS) as client:

        def by_httpx(address: str) -> bytes:
            return client.get(address).content

        def by_requests(address: str) -> bytes:
            return requests.get(address).content

        yield by_httpx if request.param == "httpx" else by_requests


@pytest.mark.parametrize("path", ["good", "good-chunks", "good-identity", "more-than-stated", "same-length-twice"])
def test_an_answer_is_taken_as_it_was_stated(liar: HostileServer, get: Get, path: str) -> None:
    liar.headers.clear()
    assert get(f"{liar.url}/{path}") == CONTENT
    assert [each["accept-encoding"] for each in liar.headers] == ["identity"]


@pytest.mark.parametrize(
    ("path", "reason"),
    [
        ("endless", "more than 1000 bytes, .* raise PSEG_HTTP_RECORD_BYTES"),
        ("endless-chunks", "more than 1000 bytes"),
        ("one-huge-chunk", "more than 1000 bytes"),
        ("endless-error", "more than 1000 bytes"),
        ("states-much", "more than 1000 bytes"),
        ("gzip", "Content-Encoding: 'gzip'"),
        ("gzip-four-times", "Content-Encoding: 'gzip, gzip, gzip, gzip'"),
        ("x-gzip", "Content-Encoding: 'x-gzip'"),
    ],
)
def test_a_body_past_its_limit_is_refused_and_not_asked_for_again(
    liar: HostileServer, get: Get, path: str, reason: str
) -> None:
    liar.asked.clear()
    liar.sent_bytes = 0
    with pytest.raises(TransferError, match=reason):
        get(f"{liar.url}/{path}")
    assert liar.asked == [f"/{path}"]
    # What lies in the buffers of the system is sent, too.
    assert liar.sent_bytes < 32 << 20


@pytest.mark.parametrize("path", ["negative-length", "no-number", "two-lengths", "states-absurdly-much"])
def test_a_size_that_is_none_is_an_error(liar: HostileServer, get: Get, path: str) -> None:
    with pytest.raises((TransferError, requests.RequestException, httpx.TransportError)):
        get(f"{liar.url}/{path}")


def test_no_part_is_taken_for_the_whole_answer(liar: HostileServer, get: Get) -> None:
    with pytest.raises(TransferError, match="206"):
        get(f"{liar.url}/partial")
    # httpx waits for what follows the hints, requests takes them for the answer.
    with limited_requests(ONCE, LIMITS), pytest.raises(TransferError, match="103"):
        requests.post(f"{liar.url}/early-hints", data=b"mask")


@pytest.mark.parametrize("path", ["slow", "slow-without-end", "slow-chunk", "slow-headers", "endless-trailers"])
def test_an_answer_that_comes_drop_by_drop_ends_in_time(liar: HostileServer, get: Get, path: str) -> None:
    began = time.monotonic()
    with pytest.raises((requests.ReadTimeout, httpx.ReadTimeout), match=r"no whole answer in 0\.5 s"):
        get(f"{liar.url}/{path}")
    # Twice half a second; whoever drips goes on for twenty.
    assert time.monotonic() - began < 15


@pytest.mark.parametrize("path", ["to-metadata", "to-metadata-number", "to-metadata-v6", "to-file", "to-itself"])
def test_no_answer_leads_to_other_places_than_the_web(liar: HostileServer, get: Get, path: str) -> None:
    try:
        # httpx follows nothing.
        assert get(f"{liar.url}/{path}") == b""
    except (TransferError, requests.exceptions.InvalidSchema, requests.TooManyRedirects):
        pass
    assert len(liar.asked) < 100


@pytest.mark.parametrize("path", ["moved", "found", "see-other"])
@pytest.mark.parametrize("method", ["POST", "PATCH", "DELETE"])
def test_what_is_to_be_stored_is_not_lost_on_another_way(liar: HostileServer, method: str, path: str) -> None:
    liar.asked.clear()
    with limited_requests(ONCE, LIMITS), pytest.raises(TransferError, match=r"redirected to /good with status 30[123]"):
        requests.request(method, f"{liar.url}/{path}", data=b"mask")
    assert liar.asked == [f"/{path}"]


@pytest.mark.parametrize("path", ["temporarily", "permanently"])
def test_a_redirection_that_keeps_the_body_is_followed(liar: HostileServer, path: str) -> None:
    liar.received.clear()
    with limited_requests(ONCE, LIMITS):
        assert requests.post(f"{liar.url}/{path}", data=b"mask").content == CONTENT
    assert liar.received == [b"mask", b"mask"]


# Dates have whole seconds; no pause is longer than an answer may take.
@pytest.mark.parametrize(
    ("path", "least_s"), [("busy-seconds", 1), ("busy-date", 1), ("busy-nonsense", 0), ("busy-absurdly-long", 0.5)]
)
def test_who_says_when_to_come_back_is_asked_then(liar: HostileServer, path: str, least_s: float) -> None:
    limits = RetryPolicy(answer_s=0.5 if path == "busy-absurdly-long" else 60, retries=1, pause_s=0.01)
    with limited_requests(limits, LIMITS), LimitedClient(limits, LIMITS) as client:
        for get in (requests.get, client.get):
            liar.asked.clear()
            began = time.monotonic()
            assert get(f"{liar.url}/{path}").content == CONTENT
            assert time.monotonic() - began >= least_s


def test_a_secret_does_not_follow_to_another_host(liar: HostileServer) -> None:
    with HostileServer() as other, limited_requests(ONCE, LIMITS):
        # Another port is another host.
        liar.elsewhere = f"{other.url}/good"
        answer = requests.get(f"{liar.url}/to-another", headers={"Authorization": "Bearer a"})
        assert answer.content == CONTENT
        assert "authorization" not in other.headers[0]


def test_only_named_hosts_are_asked(liar: HostileServer) -> None:
    own = liar.url.removeprefix("http://")
    with limited_requests(ONCE, LIMITS, lambda: frozenset({own})):
        assert requests.get(f"{liar.url}/good").content == CONTENT
        for address in (f"http://localhost:{liar.server_port}/good", "http://127.0.0.1.example/", "http://127.0.0.1/"):
            with pytest.raises(TransferError, match="PSEG_HTTP_HOSTS"):
                requests.get(address)


def test_a_large_body_waits_in_the_folder_that_was_named(
    storage: Storage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    urn = storage.put("large", bytes(9 << 20))
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "no such folder"))
    taken = Allowance(10 << 20, "")
    with limited_requests(SHORT), receiving(taken, tmp_path), requests.get(f"{storage.url}/{urn}") as answer:
        assert len(answer.content) == 9 << 20
    with limited_requests(SHORT), receiving(Allowance(9 << 20, "ask"), tmp_path):
        assert len(requests.get(f"{storage.url}/{urn}").content) == 9 << 20
        storage.put("large", bytes((9 << 20) + 1))
        with pytest.raises(TransferError, match=r"9437184 bytes, the most that is taken: .* ask"):
            requests.get(f"{storage.url}/{urn}")
    assert list(tmp_path.iterdir()) == []
