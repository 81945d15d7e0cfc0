"""Apply an edit to an index in files, or to the queries in front of it, and undo it.

P = I - L R^T has the inverse I + L (I - R^T L)^-1 R^T (Woodbury), unless R^T L has an eigenvalue 1, as for a
projection. The inverse turns a rounding error e of a stored row into at most e |P| |P^-1| times the row's length.
"""

from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ..edit import Edit, checksum
from ..errors import one_of
from ..stored import EDITED
from .files import SIDES, Change, Vectors, open_tables
from .rewriting import Edits, content_of, read_record, record_of, rewrite, stale_in

MAX_CONDITION = 1e4  # the largest |P| |P^-1|, the growth of a rounding error, at which `undo` inverts an edit
UNIT, BLOCK = 1e-3, 1024  # tolerance on the length of a unit row; rows edited at a time, to fit into the CPU cache


def apply_edit(
    edit: Edit,
    source: str | Path,
    out: str | Path,
    side: str = "images",
    name: str | None = None,
    model: str = "",
    normalize: bool = False,
) -> dict[str, Any]:
    """Write an edited copy of an index (side "images") or of the queries in front of it ("queries"); edit only one.

    source, out: files of one kind, .npy, .npz, safetensors or Parquet, or folders in clip-retrieval's layout. Types
    stay. All other contents are copied, except search indices built from unedited vectors, such as image.index. name:
    the array, tensor or column, see `open_vectors`. model: the model of the index, if the file does not name it.
    normalize: give edited rows unit length, for stores that rank by inner product.

    Return the number of `rows`, of `broken` ones (NaN, infinity; unchanged) and of ones `not_unit` in length; how we
    know that they are from the patch's model, `belongs`; and the files `left_out`. Return {} if `out` already is this
    copy. Raise ValueError for an edit of another model or one applied before, and as `rewrite` and `edit.queries` do.
    """
    one_of("side", side, list(SIDES))
    source, out, tables = Path(source), Path(out), open_tables(source, side, name)
    edits = read_record(source)
    belongs = validate(edit, tables, side, model, edits)
    request = edit.request.as_dict() if hasattr(edit.request, "as_dict") else edit.request
    entry = {
        "patch": name_of(edit), "method": edit.method, "request": request, "model": edit.model,
        "fingerprint": edit.fingerprint, "side": side, "array": tables[0].name, "normalize": normalize,
        "source": str(source.resolve()), "content": content_of(source),
    }  # fmt: skip
    if record_of(out).is_file() and out.exists() and read_record(out) == [*edits, entry]:
        return {}
    if side == "queries":
        edit.queries(torch.zeros(len(edit.left)))  # raises ValueError for an edit that cannot change queries
        edit = replace(edit, left=edit.right, right=edit.left)
    stale = stale_in(source, side) if source.is_dir() else []
    lengths: list[Tensor] = [torch.empty(0)]
    rewrite(tables, source, out, changing(edit, normalize, lengths), [*edits, entry], stale)
    length = torch.cat(lengths)
    sound = length[length.isfinite()]
    return {
        "rows": len(length), "broken": len(length) - len(sound), "not_unit": int(((sound - 1).abs() > UNIT).sum()),
        "belongs": belongs, "left_out": [file.relative_to(source).as_posix() for file in stale],
    }  # fmt: skip


def changing(edit: Edit, normalize: bool, lengths: list[Tensor]) -> Change:
    """Return a function that edits rows (n, d) in place and leaves broken ones unchanged.

    It computes in float32, or in float64 for float64 rows. Unit float32 rows agree with `edit.images` to 1e-6. A bias
    is scaled by the length of each row. lengths: the list to which the old lengths of the rows are appended.
    """
    layers = {dtype: edit.layer(dtype) for dtype in (torch.float32, torch.float64)}

    def change(chunk: Tensor) -> Tensor:
        for block in chunk.split(BLOCK):
            z = block if block.dtype in layers else block.float()
            length, layer = torch.linalg.vector_norm(z, dim=1), layers[z.dtype]
            broken = ~length.isfinite()
            unchanged = block[broken]
            if edit.linear:
                z.addmm_(z @ layer.left, layer.right.T, alpha=-1)
                if layer.bias is not None:
                    z += length[:, None] * layer.bias
            else:
                z.index_copy_(0, *layer.touched(z, length))
            block.copy_(F.normalize(z, dim=1) if normalize else z)
            block[broken] = unchanged
            lengths.append(length)
        return chunk

    return change


