"""`python -m vpdlab.cli` is the command `vpdlab`."""

import sys

from vpdlab.cli import main

if __name__ == "__main__":
    sys.exit(main())
