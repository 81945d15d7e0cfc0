"""An edit applied to an index, as it stands in files, or to the queries in front of it; and taken back.

To take an edit back: P = I - L R^T has the inverse I + L (I - R^T L)^-1 R^T (Woodbury), unless R^T L has an eigenvalue
1, as a projection has. Rounding e of the stored rows comes back as e |P| |P^-1|, in units of the rows' lengths.
"""

import json
from dataclasses import replace
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from ..edit import Edit, checksum
from ..errors import brief, one_of
from .files import SIDES, Side, Vectors, open_tables
from .rewriting import FORMAT, Edits, RowChange, record_of, rewrite, stamp

LEAN, SPREAD = 1.5, 2.0
"""The largest lean and spread (`belonging`) taken for those of another model. Measured on OpenAI's ViT-B/32 and B/16
and on miniclip with six methods: within one model the lean is 5.8 and more (miniclip: .8 to 4.1, with a spread of 2.9
and more); between two models .9 and 1.8 at most."""
ENTRY = {"patch": str, "method": str, "side": str, "array": str, "normalize": bool, "source": str, "stamp": list}
"""What stands in a record for each edit, among others."""
MAX_CONDITION = 1e4
"""An inverse that makes a rounding error larger than this many times is no way back."""


def apply_edit(
    edit: Edit,
    source: str | Path,
    out: str | Path,
    side: Side = "images",
    name: str | None = None,
    model: str = "",
    normalize: bool = False,
    progress: bool = False,
) -> Tensor:
    """Write an edited copy of an index: pictures' vectors with side "images", texts' with "queries"; not both.

    source, out: files of the same kind, .npy, .npz, safetensors or Parquet, or folders in clip-retrieval's layout. All
    that they hold besides is copied; types stay. name: of the array, tensor or column, where a file holds several.
    model: what the index was made with; without it, its rows are looked at. normalize: give edited rows unit length,
    for stores that rank by inner product and want cosines.

    Returns the lengths (n,) of the rows as they were. Raises ValueError if the edit is of another model or was applied
    before, if `out` is there, if the source changes meanwhile, and as `edit.queries` does; OSError if the disk is full.
    """
    one_of("side", side, SIDES)
    source, tables = Path(source), open_tables(source, side, name)
    edits = read_record(source)
    validate(edit, tables, side, model, edits)
    request = edit.request.as_dict() if hasattr(edit.request, "as_dict") else edit.request
    entry = {
        "patch": _name_of(edit), "method": edit.method, "request": request, "model": edit.model,
        "fingerprint": edit.fingerprint, "side": side, "array": tables[0].name, "normalize": normalize,
        "source": str(source.resolve()), "stamp": stamp(source),
    }  # fmt: skip
    if side == "queries":
        edit.queries(torch.zeros(len(edit.left)))  # raises for what cannot be done to a query
        edit = replace(edit, left=edit.right, right=edit.left)
    return rewrite(tables, source, Path(out), changing(edit, normalize), [*edits, entry], progress)


def changing(edit: Edit, normalize: bool = False) -> RowChange:
    """What an edit does to rows (n, d) of lengths (n,), in place where it can: in float32, in float64 if they are.

    Within 1e-6 of `edit.images` for unit rows in float32. A bias counts in units of the length of its row.
    """
    layers = {dtype: edit.layer(dtype) for dtype in (torch.float32, torch.float64)}

    def change(z: Tensor, length: Tensor) -> Tensor:
        wide = z if z.dtype in layers else z.float()
        layer = layers[wide.dtype]
        if edit.linear:
            wide.addmm_(wide @ layer.left, layer.right.T, alpha=-1)
            if layer.bias is not None:
                wide += length[:, None].to(wide) * layer.bias
        else:
            wide.index_copy_(0, *layer.touched(wide, length))
        return F.normalize(wide, dim=1) if normalize else wide

    return change


def validate(edit: Edit, tables: list[Vectors], side: Side, model: str, edits: Edits) -> None:
    """Raises ValueError if the vectors are of another model than the edit, or were edited by it before."""
    path, d, patch_model = tables[0].path, tables[0].shape[1], edit.model or "its model"
    for entry in edits:
        if entry["patch"] == _name_of(edit):
            raise ValueError(f"index: {str(path)!r} was edited with this patch before; expected the original")
        if entry["side"] != side:
            raise ValueError(f"index: {str(path)!r} holds edited {entry['side']}; expected {side}")
    if d != len(edit.left):
        width = f"{len(edit.left)}, as the patch of {patch_model} is"
        raise ValueError(f"index: {str(path)!r} is {d} wide; expected {width}")
    for table in tables:
        prints = table.words.get("fingerprint", ""), edit.fingerprint
        models = model or table.words.get("model", ""), edit.model
        if prints[0] != prints[1] if all(prints) else all(models) and models[0] != models[1]:
            raise ValueError(
                f"index: {str(table.path)!r} is of {models[0] or 'another model'} {prints[0]}; expected the model of "
                f"the patch, {edit.model} {edit.fingerprint}"
            )
        rows = next(table.chunks()).float()
        rows = F.normalize(rows[rows.isfinite().all(1)], dim=1)
        if all(models) or edit.mean_text is None or len(rows) < 100:
            continue
        lean, spread = belonging(edit, rows)
        if lean < LEAN and spread < SPREAD:
            raise ValueError(
                f"index: rows of {str(table.path)!r} lean {lean:.1f} to the mean text of {patch_model} and spread "
                f"{spread:.1f} along what is forgotten, as if of another model ({LEAN} or {SPREAD} and more are of "
                f"the same); expected its own. If they are, say so: --model {edit.model}"
            )


