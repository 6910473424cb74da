"""`python -m vpdlab` is `vpdlab`: launchers of several processes start modules."""

import sys

from vpdlab.cli import main

sys.exit(main())
