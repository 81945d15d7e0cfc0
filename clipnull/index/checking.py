"""What an index answers before and after an edit of it, or of its queries: to be seen before anything is switched."""

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ..edit import Edit
from ..errors import brief, import_extra, one_line
from ..files import aligned, read_lines
from ..vocabulary import TEMPLATES, Forget, format_prompt, words
from .files import Vectors, by_number, open_tables, reading

FIRST, RECALL = 10, 5
"""Answers that are looked at; the k of recall@k."""
MAX_QUERIES, SHOWN, MAX_STILL = 2000, 10, 5
"""Captions, and other queries, that are asked; queries that are printed; queries that still bring up a class."""
SIDES = ("before", "index edited", "query edited")
FIELDS = {  # of an .npz, each with its texts
    "texts": "captions", "class_texts": "class_names", "texts_free": "class_names", "other_texts": "other_names"
}  # fmt: skip
COLUMNS = ("caption", "captions", "text", "query", "name")


@dataclass(frozen=True, eq=False)
class Queries:
    """What is asked: embeddings (m, d) with their texts, and the row of the index that each describes, or -1."""

    vectors: Tensor
    texts: tuple[str, ...]
    rows: Tensor

    def place(self, name: str) -> int:
        """Which query asks for the class `name`: the name alone, or a prompt of it. Raises ValueError if none does."""
        place = {words(text): i for i, text in reversed([*enumerate(self.texts)])}
        for template in ("{n}", *TEMPLATES["free"], "a photo of {a}", "{a}"):
            if (i := place.get(words(format_prompt(template, name)))) is not None:
                return i
        raise ValueError(f"queries: none asks for {name!r}; expected its name among the texts, with its embedding")

    def at(self, places: list[int]) -> "Queries":
        return Queries(self.vectors[places], tuple(self.texts[i] for i in places), self.rows[places])


def read_queries(path: str | Path, rows: int, names: str | Path | None = None) -> Queries:
    """The queries in a file, for an index of so many rows.

    .npz: the arrays FIELDS. Parquet, and folders in clip-retrieval's layout: a column of texts, one of COLUMNS. Other
    files: their texts in a file of their own, `names`, one a line. As many captions as the index has rows describe
    them, in order.

    Raises ValueError that names what is wrong or missing.
    """
    path = Path(path)
    if path.suffix == ".npz" and names is None:
        parts, texts, captions = _fields_of(path)
    else:
        tables = open_tables(path, "queries")
        parts = [table.rows() for table in tables]
        texts = read_lines("names", names) if names else _columns(path, tables)
        captions = len(texts)
    n, widths = sum(map(len, parts)), {part.shape[1] for part in parts}
    if not parts or n != len(texts) or not all(isinstance(text, str) for text in texts):
        raise ValueError(
            f"queries: {str(path)!r} holds {n} vectors and {len(texts)} texts; expected one text for each, in the file "
            "or, one a line, in --names FILE"
        )
    if len(widths) > 1 or not all(part.isfinite().all() for part in parts):
        raise ValueError(f"queries: {str(path)!r} holds NaN, infinity or several widths; expected finite, of one width")
    place = torch.full((n,), -1)
    if captions == rows:
        place[:captions] = torch.arange(captions)
    return Queries(F.normalize(torch.cat(parts), dim=1), tuple(texts), place)


def _fields_of(path: Path) -> tuple[list[Tensor], list[str], int]:
    """The vectors and texts of a .npz, and how many of them are captions."""
    parts, texts, captions = [], [], 0
    try:
        with np.load(path, allow_pickle=False) as archive:
            for vectors, names in FIELDS.items():
                if not {vectors, names} <= {*archive.files}:
                    continue
                rows, labels = archive[vectors], archive[names].tolist()
                if rows.ndim != 2 or rows.dtype.kind != "f" or len(rows) != len(labels):
                    raise ValueError(f"{vectors} are not rows (m, d) of floating numbers, one for each of {names}")
                captions = len(labels) if names == "captions" else captions
                parts.append(torch.from_numpy(rows.astype(np.float32)))
                texts += labels
    except Exception as error:  # zlib and the parser of NumPy's headers have errors of their own
        raise ValueError(f"queries: {str(path)!r} cannot be read ({one_line(error)}); expected .npz") from error
    return parts, texts, captions


def _columns(path: Path, tables: list[Vectors]) -> list[str]:
    """The texts beside vectors: of a Parquet file, or of metadata/*.parquet in a folder."""
    files = sorted((path / "metadata").glob("*.parquet"), key=by_number) if path.is_dir() else [tables[0].path]
    texts: list[str] = []
    for file in (f for f in files if f.suffix == ".parquet"):
        parquet = import_extra("pyarrow.parquet", "index")
        with reading(file):
            known = [name for name in COLUMNS if name in parquet.read_schema(file).names]
            if known:
                texts += parquet.read_table(file, columns=known[:1]).column(0).to_pylist()
    return texts


def says(text: str, name: str) -> bool:
    """Whether a text names a class, as a word of its own, in the singular or the plural.

    >>> [says(text, "cat") for text in ("Two cats asleep.", "a category", "The cat's bed")]
    [True, False, True]
    """
    text, name = words(text), words(name)
    return name in text and re.search(rf"(?<!\w){re.escape(name)}(s|es)?(?!\w)", text) is not None


