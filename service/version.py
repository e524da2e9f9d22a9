"""Which build this is."""

import os

from engine.system.libraries import version_of_pseg


def banner() -> str:
    """Name version, commit and date, as far as the container image was built with them."""
    version = os.environ.get("PSEG_VERSION") or version_of_pseg()
    known = [told for name in ("PSEG_COMMIT", "PSEG_BUILD_DATE") if (told := os.environ.get(name))]
    return f"pseg {version}" + (f" ({', '.join(known)})" if known else "")
