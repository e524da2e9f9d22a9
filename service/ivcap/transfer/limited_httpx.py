"""Limits of time and size, and retries, for requests through `httpx`, by the rules of `transport.py`."""

import logging
import time
from collections.abc import Iterator, Mapping
from typing import Any

import httpx

from service.ivcap.transfer.limits import RetryPolicy, Sizes
from service.ivcap.transfer.transport import PIECE_BYTES, Body, Deadline, may_pass

_log = logging.getLogger(__name__)


class LimitedClient(httpx.Client):
    """Sends requests with limits, and again where that may help.

    An answer is handed on when all of it is there, so that one that is cut off is asked for again. Every request has a
    connection of its own, for its time to be limited. Safe for several threads, as its base is.
    """

    def __init__(self, policy: RetryPolicy, sizes: Sizes, **options: Any) -> None:  # noqa: ANN401  (those of httpx.Client)
        timeout = httpx.Timeout(policy.silence_s, connect=policy.connect_s, pool=None)
        super().__init__(timeout=timeout, limits=httpx.Limits(max_keepalive_connections=0), **options)
        self.policy = policy
        self.sizes = sizes

    def send(self, request: httpx.Request, *, stream: bool = False, **options: Any) -> httpx.Response:  # noqa: ANN401
        """Send a request until it is answered, or the retries are used up.

        The answer is whole, also a failure that does not pass. With `stream` the caller reads it piece by piece. Raises
        httpx.TransportError, what went wrong with the last attempt, or TransferError where the answer must not be
        taken.
        """
        for pause_s in self.policy.pauses_s():
            try:
                answer = self._send_once(request, **options)
                if not may_pass(answer.status_code):
                    break
                answer.close()
                trouble = f"{answer.status_code} {answer.reason_phrase}"
                pause_s = self.policy.pause_after(answer.headers, pause_s)
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
        with Deadline(self.policy.answer_s) as deadline:

            def connected(event: str, details: Mapping[str, Any]) -> None:
                if event in {"connection.connect_tcp.complete", "connection.start_tls.complete"}:
                    deadline.watch(details["return_value"].get_extra_info("socket"))

            # A copy: whoever has put himself between may change what is sent.
            copy = httpx.Request(
                request.method,
                request.url,
                headers=request.headers,
                stream=request.stream,
                extensions={**request.extensions, "trace": connected},
            )
            copy.headers["Accept-Encoding"] = "identity"
            try:
                answer = self._received(request, super().send(copy, stream=True, **options))
            except httpx.TransportError as error:
                if not deadline.passed:
                    raise
                raise self._too_late(request) from error
        if deadline.passed:
            # A body without a stated length seems to end where it was cut off.
            answer.close()
            raise self._too_late(request)
        return answer

    def _too_late(self, request: httpx.Request) -> httpx.ReadTimeout:
        return httpx.ReadTimeout(f"no whole answer in {self.policy.answer_s:g} s", request=request)

    def _received(self, request: httpx.Request, response: httpx.Response) -> httpx.Response:
        body = Body(self.sizes.record, str(request.url))
        try:
            if request.method != "HEAD":
                body.require_acceptable(response.status_code, response.headers)
            for piece in response.iter_raw():
                body.add(piece)
        except BaseException:
            body.close()
            raise
        finally:
            response.close()
        body.seek(0)
        return httpx.Response(
            response.status_code,
            headers=response.headers,
            stream=_BodyStream(body),
            request=request,
            extensions={"reason_phrase": response.reason_phrase.encode()},
        )


class _BodyStream(httpx.SyncByteStream):
    def __init__(self, body: Body) -> None:
        self._body = body

    def __iter__(self) -> Iterator[bytes]:
        while not self._body.closed and (piece := self._body.read(PIECE_BYTES)):
            yield piece

    def close(self) -> None:
        self._body.close()
