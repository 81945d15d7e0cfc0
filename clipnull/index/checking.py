"""Compare the answers of an index before and after an edit, before anything is overwritten."""

import re
from collections.abc import Callable, Collection
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from tqdm import tqdm

from ..edit import Edit
from ..errors import brief, import_extra, one_line
from ..files import aligned, read_lines
from ..stored import EDITED
from ..vocabulary import TEMPLATES, Forget, format_prompt, plural, words
from .files import Vectors, by_number, open_tables, open_vectors, reading
from .rewriting import read_record

FIRST, RECALL = 10, 5  # answers compared for each query; the k of recall@k
MAX_QUERIES, SHOWN = 2000, 10  # most captions, and most other queries, compared; unharmed queries printed
SIDES = ("before", "index edited", "query edited")
FIELDS = {  # arrays of vectors in a .npz, with the arrays of their texts
    "texts": "captions", "class_texts": "class_names", "texts_free": "class_names", "other_texts": "other_names"
}  # fmt: skip
COLUMNS = ("caption", "captions", "text", "query", "name")


@dataclass(frozen=True, eq=False)
class Queries:
    """Query embeddings (m, d), their texts, and the row of the index that each describes (m,), -1 for none."""

    vectors: Tensor
    texts: tuple[str, ...]
    rows: Tensor

    def place(self, name: str) -> int:
        """Return the position of the query for a class, by its name or a prompt. Raise ValueError if there is none."""
        first = {words(text): i for i, text in reversed([*enumerate(self.texts)])}
        for template in ("{n}", *TEMPLATES["free"], "a photo of {a}", "{a}"):
            if (i := first.get(words(format_prompt(template, name)))) is not None:
                return i
        raise ValueError(f"queries: none asks for {name!r}; expected this name among the texts")

    def at(self, places: list[int]) -> "Queries":
        return Queries(self.vectors[places], tuple(self.texts[i] for i in places), self.rows[places])


def read_queries(path: str | Path, rows: int, names: str | Path | None = None) -> Queries:
    """Load the queries for an index of `rows` rows from a file, and give them unit length.

    path: a .npz with arrays from FIELDS, a Parquet file or clip-retrieval folder with a text column from COLUMNS, or
    vectors alone. names: a file of their texts, one a line; by default the texts come from `path`. If there are `rows`
    captions, caption i describes row i. Raise ValueError unless all vectors are finite, unedited and have a text.
    """
    path, captions = Path(path), 0
    if path.suffix == ".npz" and names is None:
        with reading(path), np.load(path, allow_pickle=False) as archive:
            fields = {key: archive[name].tolist() for key, name in FIELDS.items() if {key, name} <= {*archive.files}}
        tables = [open_vectors(path, "queries", key) for key in fields]
        texts, captions = [*fields.values()], len(fields.get("texts", ()))
    else:
        tables = open_tables(path, "queries")
        texts = [read_lines("names", names)] if names else _read_texts(path, tables)
        captions = sum(map(len, texts))
    sides = [entry["side"] for entry in read_record(path)] + [table.words.get(EDITED, "") for table in tables]
    if any(side.startswith("queries") for side in sides):
        raise ValueError(f"queries: {str(path)!r} were edited; expected the unedited queries")
    vectors_in, texts_in = [table.shape[0] for table in tables], [*map(len, texts)]
    if not tables or texts_in not in (vectors_in, [sum(vectors_in)]) or len({t.shape[1] for t in tables}) > 1:
        raise ValueError(
            f"queries: {str(path)!r} holds {brief(vectors_in)} vectors and {brief(texts_in)} texts; expected one text "
            "for each vector, in the file or in --names FILE (one a line), and vectors of one width"
        )
    vectors, lines = torch.cat([table.rows() for table in tables]), [text for part in texts for text in part]
    if not vectors.isfinite().all() or not all(isinstance(text, str) for text in lines):
        raise ValueError(f"queries: {str(path)!r} holds NaN, infinity or non-texts; expected finite rows and texts")
    described = torch.full((len(lines),), -1)
    if captions == rows:
        described[:captions] = torch.arange(captions)
    return Queries(F.normalize(vectors, dim=1), tuple(lines), described)


