"""`python -m ipfvision`."""

import sys

from ipfvision.cli import main

sys.exit(main())
