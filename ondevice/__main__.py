"""`python -m ondevice` is the command `ondevice`."""

import sys

from ondevice.child import limit_this_process
from ondevice.cli import main

limit_this_process()
sys.exit(main())
