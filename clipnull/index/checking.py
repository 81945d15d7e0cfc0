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
from ..files import read_lines
from ..vocabulary import TEMPLATES, Forget, format_prompt, words
from .files import Vectors, open_tables, reading

FIRST, RECALL = 10, 5
"""Answers that are looked at; the k of recall@k."""
MAX_QUERIES, MAX_STILL = 2000, 5
"""Captions, and other queries, that are asked; queries shown that still bring up pictures of a class."""
SIDES = ("before", "index edited", "query edited")
FIELDS = (
    ("texts", "captions"),
    ("class_texts", "class_names"),
    ("texts_free", "class_names"),
    ("other_texts", "other_names"),
)
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


def read_queries(path: str | Path, rows: int, names: str | Path | None = None) -> Queries:
    """The queries in a file, for an index of so many rows.

    .npz: `texts` with `captions`, `class_texts` or `texts_free` with `class_names`, `other_texts` with `other_names`.
    Parquet, and folders in clip-retrieval's layout: a column of texts, called as one of COLUMNS. Other files: their
    texts in a file of their own, `names`, one a line. As many captions as the index has rows describe them, in order.

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
    place = torch.full((len(texts),), -1)
    if captions == rows:
        place[:captions] = torch.arange(captions)
    return Queries(F.normalize(torch.cat(parts), dim=1), tuple(texts), place)


def _fields_of(path: Path) -> tuple[list[Tensor], list[str], int]:
    """The vectors and texts of a .npz, and how many of them are captions."""
    parts, texts, captions = [], [], 0
    try:
        with np.load(path, allow_pickle=False) as archive:
            for vectors, names in FIELDS:
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
    files = sorted((path / "metadata").glob("*.parquet")) if path.is_dir() else [tables[0].path]
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
    return re.search(rf"(?<!\w){re.escape(words(name))}(s|es)?(?!\w)", words(text)) is not None


def check_index(edit: Edit, tables: Sequence[Vectors], queries: Queries) -> dict[str, Any]:
    """What an index answers before and after, on each side of SIDES; on the last only where `edit.queries` can.

    words: for each forgotten class `k`, its number of pictures, and `precision`, their share among the first k answers
    to its name. Its pictures are those whose captions name it (`named`), else the first FIRST answers before the edit.
    kept: recall@RECALL in percent of the n captions that name no forgotten class, `to_image` and back, `to_text`.
    collateral: percent of the n other queries whose first answer is another. still: queries that still bring up
    pictures of the class, with their share among the first k. Shares and percents are lists, one value a side.
    """
    if queries.vectors.shape[1] != len(edit.left):
        raise ValueError(f"queries: {queries.vectors.shape[1]} wide; expected {len(edit.left)}, as the index is")
    names = forgotten(edit)
    pictures = {name: queries.rows[[says(text, name) for text in queries.texts]] for name in names}
    pictures = {name: rows[rows >= 0] for name, rows in pictures.items()}
    queries = _chosen(queries, [queries.place(name) for name in names])
    query_of = {name: queries.place(name) for name in names}
    about = {name: {i for i, text in enumerate(queries.texts) if says(text, name)} for name in names}
    captions = [i for i, row in enumerate(queries.rows.tolist()) if row >= 0]
    others = [i for i, row in enumerate(queries.rows.tolist()) if row < 0 and i not in query_of.values()] or captions
    kept = [i for i in captions if not any(i in rows for rows in about.values())]
    rest = [i for i in others if not any(i in rows for rows in about.values())]
    answers, own = _answers(edit, tables, queries, max([FIRST, RECALL, *map(len, pictures.values())]))
    result: dict[str, Any] = {"sides": list(SIDES[: len(answers)]), "words": {}, "still": {}}
    for name in names:
        rows = pictures[name] if len(pictures[name]) else answers[0][query_of[name], :FIRST]
        hits = torch.stack([torch.isin(x[:, : len(rows)], rows).double().mean(1) for x in answers], dim=1).tolist()
        word = {"k": len(rows), "named": bool(len(pictures[name])), "precision": hits[query_of[name]]}
        result["words"][name] = word
        still = sorted((i for i in others if i not in about[name]), key=lambda i: -max(hits[i][1:]))[:MAX_STILL]
        result["still"][name] = {queries.texts[i]: hits[i] for i in still if max(hits[i][1:]) > 0}

    def percent(values: list[Tensor], places: list[int]) -> list[float]:
        return [100 * float(value[places].double().mean()) for value in values] if places else []

    recalled = [(x[:, :RECALL] == queries.rows[:, None]).any(1) for x in answers]
    result["collateral"] = {"n": len(rest), "percent": percent([x[:, 0] != answers[0][:, 0] for x in answers], rest)}
    result["kept"] = {"n": len(kept), "to_image": percent(recalled, kept), "to_text": percent(own, kept)}
    return result


def _chosen(queries: Queries, needed: list[int]) -> Queries:
    """At most MAX_QUERIES captions and as many others, evenly chosen, and those that are `needed`."""
    groups = [[i for i, row in enumerate(queries.rows.tolist()) if (row >= 0) == side] for side in (True, False)]
    some = {i for group in groups for i in group[:: max(1, -(-len(group) // MAX_QUERIES))]}
    places = sorted(some | {*needed})
    return Queries(queries.vectors[places], tuple(queries.texts[i] for i in places), queries.rows[places])


def forgotten(edit: Edit) -> list[str]:
    """The classes that an edit forgets, in every domain or in some."""
    request: Any = Forget.from_dict(edit.request) if isinstance(edit.request, dict) else edit.request
    if request is None:
        return []
    return list(dict.fromkeys(c for part in (replace(request, also=()), *request.also) for c in part.classes or ()))


def _answers(edit: Edit, tables: Sequence[Vectors], queries: Queries, most: int) -> tuple[list[Tensor], list[Tensor]]:
    """On each side, the first `most` rows for each query, (m, most), and whether it is among the first RECALL captions
    of the row that it describes, (m,) bool."""
    texts = [queries.vectors] * 2
    if edit.linear and edit.bias is None:
        texts.append(F.normalize(edit.queries(queries.vectors), dim=1))
    captions = (queries.rows >= 0).nonzero()[:, 0]
    best = [(torch.empty(len(t), 0), torch.empty(len(t), 0, dtype=torch.int64)) for t in texts]
    own, start = [torch.zeros(len(t), dtype=torch.bool) for t in texts], 0
    for chunk in (chunk for table in tables for chunk in table.chunks()):
        z = torch.nan_to_num(F.normalize(chunk.float(), dim=1))
        moved, stop = F.normalize(edit.images(z), dim=1), start + len(chunk)
        here = captions[(queries.rows[captions] >= start) & (queries.rows[captions] < stop)]
        for side, (x, t) in enumerate(zip((z, moved, z), texts, strict=False)):
            scores = torch.cat([best[side][0], t @ x.T], dim=1)
            rows = torch.cat([best[side][1], torch.arange(start, stop).expand(len(t), -1)], dim=1)
            top = scores.topk(min(most, scores.shape[1]), dim=1)
            best[side] = top.values, rows.gather(1, top.indices)
            theirs = (x[queries.rows[here] - start] @ t[captions].T).topk(min(RECALL, len(captions)), dim=1)
            own[side][here] = (captions[theirs.indices] == here[:, None]).any(1)
        start = stop
    return [rows for _, rows in best], own


def format_check(result: dict[str, Any]) -> str:
    """What `check_index` gives, as plain text."""

    def line(text: str, values: Sequence[float], form: str) -> str:
        return f"{text[:78]:<80}" + "".join(f"{format(value, form):>14}" for value in values)

    lines = [" " * 80 + "".join(f"{side:>14}" for side in result["sides"])]
    for name, word in result["words"].items():
        which = "pictures whose captions name it" if word["named"] else "answers before"
        text = f"{name}: of {word['k']} {which}, share among the first {word['k']}"
        lines.append(line(text, word["precision"], ".2f"))
    kept, collateral = result["kept"], result["collateral"]
    if kept["n"]:
        for text, values in (("captions: own picture", kept["to_image"]), ("pictures: own caption", kept["to_text"])):
            lines.append(line(f"{kept['n']} kept {text} among the first {RECALL}, percent", values, ".1f"))
    if collateral["n"]:
        text = f"{collateral['n']} other queries: another first answer, percent"
        lines.append(line(text, collateral["percent"], ".1f"))
    for name, still in result["still"].items():
        lines.append(f"what still brings up pictures of {name}:" + ("" if still else " none of these queries"))
        lines += [line(f"  {brief(text, 60)}", shares, ".2f") for text, shares in still.items()]
    return "\n".join(lines)
