"""What open_clip says while a model is loaded, and what of it the user hears."""

import contextlib
import logging
import re
import threading
from collections import Counter
from collections.abc import Iterator


class _Quiet(logging.Filter):
    """Keeps from the root logger, to which open_clip speaks, what threads `inside` say of the course of loading."""

    EXPECTED = re.compile("No pretrained weights loaded for model|Failed to download weights for tag")
    """Asked for, with `None`; and told by the error that follows."""

    def __init__(self) -> None:
        super().__init__()
        self.lock, self.inside, self.handler = threading.Lock(), Counter(), logging.lastResort or logging.NullHandler()

    def filter(self, record: logging.LogRecord) -> bool:
        if not self.inside[record.thread]:
            return True
        return record.levelno >= logging.WARNING and not self.EXPECTED.match(record.getMessage())


_QUIET = _Quiet()


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """In this thread, open_clip does not report each step of loading, nor that `None` means untrained weights.

    Its other warnings are heard: that positions were resized, say, or that a tower has no weights.

    Nothing of the root logger is changed in the end: open_clip would give it a handler where it has none, and then
    `logging.basicConfig` of a program would do nothing.
    """
    thread, root = threading.get_ident(), logging.root
    with _QUIET.lock:
        if not _QUIET.inside.total():
            root.addFilter(_QUIET)
            if not root.handlers:
                root.addHandler(_QUIET.handler)  # which says what Python says without any
        _QUIET.inside[thread] += 1
    try:
        yield
    finally:
        with _QUIET.lock:
            _QUIET.inside[thread] -= 1
            _QUIET.inside = +_QUIET.inside  # without threads that have left
            if not _QUIET.inside:
                root.removeFilter(_QUIET)
                root.removeHandler(_QUIET.handler)
