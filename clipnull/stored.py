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

import json
import math
import sys
import zipfile
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .errors import brief, one_line, one_of, printable, shorten
from .vocabulary import DOMAIN_PROMPTS, TEMPLATES, Vocabulary, format_prompt

SUFFIX = ".npz"
VECTORS = {
    "images": ("n", "d"), "texts_build": ("C", "K", "d"), "texts_free": ("C", "d"), "texts_domain": ("C", "K", "d"),
    "domain_texts": ("K", "d"), "prototypes": ("C", "K", "d"), "image_mean": ("d",), "other_images": ("m", "d"),
    "other_texts": ("w", "d"), "common_texts": ("v", "d"),
}  # fmt: skip
NAMES = {
    "classes": ("n",),
    "domains": ("n",),
    "class_names": ("C",),
    "domain_names": ("K",),
    "other_names": ("w",),
    "common_names": ("v",),
}
WORDS = ("model", "pretrained", "fingerprint", "note")
NEEDED = ("images", "classes", "domains", "class_names", "domain_names", "texts_build", "texts_free")
OTHERS = {"prototype_mask": ("C", "K"), **dict.fromkeys(WORDS, ())}
LAYOUT = VECTORS | NAMES | OTHERS
SHORTEST = 1e-12  # what PyTorch divides a shorter vector by in place of its length
LOGIT_SCALE = 100.0
"""OpenAI's, and the largest that most CLIPs are trained with: the file does not tell."""


@dataclass(frozen=True, eq=False)
class Stored:
    """What a file of embeddings holds, checked. Optional fields that it lacks are not in `vectors` or `words`.

    Attributes
    ----------
    path : Path
    vocabulary : Vocabulary
        In the file's order.
    classes, domains : (n,) int64
        Places in the vocabulary.
    vectors : dict of str to Tensor
        By field, float32. A row of `prototypes` whose cell has none is zero.
    other_names : tuple of str
    words : dict of str to str
        `model`, `pretrained`, `fingerprint`, `note`.
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
    """The embeddings in a file, every field checked. Nothing in it is run.

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
            found = {name: archive[name] for name in archive.files if name in LAYOUT}
            unknown = [name for name in archive.files if name not in LAYOUT]
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile, NotImplementedError, MemoryError) as error:
        raise _refused(path, f"cannot be read ({one_line(error)})", "a NumPy archive of plain arrays") from error
    except Exception as error:  # zlib and the parser of NumPy's headers have errors of their own
        raise _refused(path, f"cannot be read ({type(error).__name__})", "a NumPy archive of plain arrays") from error
    for name in unknown:
        try:
            one_of("field", name, LAYOUT)
        except ValueError as error:
            raise _refused(
                path, f"holds an unknown field: {one_line(error)}", "the fields of clipnull.stored"
            ) from None
    if missing := [name for name in NEEDED if name not in found]:
        raise _refused(path, f"lacks {', '.join(missing)}", f"the fields {', '.join(NEEDED)}")
    if strange := [name for name, value in found.items() if not isinstance(value, np.ndarray)]:
        raise _refused(path, f"holds {', '.join(strange)} as bytes", "arrays of NumPy")
    _check_shapes(path, found)
    names = {name: _texts(path, name, found[name]) for name in NAMES if name in found}
    try:
        vocabulary = Vocabulary(names["class_names"], names["domain_names"])
    except ValueError as error:
        raise _refused(path, f"has unfit names: {one_line(error)}", "distinct names, two classes or more") from None
    classes = _places(path, "classes", names["classes"], vocabulary.classes)
    domains = _places(path, "domains", names["domains"], vocabulary.domains)
    mask = found.get("prototype_mask", np.ones(vocabulary.shape, bool))
    if mask.dtype != bool:
        raise _refused(path, f"holds prototype_mask as {mask.dtype}", "bool")
    mask = (mask.view(np.uint8) != 0) & ("prototypes" in found)  # a true one may be any byte but zero
    vectors = {name: _rows(path, name, found[name], mask) for name in VECTORS if name in found}
    words = {name: _texts(path, name, found[name].reshape(1))[0] for name in WORDS if name in found}
    other, common = (tuple(names.get(name, ())) for name in ("other_names", "common_names"))
    return Stored(path, vocabulary, classes, domains, vectors, other, common, words, torch.from_numpy(mask))


def _refused(path: Path, what: str, expected: str) -> ValueError:
    return ValueError(f"file: {str(path)!r} {what}; expected {expected}")


def _check_shapes(path: Path, found: dict[str, np.ndarray]) -> None:
    sizes: dict[str, tuple[int, str]] = {}
    for name, axes in LAYOUT.items():
        if name not in found:
            continue
        shape = found[name].shape
        if len(shape) != len(axes) or 0 in shape:
            raise _refused(path, f"holds {name} of shape {shape}", f"({', '.join(axes)}), none of them zero")
        for axis, size in zip(axes, shape, strict=True):
            known, first = sizes.setdefault(axis, (size, name))
            if size != known:
                raise _refused(path, f"holds {name} of shape {shape}", f"{axis} = {known}, as in {first}")
    for texts, names in (("other_texts", "other_names"), ("common_texts", "common_names")):
        if (texts in found) != (names in found):
            raise _refused(path, f"holds only one of {texts} and {names}", "both or none")


def _texts(path: Path, name: str, values: np.ndarray) -> list[str]:
    if values.dtype.kind != "U":
        raise _refused(path, f"holds {name} as {values.dtype}", "texts")
    codes = np.frombuffer(values.tobytes(), np.dtype("u4").newbyteorder(values.dtype.byteorder))
    if codes.max(initial=0) > sys.maxunicode:  # of which Python would make strings that crash it
        raise _refused(path, f"holds {name} with characters that there are not", "Unicode")
    texts = values.tolist()
    if strange := [text for text in {*texts} if not printable(text)]:
        raise _refused(path, f"holds {name} that cannot be printed, such as {brief(min(strange))}", "texts")
    return texts


def _places(path: Path, name: str, values: Sequence[str], known: Sequence[str]) -> Tensor:
    place = {label: i for i, label in enumerate(known)}
    if strange := sorted({*values} - {*known}):
        told, names = (shorten(text[:60] for text in texts) for texts in (strange, known))
        raise _refused(path, f"holds {name} without a name: {told}", names)
    return torch.tensor([place[value] for value in values])


def _rows(path: Path, name: str, values: np.ndarray, mask: np.ndarray) -> Tensor:
    if values.dtype.kind != "f":
        raise _refused(path, f"holds {name} as {values.dtype}", "floating-point numbers")
    with np.errstate(over="ignore"):  # what is too large is refused below
        rows = torch.from_numpy(values.astype(np.float32, copy=False))
    if name == "prototypes":
        rows[~torch.from_numpy(mask)] = 0.0
    length = rows.reshape(-1, rows.shape[-1]).norm(dim=1)
    if not length.isfinite().all():
        row = int((~length.isfinite()).nonzero()[0])
        raise _refused(path, f"holds NaN, infinite or too large values in row {row} of {name}", "finite ones")
    needs = torch.from_numpy(mask).flatten() if name == "prototypes" else torch.ones(len(length), dtype=torch.bool)
    if bool((length[needs] <= SHORTEST).any()):
        row = int(((length <= SHORTEST) & needs).nonzero()[0])
        raise _refused(path, f"holds a row of length zero: {row} of {name}", "vectors with a direction")
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


# --- Names in a file: a vocabulary, one class a line; or class names with their text embeddings, in place of a model.

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
