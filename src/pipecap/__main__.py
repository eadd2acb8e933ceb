"""`python -m pipecap`, and the program `pipecap`."""

import sys


def run() -> int:
    """Run the command line; give the exit status, also to a Ctrl-C that comes while it is still being loaded."""
    try:
        from pipecap.cli import main

        return main()
    except KeyboardInterrupt:
        return 130


if __name__ == "__main__":
    sys.exit(run())
