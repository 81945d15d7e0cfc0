"""`python -m clipnull`: the same as the command `clipnull`, see `cli`."""

import sys

from .commands.cli import main

sys.exit(main())
