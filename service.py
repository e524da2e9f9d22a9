"""Where the container starts, and the service file of `poetry ivcap`: leads to orders or to jobs.

PSEG_SERVICE_TYPE=lambda leads to the server for one picture per request instead.
"""

import os
import sys
from collections.abc import Iterable

_OURS = {"benchmarks", "converters", "demo", "engine", "service"}
# What the platform sets for the container of an order; the worker of jobs gets IVCAP_BASE_URL alone.
_ORDER_ENVIRONMENT = {"ARGO_NODE_ID", "IVCAP_INSIDE_CONTAINER", "IVCAP_ORDER_ID", "IVCAP_STORAGE_URL"}


def asks_for_an_order(arguments: Iterable[str], environment: Iterable[str]) -> bool:
    """Tell orders from jobs.

    >>> asks_for_an_order(["--model", "m.tgz", "--ivcap:in-dir", "."], [])
    True
    >>> asks_for_an_order([], ["IVCAP_STORAGE_URL"]), asks_for_an_order(["--print-service-description"], [])
    (True, False)

    Args:
        arguments: of the command line.
        environment: names of variables.

    Returns:
        True if an argument is one of the orders' library (`-H` is the short form of `--ivcap:service-help`), or if the
        environment is that of an order.
    """
    return any(each.startswith("--ivcap:") or each == "-H" for each in arguments) or not _ORDER_ENVIRONMENT.isdisjoint(
        environment
    )


def main() -> None:
    """Do the order or the jobs, or serve single pictures."""
    try:
        if os.environ.get("PSEG_SERVICE_TYPE") == "lambda":
            from service.lambda_server import main as run
        elif asks_for_an_order(sys.argv[1:], os.environ):
            from service.order import main as run
        else:
            from service.job import main as run
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] in _OURS:
            raise
        print(
            f"service.py: {error.name} is not installed in the environment of {sys.executable}: run `make install` in "
            "the repository's folder, which makes the environment .venv there; `poetry run` then uses it by itself",
            file=sys.stderr,
        )
        sys.exit(2)
    run()


if __name__ == "__main__":
    main()
