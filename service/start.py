"""The installed command `pseg`: starts collecting garbage only once the libraries are loaded, a tenth of the start."""

import gc
import os


def main() -> None:
    """Load the command line and run it."""
    # Read when the library is loaded: later it has written its session file, and may report to its makers.
    os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
    # Otherwise pydantic looks through the files of every installed distribution for plugins, of which we use none.
    os.environ.setdefault("PYDANTIC_DISABLE_PLUGINS", "1")
    for descriptor in range(3):
        try:
            os.fstat(descriptor)
        except OSError:
            # Closed by who started us: the next file that is opened must not become standard output.
            os.open(os.devnull, os.O_RDWR)
    # The command line enables it again when the files of the command are loaded.
    gc.disable()
    from service.cli import main as run

    try:
        run()
    finally:
        # Everything ends with the process: the interpreter need not look through it for cycles once more.
        gc.freeze()
