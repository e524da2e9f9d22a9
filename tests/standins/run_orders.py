"""Runs orders one after another in one process, each as the platform would start it.

Arguments: a JSON file with a list of argument lists, and the JSON file that gets their exit statuses.
"""

import json
import sys
from pathlib import Path

from service.order import main


def status_of(arguments: list[str]) -> int:
    sys.argv = ["service.py", *arguments]
    try:
        main()
    except SystemExit as ended:
        return int(ended.code or 0)
    return 0


if __name__ == "__main__":
    orders, statuses = map(Path, sys.argv[1:])
    statuses.write_text(json.dumps([status_of(each) for each in json.loads(orders.read_text())]))
