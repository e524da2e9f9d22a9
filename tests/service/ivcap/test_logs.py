"""Logs as JSON lines; orders and jobs are tested with them in test_order and test_job."""

import base64
import json
import logging
import subprocess
import sys

import pytest

from engine import OptionError
from service.logs import JsonLine, set_up_logs

ENDS = """
import logging, os, sys, warnings
from service.logs import set_up_logs
chatty = logging.getLogger("library")
chatty.addHandler(logging.StreamHandler(sys.stdout))
set_up_logs({"PSEG_LOG_FORMAT": "json"}, sys.stdout)
chatty.warning("line one\\nline two")
os.write(1, b"from C++\\n")
warnings.warn("old")
raise RuntimeError("the end")
"""


def test_a_record_is_one_line_whatever_it_holds() -> None:
    record = logging.LogRecord("a.b", logging.ERROR, "", 0, "%s\nfoto \udcff ф", ("one",), None)
    line = JsonLine().format(record)
    assert line.isascii()
    assert "\n" not in line
    assert json.loads(line)["message"] == "one%0Afoto %FF ф"
    assert base64.b64decode(json.loads(line)["message_base64"]) == b"one\nfoto \xff \xd1\x84"


def test_all_that_a_process_says_on_stdout_is_json() -> None:
    ended = subprocess.run([sys.executable, "-c", ENDS], capture_output=True, text=True, check=False, timeout=60)
    assert ended.returncode == 1
    library, warning, end = map(json.loads, ended.stdout.splitlines())
    assert (library["logger"], library["level"], library["message"]) == ("library", "WARNING", "line one\nline two")
    assert (warning["logger"], warning["level"]) == ("py.warnings", "WARNING")
    assert (end["level"], end["message"]) == ("CRITICAL", "ended by RuntimeError")
    assert end["trace"].splitlines()[0] == "Traceback (most recent call last):"
    assert end["trace"].splitlines()[-1] == "RuntimeError: the end"
    assert ended.stderr == "from C++\n"


def test_another_format_is_refused() -> None:
    with pytest.raises(OptionError, match="PSEG_LOG_FORMAT is 'JSON': give text or json"):
        set_up_logs({"PSEG_LOG_FORMAT": "JSON"}, sys.stderr)
