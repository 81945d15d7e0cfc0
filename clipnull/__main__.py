"""`python -m clipnull`: see `course`; `python -m clipnull bench`: see `bench`."""
import sys

from . import bench
from .course import run as course

sys.exit(bench.main(sys.argv[2:]) if sys.argv[1:2] == ["bench"] else course.main())
