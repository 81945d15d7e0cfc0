"""`python -m clipnull`: the same as the command `clipnull`, see `cli`."""

import sys

from .cli import main

sys.exit(main())
