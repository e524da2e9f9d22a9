"""Time limits and retries for libraries whose requests have neither.

`requests.get` and its kin open a session for one call, and a session mounts what it finds as `HTTPAdapter`.
`patient_requests` puts an adapter there that limits the time of every request, reads the whole answer before anybody
sees it, and asks again after a pause when what went wrong may pass: no connection, a connection that was cut or reset,
no answer in time, an answer that was cut off, status 408, 425, 429 or 500 and above. Another status is handed on as it
is.

A request that stores something is sent again, too, although it may have been carried out the first time: rather twice
than not at all.
"""

# requests keeps the types of its options to itself.
# ruff: noqa: ANN401

import io
import logging
import time
from collections.abc import Generator, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import requests
import requests.sessions
import urllib3
from requests.adapters import HTTPAdapter
from requests.utils import rewind_body

from engine import OptionError

_log = logging.getLogger(__name__)
_PIECE_BYTES = 1 << 16
_PASSING_STATUSES = frozenset({408, 425, 429})


def may_pass(status: int) -> bool:
    """Tell whether what a status says may be over in a moment.

    Args:
        status: of an answer.

    Returns:
        True for 408, 425, 429 and 500 and above.

    >>> [status for status in (200, 404, 409, 429, 503) if may_pass(status)]
    [429, 503]
    """
    return status >= 500 or status in _PASSING_STATUSES


@dataclass(frozen=True, slots=True)
class Patience:
    """How long a request may take and how often it is repeated.

    Attributes:
        connect_s: until the connection stands.
        silence_s: without a byte of the answer.
        answer_s: until the whole answer is there.
        retries: requests after the first one.
        pause_s: before the first retry; doubles with each, up to `longest_pause_s`.
        longest_pause_s: the longest pause.
    """

    connect_s: float = 10
    silence_s: float = 60
    answer_s: float = 600
    retries: int = 5
    pause_s: float = 0.5
    longest_pause_s: float = 30

    def pauses_s(self) -> Iterator[float]:
        """List the pauses.

        Yields:
            Seconds before each retry.

        >>> list(Patience(retries=4, pause_s=1, longest_pause_s=3).pauses_s())
        [1, 2, 3, 3]
        """
        for retry in range(self.retries):
            yield min(self.pause_s * 2**retry, self.longest_pause_s)


_SETTINGS = {
    "PSEG_HTTP_CONNECT_S": "connect_s",
    "PSEG_HTTP_SILENCE_S": "silence_s",
    "PSEG_HTTP_ANSWER_S": "answer_s",
    "PSEG_HTTP_RETRIES": "retries",
    "PSEG_HTTP_PAUSE_S": "pause_s",
}


def patience_from(environment: Mapping[str, str]) -> Patience:
    """Read the settings of whoever runs the service.

    Args:
        environment: may hold PSEG_HTTP_CONNECT_S, PSEG_HTTP_SILENCE_S, PSEG_HTTP_ANSWER_S, PSEG_HTTP_RETRIES,
            PSEG_HTTP_PAUSE_S.

    Returns:
        The limits.

    Raises:
        OptionError: a setting is no number, or negative.

    >>> patience_from({"PSEG_HTTP_RETRIES": "2"}).retries
    2
    """
    settings: dict[str, Any] = {}
    for variable, name in _SETTINGS.items():
        given = environment.get(variable)
        if given is None:
            continue
        try:
            settings[name] = int(given) if name == "retries" else float(given)
        except ValueError as error:
            raise OptionError(f"{variable} is {given!r}: give a number") from error
        if not settings[name] >= 0:
            raise OptionError(f"{variable} is {given}: it must not be negative")
    return replace(Patience(), **settings)


class PatientAdapter(HTTPAdapter):
    """Sends requests with time limits, and again where that may help."""

    def __init__(self, patience: Patience) -> None:
        super().__init__()
        self._patience = patience

    def send(
        self,
        request: requests.PreparedRequest,
        stream: bool = False,
        timeout: Any = None,
        verify: Any = True,
        cert: Any = None,
        proxies: Any = None,
    ) -> requests.Response:
        """Send a request until it is answered, or the retries are used up.

        Args:
            request: sent as it is.
            stream: without effect: the answer is always read.
            timeout: without effect: the limits of the adapter hold.
            verify: as `requests` takes it.
            cert: as `requests` takes it.
            proxies: as `requests` takes it.

        Returns:
            The answer, with its whole body.

        Raises:
            requests.RequestException: what went wrong with the last attempt.
        """
        send_once = partial(self._send_once, request, verify=verify, cert=cert, proxies=proxies)
        for pause_s in self._patience.pauses_s():
            try:
                return send_once()
            except (requests.ConnectionError, requests.Timeout, requests.exceptions.ChunkedEncodingError) as error:
                _log.warning("%s %s: %s; again in %g s", request.method, request.url, error, pause_s)
            except requests.HTTPError as error:
                _log.warning("%s; again in %g s", error, pause_s)
            time.sleep(pause_s)
            if hasattr(request.body, "read"):
                rewind_body(request)
        return send_once()

    def _send_once(self, request: requests.PreparedRequest, **options: Any) -> requests.Response:
        until = time.monotonic() + self._patience.answer_s
        timeout = (self._patience.connect_s, self._patience.silence_s)
        response = super().send(request, stream=True, timeout=timeout, **options)
        raw: urllib3.HTTPResponse = response.raw
        body = _Body()
        try:
            for piece in raw.stream(_PIECE_BYTES, decode_content=False):
                body.write(piece)
                if time.monotonic() > until:
                    raise requests.ReadTimeout(f"no whole answer in {self._patience.answer_s:g} s", request=request)
        except urllib3.exceptions.ReadTimeoutError as error:
            raise requests.ReadTimeout(error, request=request) from error
        except urllib3.exceptions.ProtocolError as error:
            raise requests.exceptions.ChunkedEncodingError(error, request=request) from error
        finally:
            response.close()
        body.seek(0)
        answer = self.build_response(
            request,
            urllib3.HTTPResponse(
                body,
                headers=raw.headers,
                status=raw.status,
                reason=raw.reason,
                preload_content=False,
                request_method=request.method,
            ),
        )
        if may_pass(answer.status_code):
            raise requests.HTTPError(
                f"{request.method} {request.url}: {answer.status_code} {answer.reason}",
                request=request,
                response=answer,
            )
        return answer


class _Body(io.BytesIO):
    """A body that is closed when it is read to its end, as those of real connections are."""

    def read(self, size: int | None = -1, /) -> bytes:
        piece = super().read(size)
        if self.tell() == len(self.getbuffer()):
            self.close()
        return piece


@contextmanager
def patient_requests(patience: Patience) -> Generator[None]:
    """Impose limits on all requests that `requests` sends, by whichever library.

    Args:
        patience: the limits.

    Yields:
        Nothing; the limits hold until the block ends.
    """
    usual = requests.sessions.HTTPAdapter  # pyright: ignore[reportPrivateImportUsage]
    # requests makes its sessions deep inside its functions: no argument carries an adapter there.
    requests.sessions.HTTPAdapter = partial(PatientAdapter, patience)  # pyright: ignore
    try:
        yield
    finally:
        requests.sessions.HTTPAdapter = usual  # pyright: ignore[reportPrivateImportUsage]
