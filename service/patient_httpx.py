"""Time limits and retries for requests that go through `httpx`, by the rules of `service.transport`."""

import logging
import time
from collections.abc import Iterator
from tempfile import SpooledTemporaryFile
from typing import IO, Any

import httpx

from service.transport import Patience, may_pass

_log = logging.getLogger(__name__)
_PIECE_BYTES = 1 << 16
_BYTES_IN_MEMORY = 8 << 20


class PatientClient(httpx.Client):
    """Sends requests with time limits, and again where that may help.

    An answer is handed on when all of it is there, so that one that is cut off is asked for again; a large one waits in
    a temporary file. Safe for several threads, as its base is.

    Attributes:
        patience: the limits.
    """

    def __init__(self, patience: Patience, **options: Any) -> None:  # noqa: ANN401  (those of httpx.Client)
        limits = httpx.Timeout(patience.silence_s, connect=patience.connect_s, pool=None)
        super().__init__(timeout=limits, **options)
        self.patience = patience

    def send(self, request: httpx.Request, *, stream: bool = False, **options: Any) -> httpx.Response:  # noqa: ANN401
        """Send a request until it is answered, or the retries are used up.

        Args:
            request: its body can be sent again.
            stream: whether the caller reads the answer piece by piece.
            **options: as `httpx` takes them.

        Returns:
            The answer, whole; also a failure that does not pass.

        Raises:
            httpx.TransportError: what went wrong with the last attempt.
        """
        for pause_s in self.patience.pauses_s():
            try:
                answer = self._send_once(request, **options)
                if not may_pass(answer.status_code):
                    break
                answer.close()
                trouble = f"{answer.status_code} {answer.reason_phrase}"
            except httpx.TransportError as error:
                trouble = f"{type(error).__name__}: {error}"
            _log.warning("%s %s: %s; again in %g s", request.method, request.url, trouble, pause_s)
            time.sleep(pause_s)
        else:
            answer = self._send_once(request, **options)
        if not stream:
            answer.read()
        return answer

    def _send_once(self, request: httpx.Request, **options: Any) -> httpx.Response:  # noqa: ANN401
        until = time.monotonic() + self.patience.answer_s
        # A copy: whoever has put himself between may change what is sent.
        copy = httpx.Request(
            request.method,
            request.url,
            headers=request.headers,
            stream=request.stream,
            extensions=request.extensions,
        )
        response = super().send(copy, stream=True, **options)
        body = SpooledTemporaryFile[bytes](_BYTES_IN_MEMORY)
        try:
            for piece in response.iter_raw(_PIECE_BYTES):
                body.write(piece)
                if time.monotonic() > until:
                    raise httpx.ReadTimeout(f"no whole answer in {self.patience.answer_s:g} s", request=request)
        except BaseException:
            body.close()
            raise
        finally:
            response.close()
        body.seek(0)
        return httpx.Response(
            response.status_code,
            headers=response.headers,
            stream=_Body(body),
            request=request,
            extensions={"reason_phrase": response.reason_phrase.encode()},
        )


class _Body(httpx.SyncByteStream):
    def __init__(self, file: IO[bytes]) -> None:
        self._file = file

    def __iter__(self) -> Iterator[bytes]:
        while piece := self._file.read(_PIECE_BYTES):
            yield piece

    def close(self) -> None:
        self._file.close()
