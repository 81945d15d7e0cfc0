"""Stored embeddings: what a CLIP made of pictures and prompts, in one file, for machines without that CLIP.

A file is a NumPy archive (.npz) without pickles; LAYOUT names its fields and their axes: C classes, K domains, n
pictures, d the width of the joint space, F forms of a class. Rows need not have unit length. A file of TEXTS_ALONE
serves where no pictures are needed; whatever else it holds is not read, and its one domain is `DOMAIN`.

Every function of the library takes such a file as it takes an encoder. What needs more, prompts of one's own or a
gradient on pixels, says that there is no encoder.
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
    "texts_build": "CKd",  # texts that name class and domain, in the wording that builds edits
    "texts_free": "Cd",  # texts that name no domain
    "texts_domain": "CKd",  # optional, as all below: class and domain in held-out wording
    "texts_forms": "CFd",  # each class in its forms (`Vocabulary.forms_of`)
    "domain_texts": "Kd",  # texts that name a domain and no object
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
    "other_names": "w",  # optional, as all below
    "common_names": "v",
    "files": "n",  # of each picture
    "dropped": "b",  # the files of broken pictures, which have no row
}
WORDS = dict.fromkeys(("model", "pretrained", "fingerprint", "note"), "")  # optional texts
LAYOUT = VECTORS | NAMES | WORDS | {"prototype_mask": "CK"}  # bool, optional: which cells have a prototype
NEEDED = ("images", "classes", "domains", "class_names", "domain_names", "texts_build", "texts_free")
TEXTS_ALONE = {"class_names": "C", "class_texts": "Cd", "model": "", "pretrained": "", "fingerprint": ""}
EDITED = "clipnull_edited"
"""What `clipnull apply` adds to a file: the side that it edited, and the patches."""
SHORTEST = 1e-12  # PyTorch divides a shorter vector by this in place of its length
LOGIT_SCALE = 100.0
"""OpenAI's, and the largest that most CLIPs are trained with: the file holds none."""


