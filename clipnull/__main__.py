"""`python -m clipnull`: see `course`."""
import sys

from .course import main

sys.exit(main())
