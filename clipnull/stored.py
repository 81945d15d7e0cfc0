"""Stored embeddings: what a CLIP made of pictures and prompts, in one file, for machines without that CLIP.

A file is a NumPy archive (.npz) without pickles. C classes, K domains, n pictures, d the width of the joint space; rows
need not have unit length:

| field | shape | |
|---|---|---|
| `images` | (n, d) | embeddings of pictures |
| `classes`, `domains` | (n,) | their names |
| `class_names`, `domain_names` | (C,), (K,) | all names |
| `texts_build` | (C, K, d) | texts that name class and domain, in the wording that builds edits |
| `texts_free` | (C, d) | texts that name no domain |
| `texts_domain` | (C, K, d) | optional: class and domain in held-out wording |
| `domain_texts` | (K, d) | optional: texts that name a domain and no object |
| `prototypes`, `prototype_mask` | (C, K, d), (C, K) | optional: of synthesized pictures, and which cells have one |
| `image_mean` | (d,) | optional: the raw mean of unrelated pictures |
| `other_images` | (m, d) | optional: unrelated pictures |
| `other_texts`, `other_names` | (w, d), (w,) | optional: words that no request mentions |
| `common_texts`, `common_names` | (v, d), (v,) | optional: common words that edits leave alone |
| `model`, `pretrained`, `fingerprint`, `note` | () | optional texts |

Every function of the library takes such a file as it takes an encoder: its tower is the identity, its tokenizer looks a
prompt up. What needs more, prompts of one's own or a gradient on pixels, says that there is no encoder.
"""

import math
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .errors import brief, one_line, one_of, printable, shorten
from .vocabulary import DOMAIN, DOMAIN_PROMPTS, TEMPLATES, Vocabulary, format_prompt

SUFFIX = ".npz"
VECTORS = {
    "images": ("n", "d"), "texts_build": ("C", "K", "d"), "texts_free": ("C", "d"), "texts_domain": ("C", "K", "d"),
    "domain_texts": ("K", "d"), "prototypes": ("C", "K", "d"), "image_mean": ("d",), "other_images": ("m", "d"),
    "other_texts": ("w", "d"), "common_texts": ("v", "d"),
}  # fmt: skip
NAMES = {
    "classes": ("n",), "domains": ("n",), "class_names": ("C",), "domain_names": ("K",), "other_names": ("w",),
    "common_names": ("v",),
}  # fmt: skip
WORDS = ("model", "pretrained", "fingerprint", "note")
NEEDED = ("images", "classes", "domains", "class_names", "domain_names", "texts_build", "texts_free")
LAYOUT = VECTORS | NAMES | {"prototype_mask": ("C", "K")} | dict.fromkeys(WORDS, ())
KINDS = {"f": "floating-point numbers", "U": "texts", "b": "bool"}
SHORTEST = 1e-12  # PyTorch divides a shorter vector by this in place of its length
LOGIT_SCALE = 100.0
"""OpenAI's, and the largest that most CLIPs are trained with: the file holds none."""


@dataclass(frozen=True, eq=False)
class Stored:
    """What a file of embeddings holds, checked. Optional fields that it lacks are not in `vectors` or `words`.

    classes, domains: (n,) int64, places in the vocabulary. vectors: float32 by field; a row of `prototypes` whose cell
    has none is zero. words: `model`, `pretrained`, `fingerprint`, `note`. mask: (C, K) bool: which cells have one.
    """

    path: Path
    vocabulary: Vocabulary
    classes: Tensor
    domains: Tensor
    vectors: dict[str, Tensor] = field(repr=False)
    other_names: tuple[str, ...] = field(repr=False)
    common_names: tuple[str, ...] = field(repr=False)
    words: dict[str, str]
    mask: Tensor = field(repr=False)

    @property
    def width(self) -> int:
        return self.vectors["texts_free"].shape[1]


def is_stored(place: object) -> bool:
    """Whether `place`, a name or a path, is meant to be a file of embeddings: by its ending."""
    return isinstance(place, (str, Path)) and str(place).endswith(SUFFIX)


def left_out(what: str) -> None:
    """Say in one line what a notebook leaves out, as a file of embeddings does not have what it needs."""
    print(f"Left out, as the file of embeddings lacks what it needs: {what}.")


