"""Files of embeddings: a CLIP's embeddings of pictures and prompts, for machines without that CLIP.

A file is a NumPy archive (.npz) without pickles. LAYOUT lists its fields and their axes: C classes, K domains, n
pictures, joint width d, F forms of a class. Rows need not have unit length. If no pictures are needed, the fields of
TEXTS_ONLY are enough: other fields are then ignored, and the one domain is `DOMAIN`.

Every function of the library accepts such a file instead of an encoder. Functions that need more, such as new prompts
or gradients on pixels, raise an error that says so.
"""

import math
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .errors import brief, one_line, one_of, printable, shorten
from .shapes import validate_shapes
from .vocabulary import DOMAIN, DOMAIN_PROMPTS, TEMPLATES, Vocabulary, format_prompt

SUFFIX = ".npz"
VECTORS = {  # floating-point numbers
    "images": "nd",  # embeddings of pictures
    "texts_build": "CKd",  # texts that name class and domain, in the wording for building edits
    "texts_free": "Cd",  # texts that name only the class
    "texts_domain": "CKd",  # optional from here on: class and domain in held-out wording
    "texts_forms": "CFd",  # each class in its forms (`Vocabulary.forms_of`)
    "domain_texts": "Kd",  # texts that name only the domain
    "prototypes": "CKd",  # embeddings of synthesized pictures
    "image_mean": "d",  # the raw mean of unrelated pictures
    "other_images": "md",  # unrelated pictures
    "other_texts": "wd",  # words that no request mentions
    "common_texts": "vd",  # common words that edits leave alone
}
NAMES = {  # texts
    "classes": "n",  # of each picture
    "domains": "n",
    "class_names": "C",
    "domain_names": "K",
    "other_names": "w",  # optional from here on
    "common_names": "v",
    "files": "n",  # of each picture
    "dropped": "b",  # the files of broken pictures; they have no row
}
WORDS = dict.fromkeys(("model", "pretrained", "fingerprint", "note"), "")  # optional texts
LAYOUT = VECTORS | NAMES | WORDS | {"prototype_mask": "CK"}  # bool, optional: (class, domain) cells with a prototype
NEEDED = ("images", "classes", "domains", "class_names", "domain_names", "texts_build", "texts_free")
TEXTS_ONLY = {"class_names": "C", "class_texts": "Cd", "model": "", "pretrained": "", "fingerprint": ""}
EDITED = "clipnull_edited"  # the field that `clipnull apply` adds: the edited side, and the patches
SHORTEST = 1e-12  # PyTorch divides shorter vectors by this instead of their length
LOGIT_SCALE = 100.0  # OpenAI's value, and the upper limit in training most CLIPs; the file stores none


@dataclass(frozen=True, eq=False)
class Stored:
    """The validated content of a file of embeddings; `vectors` and `words` omit the optional fields it lacks.

    classes, domains: (n,) int64, indices into the vocabulary. vectors: float32 by field; rows of `prototypes` are zero
    for (class, domain) cells without one. words: by field. mask: (C, K) bool, True for cells with a prototype.
    """

    path: Path
    vocabulary: Vocabulary
    classes: Tensor
    domains: Tensor
    vectors: dict[str, Tensor] = field(repr=False)
    words: dict[str, str]
    mask: Tensor = field(repr=False)
    other_names: tuple[str, ...] = field(default=(), repr=False)
    common_names: tuple[str, ...] = field(default=(), repr=False)
    files: tuple[str, ...] = field(default=(), repr=False)
    dropped: tuple[str, ...] = field(default=(), repr=False)

    @property
    def width(self) -> int:
        return self.vectors["texts_free"].shape[1]


def is_stored(place: object) -> bool:
    """Return True if `place`, a name or a path, has the suffix of a file of embeddings."""
    return isinstance(place, (str, Path)) and str(place).endswith(SUFFIX)