def _read_texts(path: Path, tables: list[Vectors]) -> list[list[str]]:
    """Read the texts from a Parquet file, or from each metadata/*.parquet of a folder; one list per file."""
    files = sorted((path / "metadata").glob("*.parquet"), key=by_number) if path.is_dir() else [tables[0].path]
    texts = []
    for file in (f for f in files if f.suffix == ".parquet"):
        parquet = import_extra("pyarrow.parquet", "index")
        with reading(file):
            columns = [name for name in COLUMNS if name in parquet.read_schema(file).names]
            texts += [parquet.read_table(file, columns=columns[:1]).column(0).to_pylist() if columns else []]
    return texts


def naming(name: str) -> Callable[[str], bool]:
    """Return a function that finds the class `name` in a normalized text (`words`), as a whole word or its plural.

    >>> [naming(name)(text) for name, text in (("cat", "two cats asleep"), ("cat", "a category"), ("mouse", "mice"))]
    [True, False, True]
    """
    forms = {words(name), words(plural(name))}
    pattern = re.compile(rf"(?<!\w)({'|'.join(map(re.escape, forms))})(?!\w)")
    return lambda text: any(form in text for form in forms) and pattern.search(text) is not None


def forgotten(edit: Edit) -> list[str]:
    """Return the classes that an edit forgets in at least one domain."""
    request: Any = Forget.from_dict(edit.request) if isinstance(edit.request, dict) else edit.request
    if request is None:
        return []
    return list(dict.fromkeys(c for part in (replace(request, also=()), *request.also) for c in part.classes or ()))


def check_index(edit: Edit, tables: list[Vectors], queries: Queries) -> dict[str, Any]:
    """Compare the answers of an index on each of SIDES; the last one needs an edit that can change queries.

    queries: an entry for each query that is not a caption. `forgotten` is the forgotten class that it names, or None.
    `found` counts, on each side, its pictures among its first FIRST answers. Its pictures are those whose captions name
    it, or else its first answers before the edit. Pictures of a forgotten class count only for queries that name it.
    kept: of the `n` captions without a forgotten class, the `percent` that find their own picture among the first
    RECALL, on each side. broken: the number of rows with NaN or infinity, which no query finds.
    """
    width, d = queries.vectors.shape[1], len(edit.left)
    if width != d:
        raise ValueError(f"queries: width {width}; expected {d}, the width of the index")
    captions = [(row, words(queries.texts[i])) for i, row in enumerate(queries.rows.tolist()) if row >= 0]
    matchers = {name: naming(name) for name in forgotten(edit)}
    places = [queries.place(name) for name in matchers]
    sample = sorted({*_spread(queries.rows >= 0), *_spread(queries.rows < 0), *places})
    queries, places = queries.at(sample), [sample.index(place) for place in places]
    answers, broken = _answers(edit, tables, queries)

    def pictures_of(i: int, name: str) -> Tensor:
        matches = naming(name)
        rows = [row for row, caption in captions if matches(caption)]
        return torch.tensor(rows) if rows else answers[0][i]

    texts = [words(text) for text in queries.texts]
    topics = [max((name for name, matches in matchers.items() if matches(t)), key=len, default="") for t in texts]
    removed = torch.cat([answers[0][:0, 0], *(pictures_of(i, name) for i, name in zip(places, matchers, strict=True))])
    entries = {}
    for i in [i for i, row in enumerate(queries.rows.tolist()) if row < 0 or i in places]:
        pictures = pictures_of(i, topics[i] or queries.texts[i])
        pictures = pictures if topics[i] else pictures[~torch.isin(pictures, removed)]
        counts = [int(torch.isin(rows[i], pictures).sum()) for rows in answers]
        entries[queries.texts[i]] = {"forgotten": topics[i] or None, "found": counts}
    kept = [i for i, row in enumerate(queries.rows) if row >= 0 and not topics[i]]
    recalled = [(rows[:, :RECALL] == queries.rows[:, None]).any(1)[kept].double() for rows in answers]
    share = {"n": len(kept), "percent": [100 * float(side.mean()) for side in recalled] if kept else []}
    return {"sides": [*SIDES[: len(answers)]], "broken": broken, "queries": entries, "kept": share}


