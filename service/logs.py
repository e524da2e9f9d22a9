"""The logs of orders and jobs: lines for people, or for machines one JSON object a line (PSEG_LOG_FORMAT=json)."""

import logging
import os
import sys
from collections.abc import Mapping
from datetime import UTC, datetime
from types import TracebackType
from typing import Any, TextIO, cast

from engine.errors import OptionError
from engine.system.text import json_text, legible

progress_log = logging.getLogger("pseg.progress")
"""Steps that take long and that nobody asked for, such as the conversion before the first prediction."""

_TEXT = "%(levelname)s %(asctime)s %(name)s %(message)s"
_FORMATS = ("text", "json")


class JsonLine(logging.Formatter):
    """A log record as one line of JSON.

    Fields: `time` (UTC, to the millisecond), `level`, `logger`, `message`, and `trace` where an exception came along.
    Everything past ASCII is escaped, so that any stream takes it.
    """

    def format(self, record: logging.LogRecord) -> str:
        """Write a record, without the end of the line.

        >>> record = logging.LogRecord("service", logging.INFO, "", 0, "%d done", (3,), None)
        >>> record.created = 0.25
        >>> JsonLine().format(record)
        '{"time": "1970-01-01T00:00:00.250Z", "level": "INFO", "logger": "service", "message": "3 done"}'
        """
        time = datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds")
        fields = {
            "time": time.replace("+00:00", "Z"),
            "level": record.levelname,
            "logger": record.name,
            "message": record.getMessage(),
        }
        if record.exc_info:
            # Where secrets are hidden, the text is there already.
            fields["trace"] = record.exc_text or self.formatException(record.exc_info)
        return json_text(fields, ascii_only=True)


class LegibleRecords:
    """Makes log records of one line, whatever names and vendors' messages bring; a trace's lines are indented.

    A line that begins at the margin is a record: no name can forge one.
    """

    def __init__(self) -> None:
        self._make = logging.getLogRecordFactory()

    def __call__(self, *arguments: Any, **named: Any) -> logging.LogRecord:  # noqa: ANN401 - whatever a record is made of
        record = self._make(*arguments, **named)
        record.msg, record.args = legible(record.getMessage().rstrip("\n")), ()
        if record.exc_info and record.exc_info[0] is not None:
            # Formatters take this text instead of making their own.
            record.exc_text = legible_trace(record.exc_text or logging.Formatter().formatException(record.exc_info))
        return record


def legible_trace(trace: str) -> str:
    return "\n".join(f"  {legible(line)}" for line in trace.split("\n"))


def make_records_legible() -> None:
    """Change every record from now on, whichever library writes it and whoever takes it up."""
    if not isinstance(logging.getLogRecordFactory(), LegibleRecords):
        logging.setLogRecordFactory(LegibleRecords())


def set_up_logs(environment: Mapping[str, str], stream: TextIO) -> None:
    """Set up the logs of this process, those of the platforms' libraries included; what is printed hides secrets, too.

    PSEG_LOG_FORMAT is `text` (default) or `json`; OptionError for another one. The stream gets the logs; in JSON
    standard output gets nothing else: see `keep_stdout`.
    """
    asked = environment.get("PSEG_LOG_FORMAT", "text")
    if asked not in _FORMATS:
        raise OptionError(f"PSEG_LOG_FORMAT is {asked!r}: give {' or '.join(_FORMATS)}")
    if asked == "text":
        make_records_legible()
        logging.basicConfig(level=logging.INFO, stream=stream, format=_TEXT)
    else:
        _log_json_lines(stream)
    sys.stdout, sys.stderr = _redacted_stream(sys.stdout), _redacted_stream(sys.stderr)


def _redacted_stream(stream: TextIO) -> TextIO:
    # Commands make logs legible and print no secrets: they do without its patterns.
    from service.ivcap.redaction import RedactedStream

    return stream if isinstance(stream, RedactedStream) else cast("TextIO", RedactedStream(stream))


def _log_json_lines(stream: TextIO) -> None:
    if stream is sys.stdout:
        stream = keep_stdout()
    handler = logging.StreamHandler(stream)
    handler.setFormatter(JsonLine())
    logging.basicConfig(level=logging.INFO, handlers=[handler], force=True)
    for each in logging.root.manager.loggerDict.values():
        # A library that has handlers of its own writes through ours instead, and once.
        if isinstance(each, logging.Logger) and each.handlers:
            each.handlers.clear()
            each.propagate = True
    logging.captureWarnings(capture=True)
    sys.excepthook = _log_the_end


def _log_the_end(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    logging.getLogger("service").critical("ended by %s", kind.__name__, exc_info=(kind, error, trace))


def keep_stdout() -> TextIO:
    """Keep standard output for ourselves: what vendors' libraries print there from their own C++ goes to stderr.

    The new `sys.stdout`, which is returned, writes to where the old one did.
    """
    sys.stdout.flush()
    ours = os.dup(sys.stdout.fileno())
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    sys.stdout = os.fdopen(ours, "w", encoding=sys.stdout.encoding, buffering=1)
    return sys.stdout
