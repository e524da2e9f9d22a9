"""What must not stand in a log or a result: tokens, passwords, keys, cookies, what signs an address.

Both platforms' libraries write such things themselves, so that not our own messages but all records are changed, and
all that is printed. Logs hide more than results do: names of orders and jobs, and everything behind an address's
question mark. A result has to say which order it belongs to, and which image of an address it is about.

Every pattern takes time in proportion to the length of the text, whatever the text is.
"""

import base64
import logging
import re
import sys
import traceback
from threading import Lock
from types import TracebackType
from typing import Any, TextIO

_HIDDEN = "[hidden]"
# Text in quotes, which may be escaped themselves, as in JSON within JSON.
_QUOTED = r"(?P<quote>\\{0,8}[\"'])(?!\[hidden\])(?:(?!(?P=quote))[^\r\n])*(?P=quote)"
_NAMES = (
    r"(?:token|jwt|passw(?:or)?d|passphrase|secret|credentials?|api[-_]?key|access[-_]?key(?:[-_]?id)?"
    r"|secret[-_]?(?:access[-_]?)?key|private[-_]?key|account[-_]?key|shared[-_]?key|subscription[-_]?key"
    r"|session[-_]?id|x-amz-[a-z-]{1,40})"
)
# Too short, or too much of a word of every day, to be a name of a secret before a colon in prose.
_SHORT_NAMES = r"(?<![A-Za-z0-9])(?:pwd|sig|signature)"
_IS = r"\\{0,8}[\"']?\s{0,20}[:=]\s{0,20}"
_IS_STRICTLY = r"(?:\s{0,20}=\s{0,20}|\\{0,8}[\"']\s{0,20}[:=]\s{0,20})"
_VALUE = rf"(?:{_QUOTED}|(?![\[\"'\\])[^\s\"',&}})<>\]]+)"
_LINE = rf"(?:{_QUOTED}|Digest\s[^\r\n]+|(?![\[\"'\\\s])[^\r\n\"']+)"


def _hidden_value(match: re.Match[str]) -> str:
    quote = match["quote"] or ""
    return f"{match['name']}{quote}{_HIDDEN}{quote}"


def _without_login(match: re.Match[str]) -> str:
    """Hide what is a name and a password in Base64; another word behind "basic" is none."""
    try:
        login = base64.b64decode(match["login"], validate=True)
    except ValueError:
        return match[0]
    return f"{match['name']}{_HIDDEN}" if b":" in login else match[0]


def _hidden_credentials(match: re.Match[str]) -> str:
    """Hide a header's value, but say which kind it is."""
    value = match[0][len(match["name"]) :]
    quote = match["quote"] or ""
    kind = re.match(r"(?:Bearer|Basic|Digest|Negotiate|Token)\s", value.removeprefix(quote), re.IGNORECASE)
    return f"{match['name']}{quote}{'' if kind is None else kind[0]}{_HIDDEN}{quote}"


_KEY = re.compile(
    r"-----BEGIN [A-Z0-9 ]{0,40}PRIVATE KEY(?: BLOCK)?-----"
    r"(?:(?!-----END).)*(?:-----END [A-Z0-9 ]{0,40}PRIVATE KEY(?: BLOCK)?-----)?",
    re.DOTALL,
)
_PERSON = re.compile(r"(\w://)[^/\s@'\"]+@")
_HEADER = re.compile(rf"(?P<name>\b(?:proxy-)?authorization{_IS}){_LINE}", re.IGNORECASE)
_COOKIE = re.compile(rf"(?P<name>\b(?:set-)?cookie{_IS}){_LINE}", re.IGNORECASE)
_BEARER = re.compile(
    r"\b(Bearer\s{1,20})(?=[A-Za-z_-]{0,200}[0-9._~+/=])[\w.~+/=-]{16,}(?<!\.[A-Za-z]{3})(?<!\.[A-Za-z]{4})", re.ASCII
)
_BASIC = re.compile(r"\b(?P<name>Basic\s{1,20})(?P<login>[A-Za-z0-9+/]{4,}={0,2})", re.IGNORECASE)
_NAMED = re.compile(
    rf"(?P<name>(?:{_NAMES}{_IS}|{_SHORT_NAMES}{_IS_STRICTLY}|[?&](?:key|code|auth)=)){_VALUE}", re.IGNORECASE
)
_DOTTED = re.compile(r"[\w.-]+", re.ASCII)
_WEB_TOKEN = re.compile(r"eyJ[\w-]{12,}\.[\w-]{8,}\.(?:[\w-]{8,})?", re.ASCII)