def validate(edit: Edit, tables: list[Vectors], side: str, model: str, edits: Edits) -> str:
    """Return how we know that vectors belong to the edit's model: from `model`, the file, or its record `edits`.

    Raise ValueError for another model or width, if nothing names the model, if this edit was applied before, and for
    an earlier edit without a record or on the other side.
    """
    path, d, expected = tables[0].path, tables[0].shape[1], len(edit.left)
    argument = "index" if side == "images" else side
    for entry in edits:
        if entry["patch"] == name_of(edit):
            raise ValueError(f"{argument}: {str(path)!r} was edited with this patch before; expected the original")
        if entry["side"] != side:
            raise ValueError(f"{argument}: {str(path)!r} holds edited {entry['side']}; expected {side}")
    if not edits and any(table.words.get(EDITED) for table in tables):
        place = record_of(path).name
        raise ValueError(
            f"{argument}: {str(path)!r} says that it was edited; expected its record {place}, or the original"
        )
    if d != expected:
        raise ValueError(f"{argument}: {str(path)!r} has width {d}; expected {expected}, the width of the patch")
    origin = (edits[-1] if edits else {}) | tables[0].words
    prints, models = (origin.get("fingerprint"), edit.fingerprint), (model or origin.get("model"), edit.model)
    if not edit.model and not all(prints):
        return "of a model that the patch does not name"
    if not all(prints) and not all(models):
        raise ValueError(
            f"{argument}: {str(path)!r} does not name its model; expected --model {edit.model} if that is it"
        )
    if prints[0] != prints[1] if all(prints) else models[0] != models[1]:
        its_model = " ".join(filter(None, (models[0] or "another model", prints[0])))
        raise ValueError(f"{argument}: {str(path)!r} is from {its_model}; expected {edit.model} {edit.fingerprint}")
    return f"of {edit.model or 'its model'}, according to {'--model' if model else 'the file or its record'}"


def undo(edit: Edit | None, source: str | Path, out: str | Path, original: str | Path | None = None) -> str:
    """Write an index or a file of queries as it was before `apply_edit`; return how exact the result is, in words.

    The original is copied if it still exists with the recorded content; no edit is needed then. Otherwise the edit is
    inverted. original: where it is now; by default the place on record. Raise ValueError if the last edit of `source`
    on record is not this one, if a given `original` has other content, or if the original is gone and the edit has no
    inverse: a module, a hidden layer, a bias, a projection.
    """
    source, out = Path(source), Path(out)
    edits = read_record(source)
    if not edits:
        raise ValueError(f"index: {str(source)!r} does not exist or has no record of an edit; expected an edited index")
    *before, last = edits
    place = Path(original or last["source"])
    if edit is not None and last["patch"] != name_of(edit):
        raise ValueError(
            f"patch: {str(source)!r} was last edited with another patch ({last['method']}, {last['patch']}); expected "
            "that one, or none if the original still exists"
        )
    if place.exists() and content_of(place) == last["content"]:
        rewrite([], place, out, lambda rows: rows, before)
        return f"restored exactly, from the original {place.name}"
    if original is not None or edit is None:
        raise ValueError(f"original: {str(place)!r} is not what was edited; expected the original, unchanged")
    inverse, condition = inverted(edit)
    if last["side"] == "queries":
        inverse = replace(inverse, left=inverse.right, right=inverse.left)
    tables = open_tables(source, last["side"], last["array"] or None)
    rewrite(tables, source, out, changing(inverse, last["normalize"], []), before)
    error = condition * max(torch.finfo(table.dtype).eps for table in tables)
    note = "; all rows have unit length, since their own lengths were lost" if last["normalize"] else ""
    return f"restored by the inverse of the edit, each row to within {error:.1g} of its length{note}"


def inverted(edit: Edit) -> tuple[Edit, float]:
    """Return the inverse of a linear edit and its condition |P| |P^-1|, the largest growth of a rounding error.

    Raise ValueError for an edit without a usable inverse.
    """
    if not edit.linear or edit.bias is not None:
        reason = "a bias" if edit.bias is not None else f"form {edit.form!r}"  # a bias needs the old row lengths
        raise ValueError(f"edit: one with {reason} has no inverse; expected the original index")
    left, right = edit.left.double(), edit.right.double()
    values = torch.linalg.svdvals(edit.matrix().double())
    condition = float(values[0] / values[-1].clamp(min=1e-300))
    if condition > MAX_CONDITION:
        raise ValueError(
            f"edit: {edit.method} removes {int((values < values[0] / MAX_CONDITION).sum())} directions for good; "
            "expected the original index, or an edit with an inverse"
        )
    inner = torch.eye(edit.rank, dtype=torch.float64) - right.T @ left
    return Edit(-left @ torch.linalg.inv(inner), right, f"inverse of {edit.method}"), condition


def name_of(edit: Edit) -> str:
    """Return the name of a patch: 16 hexadecimal digits computed from its content."""
    return checksum(edit.tensors(), {})[:16]
