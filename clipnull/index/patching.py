"""An edit applied to an index, as it stands in files, or to the queries in front of it; and taken back.

To take an edit back: P = I - L R^T has the inverse I + L (I - R^T L)^-1 R^T (Woodbury), unless R^T L has an eigenvalue
1, as a projection has. Rounding e of the stored rows comes back as e |P| |P^-1|, in units of the rows' lengths.
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

MAX_CONDITION = 1e4
"""An inverse that makes a rounding error larger than this many times is no way back."""
UNIT, BLOCK = 1e-3, 1024
"""How far from 1 the length of a unit row may be; rows that are changed at a time, to stay in the processor's cache."""


def apply_edit(
    edit: Edit,
    source: str | Path,
    out: str | Path,
    side: str = "images",
    name: str | None = None,
    model: str = "",
    normalize: bool = False,
) -> dict[str, Any]:
    """Write an edited copy of an index: pictures' vectors with side "images", texts' with "queries"; not both.

    source, out: files of the same kind, .npy, .npz, safetensors or Parquet, or folders in clip-retrieval's layout. All
    that they hold besides is copied but for search indices of the unedited vectors, such as image.index; types stay.
    name: of the array, tensor or column, where a file holds several. model: what the index was made with, where the
    file does not say it. normalize: give edited rows unit length, for stores that rank by inner product.

    Returns how many `rows` there are, how many `broken` (NaN, infinity: they stay) and `not_unit`, how we know that
    they are of the patch's model, `belongs`, and the files `left_out`; nothing if `out` holds all this already. Raises
    ValueError if the edit is of another model or was applied before, and as `rewrite` and `edit.queries` do.
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
        edit.queries(torch.zeros(len(edit.left)))  # raises for what cannot be done to a query
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
    """What an edit does to rows (n, d), in their place: in float32, in float64 if they are. Broken ones stay.

    Within 1e-6 of `edit.images` for unit rows in float32. A bias counts in units of the length of its row. lengths:
    where the old lengths of the rows are added.
    """
    layers = {dtype: edit.layer(dtype) for dtype in (torch.float32, torch.float64)}

    def change(chunk: Tensor) -> Tensor:
        for block in chunk.split(BLOCK):
            z = block if block.dtype in layers else block.float()
            length, layer = torch.linalg.vector_norm(z, dim=1), layers[z.dtype]
            broken = ~length.isfinite()
            old = block[broken]
            if edit.linear:
                z.addmm_(z @ layer.left, layer.right.T, alpha=-1)
                if layer.bias is not None:
                    z += length[:, None] * layer.bias
            else:
                z.index_copy_(0, *layer.touched(z, length))
            block.copy_(F.normalize(z, dim=1) if normalize else z)
            block[broken] = old
            lengths.append(length)
        return chunk

    return change


def validate(edit: Edit, tables: list[Vectors], side: str, model: str, edits: Edits) -> str:
    """How we know that vectors are of the model of an edit: by `model`, by the file, or by the record `edits`.

    Raises ValueError if they are of another model, if nothing says of which, and if this edit was applied before.
    """
    path, d, its_model = tables[0].path, tables[0].shape[1], edit.model or "its model"
    for entry in edits:
        if entry["patch"] == name_of(edit):
            raise ValueError(f"index: {str(path)!r} was edited with this patch before; expected the original")
        if entry["side"] != side:
            raise ValueError(f"index: {str(path)!r} holds edited {entry['side']}; expected {side}")
    if not edits and any(table.words.get(EDITED) for table in tables):
        place = record_of(path).name
        raise ValueError(f"index: {str(path)!r} says that it was edited; expected its record {place}, or the original")
    if d != len(edit.left):
        raise ValueError(f"index: {str(path)!r} is {d} wide; expected {len(edit.left)}, as the patch of {its_model} is")
    words = (edits[-1] if edits else {}) | tables[0].words
    prints, models = (words.get("fingerprint"), edit.fingerprint), (model or words.get("model"), edit.model)
    if not edit.model and not all(prints):
        return "of a model that the patch does not name"
    if not all(prints) and not all(models):
        raise ValueError(f"index: {str(path)!r} does not say of which model; expected --model {edit.model}, if it is")
    if prints[0] != prints[1] if all(prints) else models[0] != models[1]:
        raise ValueError(
            f"index: {str(path)!r} is of {models[0] or 'another model'} {prints[0] or ''}; expected the model of the "
            f"patch, {edit.model} {edit.fingerprint}"
        )
    return f"of {its_model}, as {'--model' if model else 'the file or its record'} says"


def undo(edit: Edit | None, source: str | Path, out: str | Path, original: str | Path | None = None) -> str:
    """Write what an index or a file of queries was before `apply_edit`; returns in words how exact that is.

    Exact where the original is still there, by content: it is copied, and no edit is needed. Otherwise the edit is
    inverted. original: where it is now; by default where the record beside `source` says.

    Raises ValueError without a record of this patch, and where neither can be done: a module or a hidden layer has no
    inverse, and a projection takes directions away for good.
    """
    source, out = Path(source), Path(out)
    edits = read_record(source)
    if not edits:
        raise ValueError(f"patch: {str(source)!r} has no record of an edit; expected an index that was edited")
    *before, last = edits
    place = Path(original or last["source"])
    there = place.exists() and content_of(place) == last["content"]
    if edit is not None and last["patch"] != name_of(edit):
        raise ValueError(
            f"patch: {str(source)!r} was last edited with another patch ({last['method']}, {last['patch']}); expected "
            "that one, or none where the original is still there"
        )
    if there:
        rewrite([], place, out, lambda rows: rows, before)
        return f"exact: a copy of the original, {place.name}"
    if original is not None or edit is None:
        raise ValueError(f"original: {str(place)!r} is not what was edited, or changed since; expected it as it was")
    inverse, condition = inverted(edit)
    if last["side"] == "queries":
        inverse = replace(inverse, left=inverse.right, right=inverse.left)
    tables = open_tables(source, last["side"], last["array"] or None)
    rewrite(tables, source, out, changing(inverse, last["normalize"], []), before)
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
    left, right = edit.left.double(), edit.right.double()
    values = torch.linalg.svdvals(edit.matrix().double())
    condition = float(values[0] / values[-1].clamp(min=1e-300))
    if condition > MAX_CONDITION:
        raise ValueError(
            f"edit: {edit.method} takes {int((values < values[0] / MAX_CONDITION).sum())} directions away for good; "
            "expected the original to be kept, or an edit with an inverse"
        )
    inner = torch.eye(edit.rank, dtype=torch.float64) - right.T @ left
    return Edit(-left @ torch.linalg.inv(inner), right, f"inverse of {edit.method}"), condition


def name_of(edit: Edit) -> str:
    """What names a patch by its content."""
    return checksum(edit.tensors(), {})[:16]
