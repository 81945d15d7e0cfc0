"""Independent jobs of joblib: one after another here, or wherever `joblib.parallel_config` sends them."""

from collections.abc import Iterable, Iterator
from typing import Any

from joblib import Parallel


def results_of(jobs: Iterable[Any]) -> Iterator[Any]:
    """What each of `jobs`, made by `joblib.delayed`, returns: in their order, as soon as it is there.

    All together at the end with a backend that cannot do so, such as ray's.

    >>> from joblib import delayed
    >>> list(results_of(delayed(abs)(i) for i in (-1, 2)))
    [1, 2]
    """
    try:
        parallel: Any = Parallel(return_as="generator")
    except ValueError:
        parallel = Parallel()
    yield from parallel(jobs)