def check_index(edit: Edit, tables: Sequence[Vectors], queries: Queries) -> dict[str, Any]:
    """What an index answers before and after, on each side of SIDES; on the last only where `edit.queries` can.

    queries: for each that is no caption, `found`, how many of its pictures are among its first FIRST answers: pictures
    whose captions name it (`named`), else its first answers before; and `forgotten`, the class that it names, if any.
    still: for each forgotten class the other queries that bring up most of its pictures. kept: of the n captions that
    name no forgotten class, the percent that find their own picture among the first RECALL. Lists: a value a side.
    """
    if queries.vectors.shape[1] != len(edit.left):
        raise ValueError(f"queries: {queries.vectors.shape[1]} wide; expected {len(edit.left)}, as the index is")
    names = forgotten(edit)
    classes = [queries.place(name) for name in names]
    rows = queries.rows.tolist()
    captions = [i for i, row in enumerate(rows) if row >= 0]
    others = [i for i, row in enumerate(rows) if row < 0]
    described = [(rows[i], words(queries.texts[i])) for i in captions]
    some = {i for group in (captions, others) for i in group[:: max(1, -(-len(group) // MAX_QUERIES))]}
    chosen = sorted(some | {*classes})
    queries, classes = queries.at(chosen), [chosen.index(i) for i in classes]
    answers = _answers(edit, tables, queries)

    def found(i: int, pictures: Tensor) -> list[int]:
        return [int(torch.isin(rows[i], pictures).sum()) for rows in answers]

    asked = [i for i, row in enumerate(queries.rows.tolist()) if row < 0 or i in classes]
    pictures, result = {}, {"sides": [*SIDES[: len(answers)]], "queries": {}, "still": {}}
    for i in asked:
        text = queries.texts[i]
        about = names[classes.index(i)] if i in classes else next((n for n in names if says(text, n)), None)
        key = words(about or text)
        named = [row for row, caption in described if key in caption and says(caption, key)]
        pictures[i] = torch.tensor(named) if named else answers[0][i]
        result["queries"][text] = {"forgotten": about, "named": bool(named), "found": found(i, pictures[i])}
    for name, place in zip(names, classes, strict=True):
        hits = {queries.texts[i]: found(i, pictures[place]) for i in asked if not says(queries.texts[i], name)}
        worst = sorted((text for text in hits if max(hits[text][1:])), key=lambda text: -max(hits[text][1:]))
        result["still"][name] = {text: hits[text] for text in worst[:MAX_STILL]}
    kept = [i for i, row in enumerate(queries.rows) if row >= 0 and not any(says(queries.texts[i], n) for n in names)]
    recalled = [(rows[:, :RECALL] == queries.rows[:, None]).any(1)[kept].double() for rows in answers]
    result["kept"] = {"n": len(kept), "percent": [100 * float(side.mean()) for side in recalled] if kept else []}
    return result


def forgotten(edit: Edit) -> list[str]:
    """The classes that an edit forgets, in every domain or in some."""
    request: Any = Forget.from_dict(edit.request) if isinstance(edit.request, dict) else edit.request
    if request is None:
        return []
    return list(dict.fromkeys(c for part in (replace(request, also=()), *request.also) for c in part.classes or ()))


def _answers(edit: Edit, tables: Sequence[Vectors], queries: Queries) -> list[Tensor]:
    """On each side, the first FIRST rows for each query, (m, FIRST)."""
    texts = [queries.vectors] * 2
    if edit.linear and edit.bias is None:
        texts.append(F.normalize(edit.queries(queries.vectors), dim=1))
    best = [(torch.empty(len(t), 0), torch.empty(len(t), 0, dtype=torch.int64)) for t in texts]
    start = 0
    for chunk in (chunk for table in tables for chunk in table.chunks()):
        z = torch.nan_to_num(F.normalize(chunk.float(), dim=1))
        for side, (x, t) in enumerate(zip((z, F.normalize(edit.images(z), dim=1), z), texts, strict=False)):
            scores = torch.cat([best[side][0], t @ x.T], dim=1)
            rows = torch.cat([best[side][1], torch.arange(start, start + len(x)).expand(len(t), -1)], dim=1)
            top = scores.topk(min(FIRST, scores.shape[1]), dim=1)
            best[side] = top.values, rows.gather(1, top.indices)
        start += len(chunk)
    return [rows for _, rows in best]


def format_check(result: dict[str, Any]) -> str:
    """What `check_index` gives, as plain text: the forgotten classes, and what other queries lose, the worst first."""
    entries = sorted(result["queries"].items(), key=lambda item: min(item[1]["found"][1:]) - item[1]["found"][0])
    kept, rows = result["kept"], []
    for about in (True, False):
        some = [(text, entry) for text, entry in entries if bool(entry["forgotten"]) == about][:SHOWN]
        rows += [(f"{brief(text)}{', forgotten' if about else ''}", *entry["found"]) for text, entry in some]
    for name, still in result["still"].items():
        rows += [(f"pictures of {name} by {brief(text)}", *hits) for text, hits in still.items()]
    if kept["n"]:
        percents = (f"{percent:.1f}" for percent in kept["percent"])
        rows.append((f"own picture among the first {RECALL}, percent of {kept['n']} kept captions", *percents))
    return aligned(rows, [f"among the first {FIRST} answers", *result["sides"]])
