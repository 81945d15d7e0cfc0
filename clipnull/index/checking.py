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

FIRST, RECALL, MOST, SHOWN = 10, 5, 2000, 5
"""Answers that are looked at; the k of recall@k; captions and others that are asked, evenly chosen; queries shown."""
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
        said = {words(text): i for i, text in reversed([*enumerate(self.texts)])}
        prompts = [name, *(format_prompt(t, name) for t in (*TEMPLATES["free"], "a photo of {a}", "{a}"))]
        for prompt in prompts:
            if (i := said.get(words(prompt))) is not None:
                return i
        raise ValueError(f"queries: none asks for {name!r}; expected its name among the texts, with its embedding")


def read_queries(path: str | Path, rows: int, names: str | Path | None = None) -> Queries:
    """The queries in a file, for an index of so many rows.

    .npz: `texts` with `captions`, `class_texts` or `texts_free` with `class_names`, `other_texts` with `other_names`.
    Parquet, and folders in clip-retrieval's layout: a column of texts, called as one of COLUMNS. Other files: their
    texts in a file of their own, `names`, one a line. As many captions as the index has rows describe them, in order.

    Raises ValueError that names what is wrong or missing.
    """
    path, parts, texts, captions = Path(path), [], [], 0
    if path.suffix == ".npz" and names is None:
        try:
            with np.load(path, allow_pickle=False) as archive:
                for vectors, told in FIELDS:
                    if vectors in archive.files and told in archive.files:
                        own = archive[told].tolist()
                        if len(archive[vectors]) != len(own):
                            raise ValueError(f"{vectors} and {told} differ in number")
                        if archive[vectors].ndim != 2 or archive[vectors].dtype.kind != "f":
                            raise ValueError(f"{vectors} are no rows (m, d) of floating numbers")
                        captions = len(own) if told == "captions" else captions
                        parts.append(torch.from_numpy(archive[vectors].astype(np.float32)))
                        texts += own
        except Exception as error:  # zlib and the parser of NumPy's headers have errors of their own
            raise ValueError(f"queries: {str(path)!r} cannot be read ({one_line(error)}); expected .npz") from error
    else:
        tables = open_tables(path, "queries")
        parts = [table.rows() for table in tables]
        texts = read_lines("names", names) if names else _columns(path, tables)
        captions = len(texts)
    if not parts or sum(map(len, parts)) != len(texts) or not all(isinstance(text, str) for text in texts):
        raise ValueError(
            f"queries: {str(path)!r} holds {sum(map(len, parts))} vectors and {len(texts)} texts; expected one text "
            "for each, in the file or, one a line, in --names FILE"
        )
    if len({part.shape[1] for part in parts}) > 1 or not all(part.isfinite().all() for part in parts):
        raise ValueError(
            f"queries: {str(path)!r} holds vectors of several widths, NaN or infinity; expected finite, of one width"
        )
    place = torch.full((len(texts),), -1)
    if captions == rows:
        place[:captions] = torch.arange(captions)
    return Queries(F.normalize(torch.cat(parts), dim=1), tuple(texts), place)


def _columns(path: Path, tables: list[Vectors]) -> list[str]:
    """The texts beside vectors: of a Parquet file, or of metadata/*.parquet in a folder."""
    files = sorted((path / "metadata").glob("*.parquet")) if path.is_dir() else [tables[0].path]
    found: list[str] = []
    for file in (f for f in files if f.suffix == ".parquet"):
        parquet = import_extra("pyarrow.parquet", "index")
        with reading(file):
            known = [name for name in COLUMNS if name in parquet.read_schema(file).names]
            if known:
                found += parquet.read_table(file, columns=known[:1]).column(0).to_pylist()
    return found


def says(text: str, name: str) -> bool:
    """Whether a text names a class, as a word of its own, in the singular or the plural.

    >>> [says(text, "cat") for text in ("Two cats asleep.", "a category", "The cat's bed")]
    [True, False, True]
    """
    said = re.escape(words(name))
    return re.search(rf"(?<!\w){said}(s|es)?(?!\w)", words(text)) is not None


