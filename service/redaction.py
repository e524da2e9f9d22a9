"""What must not stand in a log: tokens, passwords, what signs an address, and the platform's names of orders and jobs.

Both platforms' libraries write such things themselves, so that not our own messages but all records are changed.
"""

import logging
import re
import traceback
from typing import Any

_HIDDEN = "[hidden]"
_SECRETS = (
    # Whoever knows an order's name may ask the platform for it.
    (re.compile(r"\burn:ivcap:(order|job):[\w.:-]+"), rf"urn:ivcap:\1:{_HIDDEN}"),
    (re.compile(r"(\w://)[^/\s@'\"]+@"), rf"\1{_HIDDEN}@"),
    # Signed addresses: everything behind the question mark.
    (re.compile(r"([?&][\w.~%-]+=)[^&\s'\"<>)\]]+"), rf"\1{_HIDDEN}"),
    (re.compile(r"\b(Bearer|Basic)\s+[\w.~+/=-]{6,}", re.IGNORECASE), rf"\1 {_HIDDEN}"),
    (
        re.compile(
            r"\b(\w*(?:token|password|secret|api[-_]?key|authorization))"
            r"(['\"]?\s*[:=]\s*['\"]?)(?!\[|Bearer|Basic)[^\s'\",}]+",
            re.IGNORECASE,
        ),
        rf"\1\2{_HIDDEN}",
    ),
)


def redacted(text: str) -> str:
    """Hide what is secret in a text.

    Args:
        text: a message, in any number of lines.

    Returns:
        The text, with `[hidden]` in the place of secrets.

    >>> redacted("GET https://me:word@host/q7.jpg?sig=a1b2 for urn:ivcap:order:7f")
    'GET https://[hidden]@host/q7.jpg?sig=[hidden] for urn:ivcap:order:[hidden]'
    """
    for pattern, replacement in _SECRETS:
        text = pattern.sub(replacement, text)
    return text


def keep_secrets_out_of_logs() -> None:
    """Change every record above the level of debugging, whichever library writes it and whoever takes it up."""
    make = logging.getLogRecordFactory()

    def made(*arguments: Any, **named: Any) -> logging.LogRecord:  # noqa: ANN401 - whatever a record is made of
        record = make(*arguments, **named)
        if record.levelno > logging.DEBUG:
            record.msg, record.args = redacted(record.getMessage()), ()
            if record.exc_info and record.exc_info[0] is not None:
                # Formatters take this text instead of making their own.
                record.exc_text = redacted("".join(traceback.format_exception(*record.exc_info)).rstrip())
        return record

    logging.setLogRecordFactory(made)