def read_stored(path: str | Path) -> Stored:
    """Load and validate a file of embeddings, without running any code in it.

    Raise a ValueError that names the file and the field that is missing, misspelt or not as in LAYOUT.
    """
    path = Path(path)
    if not path.is_file():
        raise ValueError(f"file: {str(path)!r} does not exist; expected a file of embeddings from `clipnull embed`")
    try:
        with np.load(path, allow_pickle=False) as archive:
            return _parse(path, archive)
    except Exception as error:  # zlib and NumPy's header parser raise their own exceptions
        reason = one_line(error, 1_000) or type(error).__name__
        raise ValueError(f"file: {str(path)!r} is not a file of embeddings: {reason}") from error


def _parse(path: Path, archive: Any) -> Stored:
    fields, edited = archive.files, str(archive[EDITED]) if EDITED in archive.files else ""
    texts_only = "class_texts" in fields and "texts_build" not in fields
    if edited and (edited.startswith("queries") or not texts_only):
        raise ValueError("it holds edited embeddings; expected unedited ones (restore them with `clipnull undo`)")
    layout, needed = (TEXTS_ONLY, ("class_names", "class_texts")) if texts_only else (LAYOUT, NEEDED)
    if not texts_only:
        fields = [one_of("field", name, LAYOUT) for name in fields]
    if missing := [name for name in needed if name not in fields]:
        raise ValueError(f"it lacks {', '.join(missing)}; expected the fields {', '.join(needed)}")
    for texts, names in (("other_texts", "other_names"), ("common_texts", "common_names")):
        if (texts in fields) != (names in fields):
            raise ValueError(f"{texts}, {names}: only one is given; expected both or neither")
    arrays = {name: _array(name, archive[name]) for name in fields if name in layout}
    validate_shapes(layout, arrays)
    if texts_only:
        free = arrays.pop("class_texts")
        arrays |= {"texts_free": free, "texts_build": free[:, None], "domain_names": np.array([DOMAIN])}
    texts = {name: _texts(name, arrays[name].reshape(-1)) for name in (*NAMES, *WORDS) if name in arrays}
    vocabulary = Vocabulary(texts["class_names"], texts["domain_names"])
    mask = arrays.get("prototype_mask", np.ones(vocabulary.shape, bool))
    mask = torch.from_numpy((mask.view(np.uint8) != 0) & ("prototypes" in arrays))  # True may be any byte but 0
    return Stored(
        path,
        vocabulary,
        _indices("classes", texts.get("classes", []), vocabulary.classes),
        _indices("domains", texts.get("domains", []), vocabulary.domains),
        {name: _vectors(name, arrays[name], mask) for name in VECTORS if name in arrays},
        {name: texts[name][0] for name in WORDS if name in texts},
        mask,
        **{name: tuple(texts[name]) for name in ("other_names", "common_names", "files", "dropped") if name in texts},
    )


def _array(name: str, value: Any) -> np.ndarray:
    kind, expected = ("b", "bool") if name == "prototype_mask" else ("f", "floating-point numbers")
    if name in NAMES or name in WORDS:
        kind, expected = "U", "texts"
    dtype = getattr(value, "dtype", None)  # NumPy returns bytes for members that are not .npy
    if dtype is None or dtype.kind != kind:
        raise ValueError(f"{name}: {dtype or 'bytes'}; expected {expected}")
    return value


def _texts(name: str, values: np.ndarray) -> list[str]:
    codes = np.frombuffer(values.tobytes(), np.dtype("u4").newbyteorder(values.dtype.byteorder))
    if codes.max(initial=0) > sys.maxunicode:  # Python would turn them into strings that crash it
        raise ValueError(f"{name}: characters that do not exist in Unicode; expected text")
    texts = values.tolist()
    if unprintable := [text for text in {*texts} if not printable(text)]:
        raise ValueError(f"{name}: {brief(min(unprintable))} cannot be printed; expected plain text")
    return texts


def _indices(field: str, labels: Sequence[str], names: Sequence[str]) -> Tensor:
    index = {name: i for i, name in enumerate(names)}
    if unknown := sorted(label[:60] for label in {*labels} - {*names}):
        raise ValueError(f"{field}: {shorten(unknown)} not among the names; expected {shorten(n[:60] for n in names)}")
    return torch.tensor([index[label] for label in labels])


