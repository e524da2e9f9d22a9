"""A web server on loopback whose answers are lies: without end, packed, of another size than they state, and so on.

Each name in `ANSWERS` is a path. What a client must do with it stands there, too: `taken` are those that it may take.
"""

import gzip
import threading
import time
from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any, Self

PIECE = b"\0" * (1 << 16)
CONTENT = b"a picture of a reef"
_MOST_PIECES = 16_000  # a gigabyte: who takes it all has no cap


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: "HostileServer"  # type: ignore[assignment]

    def log_message(self, format: str, *args: object) -> None:
        """Silence."""

    def do_GET(self) -> None:
        self.server.asked.append(self.path)
        self.server.headers.append({name.lower(): value for name, value in self.headers.items()})
        self.close_connection = True
        ANSWERS[self.path.strip("/").partition("?")[0]](self)

    def do_POST(self) -> None:
        self.server.received.append(self.rfile.read(int(self.headers["Content-Length"])))
        self.do_GET()

    do_PATCH = do_DELETE = do_POST

    def send(self, *headers: str, body: bytes = b"", status: str = "200 OK") -> None:
        """An answer, as it is stated here."""
        lines = [f"HTTP/1.1 {status}", *headers, "", ""]
        self.wfile.write("\r\n".join(lines).encode("latin-1") + body)


Answer = Callable[[_Handler], None]


def _forever(handler: _Handler, before: bytes = b"", after: bytes = b"") -> None:
    for _ in range(_MOST_PIECES):
        handler.wfile.write(before + PIECE + after)
        handler.server.sent_bytes += len(PIECE)


def _endless(handler: _Handler) -> None:
    handler.send("Connection: close")
    _forever(handler)


def _endless_chunks(handler: _Handler) -> None:
    handler.send("Transfer-Encoding: chunked")
    _forever(handler, b"10000\r\n", b"\r\n")


def _one_huge_chunk(handler: _Handler) -> None:
    handler.send("Transfer-Encoding: chunked", body=b"ffffffffff\r\n")
    _forever(handler)


def _endless_error(handler: _Handler) -> None:
    handler.send("Connection: close", status="404 Not Found")
    _forever(handler)


def _dripping_chunk_size(handler: _Handler) -> None:
    handler.send("Transfer-Encoding: chunked")
    _drop_by_drop(handler, b"0")


def _drip(*headers: str, body: bytes = b"") -> Answer:
    def answer(handler: _Handler) -> None:
        handler.send(*headers, body=body)
        _drop_by_drop(handler)

    return answer


def _drop_by_drop(handler: _Handler, drop: bytes = b"x") -> None:
    until = time.monotonic() + 20
    while time.monotonic() < until:
        handler.wfile.write(drop)
        handler.wfile.flush()
        time.sleep(0.05)


def _dripping_headers(handler: _Handler) -> None:
    handler.wfile.write(b"HTTP/1.1 200 OK\r\nX-Header: ")
    _drop_by_drop(handler)


def _no_http(handler: _Handler) -> None:
    handler.wfile.write(b"\x16\x03\x01" + PIECE)


def _endless_trailers(handler: _Handler) -> None:
    handler.send("Transfer-Encoding: chunked", body=b"3\r\nabc\r\n0\r\n")
    _drop_by_drop(handler, b"X-Trailer: a\r\n")


def _packed(encoding: str, times: int = 1) -> Answer:
    body = PIECE * 640  # 40 MiB become some kilobytes
    for _ in range(times):
        body = gzip.compress(body)

    def answer(handler: _Handler) -> None:
        handler.send(f"Content-Encoding: {encoding}", f"Content-Length: {len(body)}", body=body)

    return answer


def _stating(*headers: str, body: bytes = CONTENT, status: str = "200 OK") -> Answer:
    return lambda handler: handler.send(*headers, body=body, status=status)


def _to(address: str, status: str = "302 Found") -> Answer:
    return _stating(f"Location: {address}", "Content-Length: 0", body=b"", status=status)


def _busy_first(retry_after: Callable[[], str]) -> Answer:
    def answer(handler: _Handler) -> None:
        if handler.server.asked.count(handler.path) == 1:
            handler.send(f"Retry-After: {retry_after()}", "Content-Length: 0", status="503 Service Unavailable")
        else:
            ANSWERS["good"](handler)

    return answer