def check_index(edit: Edit, tables: Sequence[Vectors], queries: Queries) -> dict[str, Any]:
    """What an index answers before and after, on either side of SIDES; of the last only where `edit.queries` can.

    Returns
    -------
    dict
        `words`: for each forgotten class its number of pictures, `k`; `precision`, the share of them among the first k
        answers to its name; and `named`, whether captions name them. Else they are the first FIRST answers before the
        edit. `kept`: recall@RECALL in percent of captions that name no forgotten class, `to_image` and back, `to_text`,
        and their number. `collateral`: percent of other queries whose first answer is another. `still`: queries that
        still bring up such pictures, with their share among the first k. Shares and percents are lists, one a side.
    """
    if queries.vectors.shape[1] != len(edit.left):
        raise ValueError(
            f"queries: they are {queries.vectors.shape[1]} wide; expected {len(edit.left)}, as the index is"
        )
    names, n = forgotten(edit), range(len(queries.texts))
    asked = [queries.place(name) for name in names]
    about = {name: {i for i in n if says(queries.texts[i], name)} for name in names}
    named = {name: [i for i in n if i in about[name] and queries.rows[i] >= 0] for name in names}
    captions = _some([i for i in n if queries.rows[i] >= 0])
    kept = [i for i in captions if not any(i in found for found in about.values())]
    others = _some([i for i in n if queries.rows[i] < 0 and i not in asked]) or captions
    chosen = sorted({*asked, *captions, *others})
    place = {i: j for j, i in enumerate(chosen)}
    some = Queries(queries.vectors[chosen], tuple(queries.texts[i] for i in chosen), queries.rows[chosen])
    most = max([FIRST, RECALL, *(len(found) for found in named.values())])
    first, own = _answers(edit, tables, some, most)
    told: dict[str, Any] = {"sides": list(SIDES[: len(first)]), "words": {}, "still": {}}
    for name, query in zip(names, asked, strict=True):
        rows = queries.rows[named[name]] if named[name] else first[0][place[query], :FIRST]
        hits = [torch.isin(x[:, : len(rows)], rows).double().mean(1).tolist() for x in first]
        precision = [h[place[query]] for h in hits]
        told["words"][name] = {"k": len(rows), "named": bool(named[name]), "precision": precision}
        shares = {queries.texts[i]: [h[place[i]] for h in hits] for i in others if i not in about[name]}
        best = sorted(shares, key=lambda text: -max(shares[text][1:]))[:SHOWN]
        told["still"][name] = {text: shares[text] for text in best if max(shares[text][1:]) > 0}
    rest = [place[i] for i in others if not any(i in found for found in about.values())]
    changed = [(x[rest, 0] != first[0][rest, 0]).double().mean() for x in first]
    told["collateral"] = {"n": len(rest), "percent": [100 * float(share) for share in changed] if rest else []}
    places = [place[i] for i in kept]
    found = [(x[places, :RECALL] == some.rows[places, None]).any(1).double().mean() for x in first]
    back = [hit[places].double().mean() for hit in own]
    told["kept"] = {"n": len(kept)} | {
        name: [100 * float(share) for share in shares] if kept else []
        for name, shares in (("to_image", found), ("to_text", back))
    }
    return told


def _some(places: list[int]) -> list[int]:
    """At most MOST of them, evenly chosen."""
    return places[:: max(1, -(-len(places) // MOST))]


def forgotten(edit: Edit) -> list[str]:
    """The classes that an edit forgets, in every domain or in some."""
    request: Any = edit.request
    request = Forget.from_dict(request) if isinstance(request, dict) else request
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


def tell(found: dict[str, Any]) -> str:
    """What `check_index` found, as plain text."""
    sides = found["sides"]

    def line(text: str, values: Sequence[float], form: str) -> str:
        return f"{text[:78]:<80}" + "".join(f"{format(value, form):>14}" for value in values)

    lines = [" " * 80 + "".join(f"{side:>14}" for side in sides)]
    for name, word in found["words"].items():
        whose = "pictures whose captions name it" if word["named"] else "answers before"
        lines.append(
            line(f"{name}: of {word['k']} {whose}, share among the first {word['k']}", word["precision"], ".2f")
        )
    kept, collateral = found["kept"], found["collateral"]
    if kept["n"]:
        for text, values in (("captions: own picture", kept["to_image"]), ("pictures: own caption", kept["to_text"])):
            lines.append(line(f"{kept['n']} kept {text} among the first {RECALL}, percent", values, ".1f"))
    if collateral["n"]:
        lines.append(
            line(f"{collateral['n']} other queries: another first answer, percent", collateral["percent"], ".1f")
        )
    for name, still in found["still"].items():
        lines.append(f"what still brings up pictures of {name}:" + ("" if still else " nothing that was asked"))
        lines += [line(f"  {brief(text, 60)}", shares, ".2f") for text, shares in still.items()]
    return "\n".join(lines)