def read_stored(path: str | Path) -> Stored:
    """The embeddings in a file, every field checked. No code in it is run.

    Raises ValueError that names the file and the field: for one that is missing, misspelt or of another shape than the
    others say, for labels that are not among the names, for NaN, infinite or zero rows, and for objects (pickles).
    """
    path = Path(path)
    if not path.is_file():
        raise ValueError(
            f"file: {str(path)!r} is not there; expected a file of embeddings, as `clipnull embed` writes it"
        )
    try:
        with np.load(path, allow_pickle=False) as archive:
            arrays = {name: archive[name] for name in archive.files if name in LAYOUT}
            unknown = [name for name in archive.files if name not in LAYOUT]
    except Exception as error:  # zlib and the parser of NumPy's headers have errors of their own
        reason = one_line(error) or type(error).__name__
        raise ValueError(
            f"file: {str(path)!r} cannot be read ({reason}); expected a NumPy archive of plain arrays"
        ) from error
    missing = [name for name in NEEDED if name not in arrays]
    if missing and not unknown:  # a misspelt field is named below
        raise ValueError(f"file: {str(path)!r} lacks {', '.join(missing)}; expected the fields {', '.join(NEEDED)}")
    try:
        for name in unknown:
            one_of("field", name, LAYOUT)
        return _checked(path, arrays)
    except ValueError as error:
        raise ValueError(f"file: {str(path)!r} is not valid: {one_line(error, 1_000)}") from None


def _checked(path: Path, arrays: dict[str, np.ndarray]) -> Stored:
    for texts, names in (("other_texts", "other_names"), ("common_texts", "common_names")):
        if (texts in arrays) != (names in arrays):
            raise ValueError(f"{texts}, {names}: only one is given; expected both or none")
    _validate_kinds(arrays)
    _validate_shapes(arrays)
    names = {name: _texts(name, arrays[name]) for name in NAMES if name in arrays}
    vocabulary = Vocabulary(names["class_names"], names["domain_names"])
    mask = arrays.get("prototype_mask", np.ones(vocabulary.shape, bool))
    mask = torch.from_numpy((mask.view(np.uint8) != 0) & ("prototypes" in arrays))  # True may be any byte but zero
    return Stored(
        path,
        vocabulary,
        _places("classes", names["classes"], vocabulary.classes),
        _places("domains", names["domains"], vocabulary.domains),
        {name: _rows(name, arrays[name], mask) for name in VECTORS if name in arrays},
        tuple(names.get("other_names", ())),
        tuple(names.get("common_names", ())),
        {name: _texts(name, arrays[name].reshape(1))[0] for name in WORDS if name in arrays},
        mask,
    )


def _validate_kinds(arrays: dict[str, np.ndarray]) -> None:
    for name, value in arrays.items():
        kind = "f" if name in VECTORS else "b" if name == "prototype_mask" else "U"
        dtype = getattr(value, "dtype", None)  # a member that is no .npy is bytes
        if dtype is None or dtype.kind != kind:
            raise ValueError(f"{name}: {dtype or 'bytes'}; expected {KINDS[kind]}")


def _validate_shapes(arrays: dict[str, np.ndarray]) -> None:
    sizes: dict[str, tuple[int, str]] = {}
    for name, axes in LAYOUT.items():
        if name not in arrays:
            continue
        shape = arrays[name].shape
        if len(shape) != len(axes) or 0 in shape:
            raise ValueError(f"{name}: shape {shape}; expected ({', '.join(axes)}), none of them zero")
        for axis, size in zip(axes, shape, strict=True):
            first_size, first = sizes.setdefault(axis, (size, name))
            if size != first_size:
                raise ValueError(f"{name}: shape {shape}; expected {axis} = {first_size}, as in {first}")


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
    if name == "prototypes":
        rows[~mask] = 0.0
    length = rows.reshape(-1, rows.shape[-1]).norm(dim=1)
    if not length.isfinite().all():
        row = int((~length.isfinite()).nonzero()[0])
        raise ValueError(f"{name}: NaN, infinite or too large values in row {row}; expected finite ones")
    zero = length <= SHORTEST
    if name == "prototypes":
        zero &= mask.flatten()
    if zero.any():
        raise ValueError(f"{name}: row {int(zero.nonzero()[0])} has length zero; expected a direction")
    return rows


