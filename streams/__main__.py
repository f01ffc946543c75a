"""The entry point of the command `safeguard`. It imports nothing that a consumer's installation lacks."""

from __future__ import annotations

import signal
import sys


def main() -> None:
    """Run the command line, or name the extra that it needs. Ctrl-C ends the process at once while it is imported."""
    handler = signal.getsignal(signal.SIGINT)
    if handler is signal.default_int_handler:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    try:
        from safeguard_streams.cli import main as run
    except ModuleNotFoundError as error:
        if (error.name or "").startswith("safeguard_streams"):
            raise
        sys.exit(
            f"safeguard: {error.name} is not installed; the command line needs: pip install 'safeguard-streams[cli]'"
        )
    signal.signal(signal.SIGINT, handler)
    run()


if __name__ == "__main__":
    main()
