"""`python -m pipecap`."""

import sys

from pipecap.cli import main

if __name__ == "__main__":
    sys.exit(main())
