"""`python -m ondevice` is the command `ondevice`."""

import sys

from ondevice.cli import main

sys.exit(main())
