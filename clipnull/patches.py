"""The file of an edit: tensors and a few texts in safetensors, read with suspicion, since others may have written it.

Version 2 holds a SHA-256 over all that is in the file; version 1, without one, is still read. Whatever is wrong with a
file is a ValueError that names it: nothing in it is run, and nothing of another kind comes out of it.
"""

import hashlib
import json
import math
import re
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from .errors import brief, printable
from .files import written
from .requests import Forget

FORMAT, VERSION = "clipnull-edit", "2"
TEXTS = ("format", "version", "method", "request", "settings", "fingerprint", "model")  # of version 1
KEYS = {"1": {*TEXTS}, "2": {*TEXTS, "after", "sha256"}}
RANKS = {
    "left": 2,
    "right": 2,
    "bias": 1,
    "threshold": 1,
    "mean_text": 1,
    "gate.domains": 2,
    "gate.open": 2,
    "gate.replaced": 1,
    "gate.average": 1,
    "gate.offset": 1,
    "gate.spread": 2,
}
BOOLEAN = {"gate.open", "gate.replaced"}
FLOATING = {"F16", "BF16", "F32", "F64"}
MOST_BYTES, WIDEST = 2**30, 2**16
LONGEST = {"request": 1_000_000, "settings": 100_000}  # characters of JSON
DEEPEST = 8  # a union of requests needs four


def write(path: str | Path, tensors: Mapping[str, Tensor], request: object, settings: object, **texts: str) -> Path:
    """Write tensors and texts to a file of the newest version, whole or not at all; returns its path.

    Raises ValueError if request or settings are not JSON, or are not what `read` takes, and OSError if there is no
    place to write.
    """
    try:
        told = {"request": json.dumps(request, allow_nan=False), "settings": json.dumps(settings, allow_nan=False)}
    except (TypeError, ValueError, RecursionError) as error:
        raise ValueError(f"request, settings: {error}; expected values that JSON knows") from error
    metadata = {"format": FORMAT, "version": VERSION, **told, **texts}
    _fields(metadata)
    metadata["sha256"] = checksum(tensors, metadata)
    content = save(dict(tensors), metadata)
    with written(path) as temporary:
        temporary.write_bytes(content)
    return Path(path)