_LENGTH = f"Content-Length: {len(CONTENT)}"
ANSWERS: Mapping[str, Answer] = {
    # taken
    "good": _stating(_LENGTH),
    "good-chunks": _stating("Transfer-Encoding: chunked", body=b"13\r\n" + CONTENT + b"\r\n0\r\nX-Trailer: a\r\n\r\n"),
    "good-identity": _stating("Content-Encoding: identity", _LENGTH),
    "more-than-stated": _stating(_LENGTH, body=CONTENT + b"HTTP/1.1 200 OK\r\n\r\n"),
    "same-length-twice": _stating(_LENGTH, _LENGTH),
    # too large
    "endless": _endless,
    "endless-chunks": _endless_chunks,
    "one-huge-chunk": _one_huge_chunk,
    "endless-error": _endless_error,
    "states-much": _stating("Content-Length: 99999999999"),
    "states-absurdly-much": _stating(f"Content-Length: {'9' * 5000}"),
    # of no size
    "negative-length": _stating("Content-Length: -5"),
    "no-number": _stating("Content-Length: 0x13"),
    "two-lengths": _stating(_LENGTH, "Content-Length: 5"),
    # packed
    "gzip": _packed("gzip"),
    "gzip-four-times": _packed("gzip, gzip, gzip, gzip", times=4),
    "x-gzip": _packed("X-GZip"),
    "says-br": _stating("Content-Encoding: br", _LENGTH),
    "says-nonsense": _stating("Content-Encoding: \x1b[31m", _LENGTH),
    # in part
    "partial": _stating("Content-Range: bytes 0-18/38", _LENGTH, status="206 Partial Content"),
    "early-hints": _stating("Link: </style.css>", body=b"HTTP/1.1 500 Out Of Room\r\n\r\n", status="103 Early Hints"),
    # slow
    "slow": _drip("Content-Length: 1000"),
    "slow-without-end": _drip("Connection: close"),
    "slow-chunk": _drip("Transfer-Encoding: chunked", body=b"fff\r\n"),
    "slow-chunk-size": _dripping_chunk_size,
    "slow-headers": _dripping_headers,
    "endless-trailers": _endless_trailers,
    # broken
    "less-than-stated": _stating("Content-Length: 1000"),
    "no-http": _no_http,
    "broken-chunks": _stating("Transfer-Encoding: chunked", body=b"zz\r\nabc"),
    "nothing": lambda handler: None,
    "many-headers": _stating(*(f"X-{number}: a" for number in range(5000)), _LENGTH),
    "long-header": _stating(f"X-Long: {'a' * 200_000}", _LENGTH),
    # elsewhere
    "to-metadata": _to("http://169.254.169.254/latest/meta-data/"),
    "to-metadata-number": _to("http://2852039166/latest/"),
    "to-metadata-v6": _to("http://[fe80::1]/latest/"),
    "to-file": _to("file:///etc/passwd"),
    "to-ftp": _to("ftp://127.0.0.1/a"),
    "to-itself": _to("/to-itself"),
    "to-another": lambda handler: _to(handler.server.elsewhere)(handler),
    "to-nowhere": _to("http://"),
    "split": _to("/good\r\nX-Injected: 1"),
    "moved": _to("/good", "301 Moved Permanently"),
    "found": _to("/good"),
    "see-other": _to("/good", "303 See Other"),
    "temporarily": _to("/good", "307 Temporary Redirect"),
    "permanently": _to("/good", "308 Permanent Redirect"),
    # busy at first
    "busy-seconds": _busy_first(lambda: "1"),
    "busy-date": _busy_first(lambda: format_datetime(datetime.now(UTC) + timedelta(seconds=2), usegmt=True)),
    "busy-nonsense": _busy_first(lambda: "soon"),
    "busy-absurdly-long": _busy_first(lambda: "9" * 400),
}


class HostileServer(ThreadingHTTPServer):
    """The server; a context manager.

    `asked` are the paths, `headers` what came with them, `received` the bodies of what is to be stored, `sent_bytes`
    what was sent of bodies without end. `elsewhere` is where `to-another` leads.
    """

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.asked: list[str] = []
        self.headers: list[dict[str, str]] = []
        self.sent_bytes = 0
        self.received: list[bytes] = []
        self.elsewhere = ""
        self.url = f"http://127.0.0.1:{self.server_port}"
        self._thread = threading.Thread(target=self.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Silence about clients that hang up: they should."""

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.shutdown()
        self._thread.join()
        self.server_close()