def _spread(mask: Tensor) -> list[int]:
    """Return at most MAX_QUERIES evenly spaced positions where `mask` is True."""
    places = mask.nonzero()[:, 0].tolist()
    return places[:: max(1, -(-len(places) // MAX_QUERIES))]


def _answers(edit: Edit, tables: list[Vectors], queries: Queries) -> tuple[list[Tensor], int]:
    """Return the first FIRST rows for each query, (m, FIRST) for each side, and the number of broken rows."""
    texts = [queries.vectors] * 2
    if edit.linear and edit.bias is None:
        texts.append(F.normalize(edit.queries(queries.vectors), dim=1))
    best = [(torch.empty(len(t), 0), torch.empty(len(t), 0, dtype=torch.int64)) for t in texts]
    start = broken = 0
    with tqdm(total=sum(table.shape[0] for table in tables), unit="row", delay=3) as bar:
        for before in (chunk.float() for table in tables for chunk in table.chunks()):
            sound = before.isfinite().all(1)
            broken += len(before) - int(sound.sum())
            z, edited = (F.normalize(rows[sound], dim=1) for rows in (before, edit.images(before)))
            places = start + sound.nonzero()[:, 0]
            for side, (x, t) in enumerate(zip((z, edited, z), texts, strict=False)):
                scores = torch.cat([best[side][0], t @ x.T], dim=1)
                rows = torch.cat([best[side][1], places.expand(len(t), -1)], dim=1)
                top = scores.topk(min(FIRST, scores.shape[1]), dim=1)
                best[side] = top.values, rows.gather(1, top.indices)
            start += len(before)
            bar.update(len(before))
    return [rows for _, rows in best], broken


def beyond(result: dict[str, Any], max_left: int, max_lost: int) -> list[str]:
    """Return forgotten queries that find more than `max_left` pictures, and others that lose more than `max_lost`."""

    def exceeds(entry: dict[str, Any]) -> bool:
        before, *after = entry["found"]
        return max(after) > max_left if entry["forgotten"] else before - min(after) > max_lost

    return [text for text, entry in result["queries"].items() if exceeds(entry)]


def format_check(result: dict[str, Any], hurt: Collection[str] = ()) -> str:
    """Format the result of `check_index` as a table: forgotten classes first, then the other queries by their loss.

    hurt: the queries that exceed a limit, see `beyond`; all of them are marked and printed.
    """
    groups = {"NOT FORGOTTEN: ": [], "forgotten: ": [], "HURT: ": [], "": []}
    for text, entry in result["queries"].items():
        titles = ("forgotten: ", "NOT FORGOTTEN: ") if entry["forgotten"] else ("", "HURT: ")
        before, *after = entry["found"]
        groups[titles[text in hurt]].append((before - min(after), text, entry["found"]))
    rows, blank = [], [""] * len(result["sides"])
    for title, group in groups.items():
        group.sort(key=lambda item: -item[0])
        shown = group if title else group[:SHOWN]
        rows += [(title + one_line(text, 60), *counts) for _, text, counts in shown]
    if more := groups[""][SHOWN:]:
        rows.append((f"not listed: {len(more)} that lost at most {more[0][0]} of their {FIRST} answers", *blank))
    if result["kept"]["n"]:
        title = f"own picture among the first {RECALL}, percent of {result['kept']['n']} kept captions"
        rows.append((title, *(f"{percent:.1f}" for percent in result["kept"]["percent"])))
    return aligned(rows, [f"among the first {FIRST} answers", *result["sides"]])
