"""The installed command `pseg`: starts collecting garbage only once the libraries are loaded, a tenth of the start."""

import gc


def main() -> None:
    """Load the command line and run it."""
    gc.disable()
    from service.cli import main as run

    # What was loaded stays: later collections need not look at it.
    gc.freeze()
    gc.enable()
    run()