@dataclass(frozen=True, eq=False)
class Stored:
    """What a file of embeddings holds, checked. Optional fields that it lacks are not in `vectors` or `words`.

    classes, domains: (n,) int64, places in the vocabulary. vectors: float32 by field; a row of `prototypes` whose cell
    has none is zero. words: by field. mask: (C, K) bool: which cells have a prototype.
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
    """Whether `place`, a name or a path, is meant to be a file of embeddings: by its ending."""
    return isinstance(place, (str, Path)) and str(place).endswith(SUFFIX)


def read_stored(path: str | Path) -> Stored:
    """The embeddings in a file, every field checked. No code in it is run.

    Raises ValueError that names the file and the field that is missing, misspelt, or not as the tables above say.
    """
    path = Path(path)
    if not path.is_file():
        raise ValueError(f"file: {str(path)!r} is not there; expected a file of embeddings, as of `clipnull embed`")
    try:
        with np.load(path, allow_pickle=False) as archive:
            return _checked(path, archive)
    except Exception as error:  # zlib and the parser of NumPy's headers have errors of their own
        reason = one_line(error, 1_000) or type(error).__name__
        raise ValueError(f"file: {str(path)!r} is no file of embeddings: {reason}") from error


def _checked(path: Path, archive: Any) -> Stored:
    fields, edited = archive.files, str(archive[EDITED]) if EDITED in archive.files else ""
    texts_alone = "class_texts" in fields and "texts_build" not in fields
    if edited and (edited.startswith("queries") or not texts_alone):
        raise ValueError("it holds edited embeddings; expected them as they were (`clipnull undo`)")
    layout, needed = (TEXTS_ALONE, ("class_names", "class_texts")) if texts_alone else (LAYOUT, NEEDED)
    if not texts_alone:
        fields = [one_of("field", name, LAYOUT) for name in fields]
    if missing := [name for name in needed if name not in fields]:
        raise ValueError(f"it lacks {', '.join(missing)}; expected the fields {', '.join(needed)}")
    for texts, names in (("other_texts", "other_names"), ("common_texts", "common_names")):
        if (texts in fields) != (names in fields):
            raise ValueError(f"{texts}, {names}: only one is given; expected both or none")
    arrays = {name: _array(name, archive[name]) for name in fields if name in layout}
    validate_shapes(layout, arrays)
    if texts_alone:
        free = arrays.pop("class_texts")
        arrays |= {"texts_free": free, "texts_build": free[:, None], "domain_names": np.array([DOMAIN])}
    texts = {name: _texts(name, arrays[name].reshape(-1)) for name in (*NAMES, *WORDS) if name in arrays}
    vocabulary = Vocabulary(texts["class_names"], texts["domain_names"])
    mask = arrays.get("prototype_mask", np.ones(vocabulary.shape, bool))
    mask = torch.from_numpy((mask.view(np.uint8) != 0) & ("prototypes" in arrays))  # True may be any byte but zero
    lists = ("other_names", "common_names", "files", "dropped")
    return Stored(
        path,
        vocabulary,
        _places("classes", texts.get("classes", []), vocabulary.classes),
        _places("domains", texts.get("domains", []), vocabulary.domains),
        {name: _rows(name, arrays[name], mask) for name in VECTORS if name in arrays},
        {name: texts[name][0] for name in WORDS if name in texts},
        mask,
        **{name: tuple(texts[name]) for name in lists if name in texts},
    )


def _array(name: str, value: Any) -> np.ndarray:
    kind, expected = ("b", "bool") if name == "prototype_mask" else ("f", "floating-point numbers")
    if name in NAMES or name in WORDS:
        kind, expected = "U", "texts"
    dtype = getattr(value, "dtype", None)  # a member that is no .npy is bytes
    if dtype is None or dtype.kind != kind:
        raise ValueError(f"{name}: {dtype or 'bytes'}; expected {expected}")
    return value


def _texts(name: str, values: np.ndarray) -> list[str]:
    codes = np.frombuffer(values.tobytes(), np.dtype("u4").newbyteorder(values.dtype.byteorder))
    if codes.max(initial=0) > sys.maxunicode:  # Python would make strings of them that crash it
        raise ValueError(f"{name}: characters that do not exist; expected Unicode")
    texts = values.tolist()
    if unprintable := [text for text in {*texts} if not printable(text)]:
        raise ValueError(f"{name}: {brief(min(unprintable))} cannot be printed; expected plain text")
    return texts


def _places(field: str, labels: Sequence[str], names: Sequence[str]) -> Tensor:
    place = {name: i for i, name in enumerate(names)}
    if unknown := sorted({*labels} - {*names}):
        some, expected = (shorten(text[:60] for text in texts) for texts in (unknown, names))
        raise ValueError(f"{field}: {some} not among the names; expected {expected}")
    return torch.tensor([place[label] for label in labels])


def _rows(name: str, values: np.ndarray, mask: Tensor) -> Tensor:
    with np.errstate(over="ignore"):  # what is too large is refused below
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
    """In place of a tokenizer: a list of n texts -> (n, 1), the row of each in the table of a `StoredModel`.

    It knows the prompts that the library makes of the names in the file, and raises ValueError for others.
    """

    def __init__(self, stored: Stored):
        pairs = list(_prompts_of(stored))
        self.file = str(stored.path)
        self.rows = {prompt: row for row, (prompts, _) in enumerate(pairs) for prompt in prompts}
        self.table = torch.stack([F.normalize(vector, dim=-1) for _, vector in pairs])

    def __call__(self, texts: Sequence[str]) -> Tensor:
        for text in texts:
            if text not in self.rows:
                raise ValueError(
                    f"texts: {brief(text)} is not in {self.file!r}, which holds embeddings and no encoder; expected "
                    "prompts of its own names"
                )
        return torch.tensor([[self.rows[text]] for text in texts])


def _prompts_of(stored: Stored) -> Iterator[tuple[list[str], Tensor]]:
    """The prompts that stand for each text of a file, and its embedding (d,); of equal prompts the last counts."""
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
    """In place of an image tower: embeddings (n, d) -> (n, d), through a projection on which edits act."""

    preprocess_cfg: dict[str, Any] = {}
    image_size = 0

    def __init__(self, width: int):
        super().__init__()
        self.proj = nn.Parameter(torch.eye(width))

    def forward(self, z: Tensor) -> Tensor:
        return z @ self.proj


class StoredModel(nn.Module):
    """In place of a CLIP: embeddings go in where pictures would, and places in a table where tokens would."""

    def __init__(self, stored: Stored, table: Tensor):
        super().__init__()
        self.stored, self.visual = stored, StoredTower(stored.width)
        self.register_buffer("table", table)
        self.logit_scale = nn.Parameter(torch.tensor(math.log(LOGIT_SCALE)))

    def encode_image(self, z: Tensor, normalize: bool = False) -> Tensor:
        z = self.visual(z)
        return F.normalize(z, dim=-1) if normalize else z

    def encode_text(self, places: Tensor, normalize: bool = False) -> Tensor:
        table: Any = self.table
        return table[places[:, 0]]
