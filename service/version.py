"""Which build this is."""

import os

from engine.system.libraries import version_of_pseg


def banner() -> str:
    """Name version, commit and date, as far as the container image was built with them."""
    version = os.environ.get("PSEG_VERSION", version_of_pseg())
    known = [os.environ[name] for name in ("PSEG_COMMIT", "PSEG_BUILD_DATE") if name in os.environ]
    return f"pseg {version}" + (f" ({', '.join(known)})" if known else "")