class StoredTexts:
    """In place of a tokenizer: a list of n texts -> (n, 1), the row of each in the table of a `StoredModel`.

    It knows the prompts that the library makes of the names in the file, and raises ValueError for others.
    """

    def __init__(self, stored: Stored):
        classes, domains = stored.vocabulary.classes, stored.vocabulary.domains
        self.rows: dict[str, int] = {}
        self.file, vectors, parts = str(stored.path), stored.vectors, []

        def put(prompts: Iterable[str], vector: Tensor) -> None:
            for prompt in prompts:
                self.rows[prompt] = len(parts)
            parts.append(F.normalize(vector, dim=-1))

        for i, name in enumerate(stored.other_names):
            put([format_prompt(t, name) for t in TEMPLATES["free"]], vectors["other_texts"][i])
        for i, name in enumerate(stored.common_names):
            put([format_prompt("{a}", name)], vectors["common_texts"][i])
        for k, domain in enumerate(domains):
            texts = F.normalize(vectors["texts_build"][:, k], dim=-1)
            named = vectors["domain_texts"][k] if "domain_texts" in vectors else texts.mean(0)
            put([format_prompt(t, "", domain) for t in DOMAIN_PROMPTS], named)
        for c, name in enumerate(classes):
            put([format_prompt(t, name) for t in TEMPLATES["free"]], vectors["texts_free"][c])
            for k, domain in enumerate(domains):
                for prompts in ("build", "domain"):
                    if f"texts_{prompts}" in vectors:
                        put(
                            [format_prompt(t, name, domain) for t in TEMPLATES[prompts]],
                            vectors[f"texts_{prompts}"][c, k],
                        )
        self.table = torch.stack(parts)

    def __call__(self, texts: Sequence[str]) -> Tensor:
        for text in texts:
            if text not in self.rows:
                raise ValueError(
                    f"texts: {brief(text)} is not in {self.file!r}, which holds embeddings and no encoder; expected "
                    "prompts of its own names"
                )
        return torch.tensor([[self.rows[text]] for text in texts])


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


def has_texts_alone(path: str | Path) -> bool:
    """Whether a .npz holds `class_texts`, and none of the texts of a whole file of embeddings."""
    try:
        with np.load(path, allow_pickle=False) as archive:
            return "class_texts" in archive.files and "texts_build" not in archive.files
    except Exception:  # whatever is wrong, `read_stored` says it
        return False


def read_texts(path: str | Path) -> Stored:
    """Class names with one text embedding each, as a file of embeddings without pictures and with one domain, DOMAIN.

    A .npz of `class_names` (C,) and `class_texts` (C, d), and perhaps `model`, `pretrained` and `fingerprint`; whatever
    else it holds is not read. Raises ValueError that names the file for anything else, as `read_stored` does.
    """
    path = Path(path)
    with np.load(path, allow_pickle=False) as archive:
        try:
            names, texts = archive["class_names"], archive["class_texts"]
            words = {word: str(archive[word]) for word in WORDS if word in archive.files}
            if names.ndim != 1 or texts.ndim != 2 or len(names) != len(texts) or texts.dtype.kind != "f":
                raise ValueError(f"class_names of shape {names.shape}, class_texts {texts.dtype} of {texts.shape}")
            rows = _rows("class_texts", texts, torch.empty(0))
            vocabulary = Vocabulary([str(name) for name in names.tolist()], [DOMAIN])
        except Exception as error:  # zlib and the parser of NumPy's headers have errors of their own
            raise ValueError(
                f"file: {str(path)!r} holds no valid texts ({one_line(error)}); expected class_names (C,) and "
                "class_texts (C, d)"
            ) from error
    labels = torch.empty(0, dtype=torch.int64)
    vectors = {"texts_free": rows, "texts_build": rows[:, None]}
    return Stored(path, vocabulary, labels, labels, vectors, (), (), words, torch.zeros(len(rows), 1).bool())