def read(path: str | Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The tensors in a file that `write` wrote, and its fields: method, request, settings, fingerprint, model, after.

    Raises ValueError for a file that is damaged, no patch, or holds what no patch holds.
    """
    path = Path(path)
    if path.exists() and not path.is_file():
        raise ValueError(f"path: {str(path)!r} is no file; expected one that Edit.save wrote")
    if path.exists() and path.stat().st_size > MOST_BYTES:
        raise ValueError(f"path: {str(path)!r} is of {path.stat().st_size:,} bytes; expected at most {MOST_BYTES:,}")
    content = path.read_bytes()  # at once: safe_open opens a path twice, and another process may replace it in between
    try:
        with tempfile.TemporaryDirectory() as folder, safe_open(_copy(content, folder), "pt") as file:
            metadata = file.metadata() or {}
            version = metadata.get("version")
            if metadata.get("format") != FORMAT or version not in KEYS:
                raise ValueError(
                    f"path: {str(path)!r} says format {brief(metadata.get('format'))}, version {brief(version)}; "
                    f"expected {FORMAT!r}, version '1' or {VERSION!r}"
                )
            try:
                tensors = _tensors(file)
                fields = _fields(metadata)
                if version != "1" and metadata.get("sha256") != checksum(tensors, metadata):
                    raise ValueError("its checksum is not that of its content; expected a file as Edit.save wrote it")
            except ValueError as error:
                raise ValueError(f"path: {str(path)!r} holds no valid edit: {error}") from error
    except SafetensorError as error:
        raise ValueError(
            f"path: {str(path)!r} is no whole safetensors file ({brief(str(error), 300)}); expected one that Edit.save "
            "wrote"
        ) from error
    return tensors, fields


def _copy(content: bytes, folder: str) -> Path:
    """A file of ours with that content, in `folder`."""
    path = Path(folder, "patch")
    path.write_bytes(content)
    return path


def checksum(tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> str:
    """SHA-256 over names, dtypes, shapes and bytes of `tensors`, and over `metadata` but for the checksum in it."""
    shapes = [[name, str(value.dtype), list(value.shape)] for name, value in sorted(tensors.items())]
    texts = sorted((key, value) for key, value in metadata.items() if key != "sha256")
    digest = hashlib.sha256(json.dumps([shapes, texts]).encode())
    for _, value in sorted(tensors.items()):
        digest.update(_bytes(value).numpy().data)
    return digest.hexdigest()


def _bytes(value: Tensor) -> Tensor:
    """A copy of what `value` is made of: (bytes,) uint8."""
    flat = torch.empty(value.numel(), dtype=value.dtype)  # one of its own has strides that can be viewed as bytes
    return flat.copy_(value.detach().flatten()).view(torch.uint8)


def _tensors(file: Any) -> dict[str, Tensor]:
    """The tensors of an open file, as stored: names, types and ranks are looked at before anything is read."""
    names = file.keys()
    for name in names:
        if name not in RANKS:
            raise ValueError(f"a tensor {brief(name)}; expected some of {', '.join(RANKS)}")
        kind, shape = file.get_slice(name).get_dtype(), tuple(file.get_slice(name).get_shape())
        if len(shape) != RANKS[name] or max(shape) > WIDEST:
            raise ValueError(f"{name} of shape {brief(shape)}; expected {RANKS[name]} dimensions, none over {WIDEST:,}")
        if (kind != "BOOL") if name in BOOLEAN else (kind not in FLOATING):
            raise ValueError(f"{name} of type {kind}; expected {'BOOL' if name in BOOLEAN else 'a floating one'}")
    if "left" not in names:
        raise ValueError("'left' is missing; expected the factors of an edit")
    tensors = {}
    for name in names:
        stored = file.get_tensor(name)  # a view of the file, which may change: what comes out is a copy
        content = stored.contiguous().view(-1).view(torch.uint8).clone()
        if name in BOOLEAN and (content > 1).any():
            raise ValueError(f"{name} with bytes that are no truth values; expected 0 and 1")
        tensors[name] = content.view(stored.dtype).view(stored.shape)
    return tensors


def _fields(metadata: Mapping[str, str]) -> dict[str, Any]:
    """What the texts of a file say, each of its right kind."""
    wanted = KEYS[metadata["version"]]
    missing, foreign = wanted - {*metadata, "sha256"}, metadata.keys() - wanted
    if missing or foreign:
        raise ValueError(
            f"{brief(sorted(missing or foreign)[0])} is {'missing' if missing else 'not known'} in its head"
        )
    for key in ("method", "model", "fingerprint"):
        if len(metadata[key]) > 4_000 or not printable(metadata[key]):
            raise ValueError(f"{key}: {brief(metadata[key])}; expected a text of at most 4,000 characters, as printed")
    after = metadata.get("after", "")
    if not re.fullmatch("([0-9a-f]{16})?", after):
        raise ValueError(f"after: {brief(after)}; expected nothing or 16 hexadecimal digits")
    request, settings = (_json(key, metadata[key]) for key in ("request", "settings"))
    if request is not None:
        Forget.from_dict(request)
    if not isinstance(settings, dict) or not all(map(_is_setting, settings, settings.values())):
        raise ValueError(f"settings: {brief(settings)}; expected names with finite numbers, texts, True or False")
    texts = {key: metadata[key] for key in ("method", "model", "fingerprint")}
    return texts | {"request": request, "settings": settings, "after": after}


def _json(key: str, text: str) -> Any:
    """What JSON says; its length and depth are looked at before it is parsed."""
    if len(text) > LONGEST[key]:
        raise ValueError(f"{key}: {len(text):,} characters; expected at most {LONGEST[key]:,}")
    depth = deepest = 0
    for bracket in re.findall(r'"(?:[^"\\]|\\.)*"|[\[\]{}]', text):
        depth += {"[": 1, "{": 1, "]": -1, "}": -1}.get(bracket, 0)
        deepest = max(deepest, depth)
    if deepest > DEEPEST:
        raise ValueError(f"{key}: brackets {deepest:,} deep; expected at most {DEEPEST}")

    def refuse(constant: str) -> None:
        raise ValueError(f"{key}: {constant}; expected finite numbers")

    try:
        return json.loads(text, parse_constant=refuse)
    except ValueError as error:
        raise ValueError(f"{key}: {brief(text)} is no JSON ({error}); expected what Edit.save wrote") from error


def _is_setting(name: str, value: object) -> bool:
    if not isinstance(name, str) or len(name) > 200 or not printable(name):
        return False
    if isinstance(value, str):
        return len(value) <= 4_000 and printable(value)
    if isinstance(value, int):
        return abs(value) < 2**63
    return value is None or isinstance(value, float) and math.isfinite(value)