def _vectors(name: str, values: np.ndarray, mask: Tensor) -> Tensor:
    with np.errstate(over="ignore"):  # the check below refuses infinity
        rows = torch.from_numpy(values.astype(np.float32, copy=False))
    length = rows.reshape(-1, rows.shape[-1]).norm(dim=1)
    valid = length.isfinite() & (length > SHORTEST)
    if name == "prototypes":
        rows[~mask] = 0.0
        valid |= ~mask.flatten()
    if not valid.all():
        row = int((~valid).nonzero()[0])
        raise ValueError(f"{name}: row {row} has length {float(length[row]):g}; expected finite numbers, not all zero")
    return rows


class StoredTexts:
    """A stand-in for a tokenizer. It maps n texts to (n, 1), the row of each text in the table of a `StoredModel`.

    It knows the prompts that the library makes from the names in the file, and raises ValueError for other texts.
    """

    def __init__(self, stored: Stored):
        pairs = list(_prompts_of(stored))
        self.file = str(stored.path)
        self.rows = {prompt: row for row, (prompts, _) in enumerate(pairs) for prompt in prompts}
        self.table = torch.stack([F.normalize(vector, dim=-1) for _, vector in pairs])

    def __call__(self, texts: Sequence[str]) -> Tensor:
        if unknown := [text for text in texts if text not in self.rows]:
            raise ValueError(
                f"texts: {brief(unknown[0])} is not in {self.file!r}, which holds embeddings but no encoder; expected "
                "prompts of its own names"
            )
        return torch.tensor([[self.rows[text]] for text in texts])


def _prompts_of(stored: Stored) -> Iterator[tuple[list[str], Tensor]]:
    """Yield the prompts for each text of a file, with its embedding (d,). If a prompt repeats, the last one counts."""
    vectors, domains = stored.vectors, stored.vocabulary.domains
    for names, texts, templates in (
        (stored.other_names, "other_texts", TEMPLATES["free"]),
        (stored.common_names, "common_texts", ("{a}",)),
        (stored.vocabulary.classes, "texts_free", TEMPLATES["free"]),
    ):
        for name, vector in zip(names, vectors.get(texts, ()), strict=True):
            yield [format_prompt(t, name) for t in templates], vector
    means = F.normalize(vectors["texts_build"], dim=-1).mean(0)
    for domain, vector in zip(domains, vectors.get("domain_texts", means), strict=True):
        yield [format_prompt(t, "", domain) for t in DOMAIN_PROMPTS], vector
    for prompts in ("build", "domain"):
        for name, rows in zip(stored.vocabulary.classes, vectors.get(f"texts_{prompts}", ()), strict=False):
            for domain, vector in zip(domains, rows, strict=True):
                yield [format_prompt(t, name, domain) for t in TEMPLATES[prompts]], vector
    if "texts_forms" in vectors:
        for forms, rows in zip(stored.vocabulary.class_forms(), vectors["texts_forms"], strict=True):
            for form, vector in zip(forms, rows, strict=False):
                yield [form], vector


class StoredTower(nn.Module):
    """A stand-in for an image tower: embeddings (n, d) -> (n, d), through a projection for edits to act on."""

    preprocess_cfg: dict[str, Any] = {}
    image_size = 0

    def __init__(self, width: int):
        super().__init__()
        self.proj = nn.Parameter(torch.eye(width))

    def forward(self, z: Tensor) -> Tensor:
        return z @ self.proj


class StoredModel(nn.Module):
    """A stand-in for a CLIP. It takes embeddings instead of pictures, and rows of a table instead of tokens."""

    def __init__(self, stored: Stored, table: Tensor):
        super().__init__()
        self.stored, self.visual = stored, StoredTower(stored.width)
        self.register_buffer("table", table)
        self.logit_scale = nn.Parameter(torch.tensor(math.log(LOGIT_SCALE)))

    def encode_image(self, z: Tensor, normalize: bool = False) -> Tensor:
        z = self.visual(z)
        return F.normalize(z, dim=-1) if normalize else z

    def encode_text(self, rows: Tensor, normalize: bool = False) -> Tensor:
        return self.get_buffer("table")[rows[:, 0]]
