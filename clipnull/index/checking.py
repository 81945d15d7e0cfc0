"""What an index answers before and after an edit of it, or of its queries: to be seen before anything is switched."""

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

FIRST, RECALL = 10, 5
"""Answers that are looked at; the k of recall@k."""
MAX_QUERIES, SHOWN = 2000, 10
"""Captions, and other queries, that are asked; queries that are printed although nothing is wrong with them."""
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
    them, in order. Raises ValueError that names what is wrong or missing.
    """
    path, captions = Path(path), 0
    if path.suffix == ".npz" and names is None:
        with reading(path), np.load(path, allow_pickle=False) as archive:
            fields = {key: archive[name].tolist() for key, name in FIELDS.items() if {key, name} <= {*archive.files}}
        tables = [open_vectors(path, "queries", key) for key in fields]
        texts, captions = [*fields.values()], len(fields.get("texts", ()))
    else:
        tables = open_tables(path, "queries")
        texts = [read_lines("names", names)] if names else _columns(path, tables)
        captions = sum(map(len, texts))
    edited = [entry["side"] for entry in read_record(path)] + [table.words.get(EDITED, "") for table in tables]
    if any(side.startswith("queries") for side in edited):
        raise ValueError(f"queries: {str(path)!r} were edited; expected them as they were before")
    vectors_in, texts_in = [table.shape[0] for table in tables], [*map(len, texts)]
    if not tables or texts_in not in (vectors_in, [sum(vectors_in)]) or len({t.shape[1] for t in tables}) > 1:
        raise ValueError(
            f"queries: {str(path)!r} holds {brief(vectors_in)} vectors and {brief(texts_in)} texts; expected one text "
            "for each, in the file or, one a line, in --names FILE, and vectors of one width"
        )
    vectors, lines = torch.cat([table.rows() for table in tables]), [text for part in texts for text in part]
    if not vectors.isfinite().all() or not all(isinstance(text, str) for text in lines):
        raise ValueError(f"queries: {str(path)!r} holds NaN, infinity or texts that are none; expected finite rows")
    place = torch.full((len(lines),), -1)
    if captions == rows:
        place[:captions] = torch.arange(captions)
    return Queries(F.normalize(vectors, dim=1), tuple(lines), place)


def _columns(path: Path, tables: list[Vectors]) -> list[list[str]]:
    """The texts beside vectors: of a Parquet file, or of metadata/*.parquet in a folder, a list for each part."""
    files = sorted((path / "metadata").glob("*.parquet"), key=by_number) if path.is_dir() else [tables[0].path]
    texts = []
    for file in (f for f in files if f.suffix == ".parquet"):
        parquet = import_extra("pyarrow.parquet", "index")
        with reading(file):
            known = [name for name in COLUMNS if name in parquet.read_schema(file).names]
            texts += [parquet.read_table(file, columns=known[:1]).column(0).to_pylist() if known else []]
    return texts


def naming(name: str) -> Callable[[str], bool]:
    """Whether a text in normal form (`words`) names a class, as a word of its own, in the singular or the plural.

    >>> [naming(name)(text) for name, text in (("cat", "two cats asleep"), ("cat", "a category"), ("mouse", "mice"))]
    [True, False, True]
    """
    forms = {words(name), words(plural(name))}
    pattern = re.compile(rf"(?<!\w)({'|'.join(map(re.escape, forms))})(?!\w)")
    return lambda text: any(form in text for form in forms) and pattern.search(text) is not None


def forgotten(edit: Edit) -> list[str]:
    """The classes that an edit forgets, in every domain or in some."""
    request: Any = Forget.from_dict(edit.request) if isinstance(edit.request, dict) else edit.request
    if request is None:
        return []
    return list(dict.fromkeys(c for part in (replace(request, also=()), *request.also) for c in part.classes or ()))


def check_index(edit: Edit, tables: list[Vectors], queries: Queries) -> dict[str, Any]:
    """What an index answers before and after, on each side of SIDES; on the last only where `edit.queries` can.

    queries: for each query that is not a caption, `found`, how many of its pictures are among its first FIRST answers
    on each side, and `forgotten`, the forgotten class that it names, if any. Its pictures are those whose captions name
    it, else its first answers before the edit; those of a forgotten class do not count for other queries. kept: of the
    n captions that name no forgotten class, the percent that find their own picture among the first RECALL, on each
    side. broken: rows with NaN or infinity, which no query finds.
    """
    if queries.vectors.shape[1] != len(edit.left):
        raise ValueError(f"queries: {queries.vectors.shape[1]} wide; expected {len(edit.left)}, as the index is")
    captions = [(row, words(queries.texts[i])) for i, row in enumerate(queries.rows.tolist()) if row >= 0]
    tests = {name: naming(name) for name in forgotten(edit)}
    places = [queries.place(name) for name in tests]
    chosen = sorted({*_spread(queries.rows >= 0), *_spread(queries.rows < 0), *places})
    queries, places = queries.at(chosen), [chosen.index(place) for place in places]
    answers, broken = _answers(edit, tables, queries)

    def pictures_of(i: int, name: str) -> Tensor:
        names_it = naming(name)
        rows = [row for row, caption in captions if names_it(caption)]
        return torch.tensor(rows) if rows else answers[0][i]

    texts = [words(text) for text in queries.texts]
    about = [max((name for name, names_it in tests.items() if names_it(text)), key=len, default="") for text in texts]
    gone = torch.cat([answers[0][:0, 0], *(pictures_of(i, name) for i, name in zip(places, tests, strict=True))])
    entries = {}
    for i in [i for i, row in enumerate(queries.rows.tolist()) if row < 0 or i in places]:
        pictures = pictures_of(i, about[i] or queries.texts[i])
        pictures = pictures if about[i] else pictures[~torch.isin(pictures, gone)]
        counts = [int(torch.isin(rows[i], pictures).sum()) for rows in answers]
        entries[queries.texts[i]] = {"forgotten": about[i] or None, "found": counts}
    kept = [i for i, row in enumerate(queries.rows) if row >= 0 and not about[i]]
    recalled = [(rows[:, :RECALL] == queries.rows[:, None]).any(1)[kept].double() for rows in answers]
    share = {"n": len(kept), "percent": [100 * float(side.mean()) for side in recalled] if kept else []}
    return {"sides": [*SIDES[: len(answers)]], "broken": broken, "queries": entries, "kept": share}


def _spread(chosen: Tensor) -> list[int]:
    """At most MAX_QUERIES of the places where `chosen` is true, evenly."""
    places = chosen.nonzero()[:, 0].tolist()
    return places[:: max(1, -(-len(places) // MAX_QUERIES))]


def _answers(edit: Edit, tables: list[Vectors], queries: Queries) -> tuple[list[Tensor], int]:
    """On each side, the first FIRST rows for each query, (m, FIRST); and how many rows are broken."""
    texts = [queries.vectors] * 2
    if edit.linear and edit.bias is None:
        texts.append(F.normalize(edit.queries(queries.vectors), dim=1))
    best = [(torch.empty(len(t), 0), torch.empty(len(t), 0, dtype=torch.int64)) for t in texts]
    start = broken = 0
    with tqdm(total=sum(table.shape[0] for table in tables), unit="row", delay=3) as bar:
        for before in (chunk.float() for table in tables for chunk in table.chunks()):
            sound = before.isfinite().all(1)
            broken += len(before) - int(sound.sum())
            z, moved = (F.normalize(rows[sound], dim=1) for rows in (before, edit.images(before)))
            places = start + sound.nonzero()[:, 0]
            for side, (x, t) in enumerate(zip((z, moved, z), texts, strict=False)):
                scores = torch.cat([best[side][0], t @ x.T], dim=1)
                rows = torch.cat([best[side][1], places.expand(len(t), -1)], dim=1)
                top = scores.topk(min(FIRST, scores.shape[1]), dim=1)
                best[side] = top.values, rows.gather(1, top.indices)
            start += len(before)
            bar.update(len(before))
    return [rows for _, rows in best], broken


def beyond(result: dict[str, Any], max_left: int, max_lost: int) -> list[str]:
    """The queries beyond a limit: forgotten ones that still find more than `max_left` pictures among their first
    answers, and others that lose more than `max_lost` of those that they found before."""
    texts = []
    for text, entry in result["queries"].items():
        before, *after = entry["found"]
        if max(after) > max_left if entry["forgotten"] else before - min(after) > max_lost:
            texts.append(text)
    return texts


def format_check(result: dict[str, Any], hurt: Collection[str] = ()) -> str:
    """What `check_index` gives, as plain text: the forgotten classes, and what other queries lose, the worst first.

    hurt: the queries that are beyond a limit, which are marked, and all printed.
    """
    groups = {"NOT FORGOTTEN: ": [], "forgotten: ": [], "HURT: ": [], "": []}
    for text, entry in result["queries"].items():
        marks = ("forgotten: ", "NOT FORGOTTEN: ") if entry["forgotten"] else ("", "HURT: ")
        before, *after = entry["found"]
        groups[marks[text in hurt]].append((before - min(after), text, entry["found"]))
    rows, blank = [], [""] * len(result["sides"])
    for mark, group in groups.items():
        group.sort(key=lambda item: -item[0])
        shown = group if mark else group[:SHOWN]
        rows += [(mark + one_line(text, 60), *found) for _, text, found in shown]
    if more := groups[""][SHOWN:]:
        rows.append((f"not listed: {len(more)} that lost at most {more[0][0]} of their {FIRST} answers", *blank))
    if result["kept"]["n"]:
        title = f"own picture among the first {RECALL}, percent of {result['kept']['n']} kept captions"
        rows.append((title, *(f"{percent:.1f}" for percent in result["kept"]["percent"])))
    return aligned(rows, [f"among the first {FIRST} answers", *result["sides"]])