def belonging(edit: Edit, rows: Tensor) -> tuple[float, float]:
    """How far unit `rows` (n, d) seem to be of the model of an edit, by two measures; about 1 for another model.

    The lean of their mean to the mean text, in deviations of the cosine with a random direction, 1 / sqrt(d). And their
    spread: the variance along the directions that the edit reads, `left`, over that along a random one.
    """
    mean, apart = rows.mean(0), rows - rows.mean(0)
    read = torch.linalg.qr(edit.left.double())[0].float()
    text = torch.zeros_like(mean) if edit.mean_text is None else edit.mean_text.float()
    lean = float(F.cosine_similarity(mean, text, dim=0).abs()) * len(mean) ** 0.5
    along, chance = (apart @ read).square().mean(), apart.square().mean().clamp(min=1e-12)
    return lean, float(along / chance)


def undo(
    edit: Edit,
    source: str | Path,
    out: str | Path,
    original: str | Path | None = None,
    name: str | None = None,
    progress: bool = False,
) -> str:
    """Write what an index or a file of queries was before `apply_edit`; returns in words how exact that is.

    Exact where the original is still there, as it was: it is copied. Otherwise the edit is inverted. original: where it
    is now; by default where the record beside `source` says. name: of the array; it must be the one on record.

    Raises ValueError without a record of this patch, and where neither can be done: a module or a hidden layer has no
    inverse, and a projection takes directions away for good.
    """
    source, out = Path(source), Path(out)
    edits = read_record(source)
    if not edits or edits[-1]["patch"] != _name_of(edit):
        what = f"was last edited with another patch ({edits[-1]['method']})" if edits else "has no record of an edit"
        raise ValueError(f"patch: {str(source)!r} {what}; expected an index that this patch has edited")
    last, before = edits[-1], edits[:-1]
    side, array = last["side"], last["array"] or None
    if name is not None and name != array:
        raise ValueError(f"name: {name!r} was not edited; expected {array!r}, the array on record")
    place = Path(original or last["source"])
    if stamp(place) == last["stamp"]:
        rewrite([], place, out, changing(edit), before, progress)
        return f"exact: a copy of the original, {place.name}"
    if original is not None:
        raise ValueError(f"original: {str(place)!r} is not what was edited, or changed since; expected it as it was")
    inverse, condition = inverted(edit)
    if side == "queries":
        inverse = replace(inverse, left=inverse.right, right=inverse.left)
    tables = open_tables(source, side, array)
    rewrite(tables, source, out, changing(inverse, last["normalize"]), before, progress)
    error = condition * max(torch.finfo(table.dtype).eps for table in tables)
    length = "; all rows have unit length, as lengths were lost" if last["normalize"] else ""
    return f"by the inverse of the edit: each row within {error:.1g} of its length{length}"


def inverted(edit: Edit) -> tuple[Edit, float]:
    """The edit that takes a linear one back, and how many times it makes a rounding error larger: |P| |P^-1|.

    Raises ValueError for an edit without a usable inverse.
    """
    if not edit.linear or edit.bias is not None:
        what = f"form {edit.form!r}" if edit.bias is None else "a bias, which counts in lengths that edited rows lost,"
        raise ValueError(f"edit: one of {what} has no inverse; expected the original to be kept")
    p, left, right = edit.matrix().double(), edit.left.double(), edit.right.double()
    inner = torch.eye(edit.rank, dtype=torch.float64) - right.T @ left
    values = torch.linalg.svdvals(p)
    condition = float(values[0] / values[-1].clamp(min=1e-300))
    if condition > MAX_CONDITION:
        raise ValueError(
            f"edit: {edit.method} takes {int((values < values[0] / MAX_CONDITION).sum())} directions away for good; "
            "expected the original to be kept, or an edit with an inverse"
        )
    return Edit(-left @ torch.linalg.inv(inner), right, f"inverse of {edit.method}"), condition


def read_record(path: Path) -> Edits:
    """The edits on record of a file or folder that `apply_edit` wrote; none without a record beside it.

    Raises ValueError for a record of another form.
    """
    place = record_of(path)
    if not place.is_file():
        return []
    try:
        record = json.loads(place.read_text(encoding="utf-8"))
        for entry in record["edits"]:
            if any(type(entry[key]) is not kind for key, kind in ENTRY.items()) or entry["side"] not in SIDES:
                raise ValueError("of another form")
        if record["format"] != FORMAT or not isinstance(record["edits"], list):
            raise ValueError("of another format")
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise ValueError(f"record: {str(place)!r} cannot be read ({brief(error)}); expected it as written") from error
    return record["edits"]


def _name_of(edit: Edit) -> str:
    """What names a patch by its content."""
    return checksum(edit.tensors(), {})[:16]
