"""Names in a file: a vocabulary, one class a line; or class names with their text embeddings, in place of a model."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch

from .errors import one_line
from .stored import Stored
from .wording import Vocabulary

DOMAIN = "photo"
"""The only domain of names that come without one."""


def read_vocabulary(path: str | Path) -> Vocabulary:
    """The vocabulary in a text file: one class a line, its other names after commas.

    A line "domain: NAME" names a domain; without any there is one, DOMAIN. Blank lines and those that begin with # do
    not count. A file that ends in .json holds {"classes": [...] or {...}, "domains": [...]}, as for `Vocabulary`.

    Raises ValueError that names the file, for one that holds no two classes, or a name twice.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     _ = Path(folder, "names.txt").write_text("cat, kitten\\ndog\\n")
    ...     read_vocabulary(Path(folder, "names.txt")).names
    (('cat', 'kitten'), ('dog',))
    """
    path = Path(path)
    if not path.is_file():
        raise ValueError(f"vocabulary: {str(path)!r} is not there; expected a text file with one class name a line")
    try:
        text = path.read_text(encoding="utf-8-sig")
        if path.suffix == ".json":
            told = json.loads(text)
            if not isinstance(told, dict) or not {"classes"} <= told.keys() <= {"classes", "domains"}:
                raise ValueError("it is not of the form {classes: ..., domains: ...}")
            return Vocabulary(told["classes"], told.get("domains", [DOMAIN]))
        lines = [line.strip() for line in text.splitlines() if line.strip() and not line.lstrip().startswith("#")]
        domains = [line.partition(":")[2].strip() for line in lines if line.lower().startswith("domain:")]
        named = [line for line in lines if not line.lower().startswith("domain:")]
        groups = [tuple(name.strip() for name in line.split(",") if name.strip()) for line in named]
        firsts = [group[0] if group else "" for group in groups]
        if len({*firsts}) < len(firsts) or not firsts:
            return Vocabulary(firsts, domains or [DOMAIN])  # which says what is wrong
        classes: Any = dict(zip(firsts, groups, strict=True))
        return Vocabulary(classes, domains or [DOMAIN])
    except ValueError as error:
        raise ValueError(f"vocabulary: {str(path)!r} is not valid: {one_line(error)}") from error


def has_texts_alone(path: str | Path) -> bool:
    """Whether a .npz holds `class_texts`, and none of the texts of a whole file of embeddings (`clipnull.stored`)."""
    try:
        with np.load(path, allow_pickle=False) as archive:
            return "class_texts" in archive.files and "texts_build" not in archive.files
    except Exception:  # whatever is wrong, `stored.read` says it
        return False


def read_texts(path: str | Path) -> Stored:
    """Class names with one text embedding each, as a file of embeddings without pictures and with one domain, DOMAIN.

    A .npz of `class_names` (C,) and `class_texts` (C, d), and perhaps `model`, `pretrained` and `fingerprint`; whatever
    else it holds is not read. Raises ValueError that names the file for anything else, as `stored.read` does.
    """
    path = Path(path)
    with np.load(path, allow_pickle=False) as archive:
        try:
            names, texts = archive["class_names"], archive["class_texts"]
            words = {w: str(archive[w]) for w in ("model", "pretrained", "fingerprint", "note") if w in archive.files}
            if names.ndim != 1 or texts.ndim != 2 or len(names) != len(texts) or texts.dtype.kind != "f":
                raise ValueError(f"class_names of shape {names.shape}, class_texts {texts.dtype} of {texts.shape}")
            rows = torch.from_numpy(texts.astype(np.float32))
            length = rows.norm(dim=1)
            if not (length.isfinite().all() and (length > 0).all()):
                raise ValueError("class_texts with NaN, infinity or rows of length zero")
            vocabulary = Vocabulary([str(name) for name in names.tolist()], [DOMAIN])
        except Exception as error:  # zlib and the parser of NumPy's headers have errors of their own
            raise ValueError(
                f"file: {str(path)!r} holds no valid texts ({one_line(error)}); expected class_names (C,) and "
                "class_texts (C, d)"
            ) from error
    nothing = torch.empty(0, dtype=torch.int64)
    vectors = {"texts_free": rows, "texts_build": rows[:, None]}
    return Stored(path, vocabulary, nothing, nothing, vectors, (), (), words, torch.zeros(len(rows), 1).bool())