# Whoever knows an order's name may ask the platform for it.
_ORDER = re.compile(r"\burn:ivcap:(order|job):[\w.:-]+")
_QUERY = re.compile(r"([?&][\w.~%-]+=)(?!\[hidden\])[^&\s'\"<>)\]]+")


def without_secrets(text: str) -> str:
    """Hide what is secret in a text that is published, as `[hidden]`.

    >>> without_secrets("GET https://me:word@host/q7.jpg?page=2&sig=a1b2 for urn:ivcap:order:7f")
    'GET https://[hidden]@host/q7.jpg?page=2&sig=[hidden] for urn:ivcap:order:7f'
    """
    text = _KEY.sub(_HIDDEN, text)
    text = _PERSON.sub(rf"\1{_HIDDEN}@", text)
    text = _HEADER.sub(_hidden_credentials, text)
    text = _COOKIE.sub(_hidden_value, text)
    text = _BEARER.sub(rf"\1{_HIDDEN}", text)
    text = _BASIC.sub(_without_login, text)
    text = _NAMED.sub(_hidden_value, text)
    return _DOTTED.sub(_without_web_tokens, text) if "eyJ" in text else text


def _without_web_tokens(match: re.Match[str]) -> str:
    # Part by part: a pattern that began at every `eyJ` of a long text would read it again and again.
    parts = match[0].split(".")
    for at, part in enumerate(parts[:-2]):
        start = part.find("eyJ")
        if start >= 0 and _WEB_TOKEN.match(".".join([part[start:], *parts[at + 1 : at + 3]])):
            parts[at : at + 3] = [part[:start] + _HIDDEN]
            return ".".join(parts[: at + 1]) + "".join(f".{each}" for each in parts[at + 1 :])
    return match[0]


def redacted(text: str) -> str:
    """Hide in a text that is logged what is secret, names of orders and jobs, and what an address asks for.

    >>> redacted("GET https://me:word@host/q7.jpg?page=2&sig=a1b2 for urn:ivcap:order:7f")
    'GET https://[hidden]@host/q7.jpg?page=[hidden]&sig=[hidden] for urn:ivcap:order:[hidden]'
    """
    text = _ORDER.sub(rf"urn:ivcap:\1:{_HIDDEN}", text)
    return _QUERY.sub(rf"\1{_HIDDEN}", without_secrets(text))


def keep_secrets_out_of_logs() -> None:
    """Change every record above the level of debugging, whichever library writes it and whoever takes it up.

    The last words of a process that an exception ends are changed, too.
    """
    make = logging.getLogRecordFactory()

    def made(*arguments: Any, **named: Any) -> logging.LogRecord:  # noqa: ANN401 - whatever a record is made of
        record = make(*arguments, **named)
        if record.levelno > logging.DEBUG:
            record.msg, record.args = redacted(record.getMessage()), ()
            if record.exc_info and record.exc_info[0] is not None:
                # Formatters take this text instead of making their own.
                trace = record.exc_text or "".join(traceback.format_exception(*record.exc_info)).rstrip()
                record.exc_text = redacted(trace)
            if record.stack_info:
                record.stack_info = redacted(record.stack_info)
        return record

    logging.setLogRecordFactory(made)
    sys.excepthook = _print_the_end


def _print_the_end(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    print(redacted("".join(traceback.format_exception(kind, error, trace)).rstrip()), file=sys.stderr)


class RedactedStream:
    """A text stream that hides secrets line by line; for what libraries print. Everything else is the stream's own."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._line = ""
        self._lock = Lock()

    def write(self, text: str) -> int:
        """Take text; it is written when its line ends."""
        with self._lock:
            lines, newline, self._line = (self._line + text).rpartition("\n")
            if newline:
                self._stream.write(redacted(lines) + newline)
        return len(text)

    def writelines(self, lines: list[str]) -> None:
        self.write("".join(lines))

    def flush(self) -> None:
        """Write what is there of the last line, too."""
        with self._lock:
            line, self._line = self._line, ""
            if line:
                self._stream.write(redacted(line))
            self._stream.flush()

    def __getattr__(self, name: str) -> Any:  # noqa: ANN401 - whatever the stream has
        return getattr(self._stream, name)
