"""`python -m ringvision` is `ringvision`."""

import sys

from ringvision.cli import main

sys.exit(main())
