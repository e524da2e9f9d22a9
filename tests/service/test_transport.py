"""Requests of a library that sets no limits: they end in time, and are repeated where that may help."""

# ruff: noqa: S113  (requests without a time limit are what this is about)

import io
from collections.abc import Generator

import pytest
import requests

from engine import OptionError
from service.transfer_limits import Patience, patience_from
from service.transport import patient_requests
from tests.standins.data_proxy import DataProxy, Fault, FaultKind, Storage

IMPATIENT = Patience(silence_s=0.5, retries=2, pause_s=0.01)


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
    with patient_requests(IMPATIENT), requests.get(f"{storage.url}/{urn}", stream=stream) as answer:
        assert b"".join(answer.iter_content(chunk_size=None)) == content
    assert storage.faults[0].times == 0


@pytest.mark.parametrize("kind", KINDS)
def test_what_stays_is_an_error(storage: Storage, kind: FaultKind) -> None:
    urn = storage.put("image", b"0123456789")
    storage.faults.append(Fault("read", kind, 99))
    with patient_requests(IMPATIENT), pytest.raises(requests.RequestException) as caught:
        requests.get(f"{storage.url}/{urn}")
    assert caught.value.request is not None
    assert storage.faults[0].times == 96, "the first request and two more"


def test_a_body_from_a_file_is_sent_whole_again(storage: Storage) -> None:
    storage.faults.append(Fault("upload", "reset", 2))
    with patient_requests(IMPATIENT):
        answer = requests.post(storage.url, data=io.BytesIO(b"mask" * 1000), headers={"X-Name": "m"})
    assert answer.json()["size"] == 4000
    assert [each.content for each in storage.uploads] == [b"mask" * 1000]


def test_other_answers_are_handed_on(storage: Storage) -> None:
    storage.queue.append(storage.put("first", b"x"))
    with patient_requests(IMPATIENT):
        assert requests.get(f"{storage.url}/urn:ivcap:artifact:none").status_code == 404
        taken = requests.get(f"{storage.url}/urn:ivcap:queue:q", allow_redirects=False)
        looked = requests.head(f"{storage.url}/urn:ivcap:artifact:first")
    assert (taken.status_code, taken.headers["X-Ack-Token"]) == (307, "token-of-urn:ivcap:artifact:first")
    assert looked.headers["Content-Length"] == "1"
    assert len(storage.done("read")) == 1


def test_nobody_there_is_repeated_too(caplog: pytest.LogCaptureFixture) -> None:
    with patient_requests(IMPATIENT), pytest.raises(requests.ConnectionError):
        requests.get("http://127.0.0.1:9/x")
    assert len(caplog.records) == 2


def test_the_limits_end_with_their_block(storage: Storage) -> None:
    usual = requests.Session().get_adapter("http://host/")
    with patient_requests(IMPATIENT):
        assert type(requests.Session().get_adapter("http://host/")) is not type(usual)
    assert type(requests.Session().get_adapter("http://host/")) is type(usual)


def test_settings_come_from_the_environment() -> None:
    given = {"PSEG_HTTP_CONNECT_S": "1", "PSEG_HTTP_SILENCE_S": "2.5", "PSEG_HTTP_RETRIES": "0", "HOME": "/"}
    assert patience_from(given) == Patience(connect_s=1, silence_s=2.5, retries=0)
    assert patience_from({}) == Patience()


@pytest.mark.parametrize("value", ["often", "-1", "nan", ""])
@pytest.mark.parametrize("variable", ["PSEG_HTTP_RETRIES", "PSEG_HTTP_SILENCE_S"])
def test_wrong_settings_are_named(variable: str, value: str) -> None:
    with pytest.raises(OptionError, match=variable):
        patience_from({variable: value})
