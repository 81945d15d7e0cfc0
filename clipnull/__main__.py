"""Runs the command line (`commands.cli`) as `python -m clipnull`."""

import sys

from .commands.cli import main

sys.exit(main())
