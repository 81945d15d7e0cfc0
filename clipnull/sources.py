"""Where a model comes from, and what of it is refused before open_clip sees it.

Files of a model are numbers and settings. Two kinds of settings would make them programs: what lets `transformers`
import a module that lies beside the weights, and checkpoints in pickles, which can hold code. Both are refused, and so
is a path that leads out of the folder.
"""

import json
import os
import re
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open

from .clean import BASE, NAMES
from .errors import one_line, one_of
from .files import data_folder

CONFIG = "open_clip_config.json"
WEIGHTS = (
    "open_clip_model.safetensors", "open_clip_pytorch_model.safetensors", "open_clip_pytorch_model.bin",
    "open_clip_pytorch_model.pth", "model.safetensors", "pytorch_model.bin", "pytorch_model.pth", "model.pth",
)  # fmt: skip
"""The names that open_clip looks for in a folder, in this order; then it takes any of ENDINGS."""
ENDINGS = (".safetensors", ".bin", ".pth")
LARGEST = 10**6
"""Bytes of a configuration: real ones have some thousand."""

HUB_NAME = re.compile(r"[\w-][\w.-]*(/[\w-][\w.-]*)?")


def source_of(name: str, known: list[str]) -> str:
    """What open_clip calls the model `name`; `known` are its own architectures."""
    if name in (BASE, *NAMES):
        return f"local-dir:{data_folder(BASE)}"
    if isinstance(name, str) and name.startswith(("hf-hub:", "local-dir:")):
        return name
    return one_of("name", name, [BASE, *NAMES, *known])


def validate_source(source: str) -> bool:
    """Whether the tokenizer of `source` is one of transformers; ValueError if it would run code or has no weights.

    Of a model on the hub, this downloads the configuration and nothing else.
    """
    kind, _, place = source.partition(":")
    if kind not in ("local-dir", "hf-hub"):
        return False
    folder = Path(place) if kind == "local-dir" else None
    if folder:
        if not place or not folder.is_dir():
            raise ValueError(f"name: {source!r}: {place!r} is not a folder; expected one with {CONFIG} and weights")
        if weights_in(folder) is None:
            raise ValueError(
                f"name: {source!r}: no weights in {place!r}; expected {WEIGHTS[0]}, or another file that ends in "
                f"{', '.join(ENDINGS)}"
            )
    file = folder / CONFIG if folder else _from_hub(place)
    return _validate_config(file, folder)


def weights_in(folder: Path) -> Path | None:
    """The checkpoint that open_clip takes of those in `folder`."""
    found = [path for path in folder.iterdir() if path.suffix in ENDINGS and path.is_file()]
    rank = {name: i for i, name in enumerate(WEIGHTS)}
    return min(found, key=lambda p: (rank.get(p.name, len(rank)), p.suffix != ENDINGS[0], p), default=None)


def validate_checkpoint(argument: str, path: Path) -> None:
    """ValueError if the file of weights at `path` is damaged, or is a pickle that holds more than tensors."""
    try:
        if path.suffix == ".safetensors":
            with safe_open(path, "pt") as found:
                found.keys()
        elif zipfile.is_zipfile(path) and any(n.endswith("/constants.pkl") for n in zipfile.ZipFile(path).namelist()):
            raise ValueError("it is a program of TorchScript, as OpenAI's own files are")
        elif path.suffix not in (".npz", ".npy"):  # numpy itself reads no pickles
            found = torch.load(path, "cpu", weights_only=True, mmap=zipfile.is_zipfile(path))
            if not isinstance(found, dict) or not found:
                raise ValueError(f"it holds {type(found).__name__} and not weights by their names")
    except PermissionError:
        raise
    except Exception as error:  # whatever garbage makes the readers say
        raise _damaged(argument, path, error) from error


def _damaged(argument: str, file: object, error: Exception) -> ValueError:
    return ValueError(
        f"{argument}: {str(file)!r} cannot be read ({type(error).__name__}: {one_line(error)}); expected weights in "
        "safetensors, or a checkpoint of PyTorch that holds tensors and no code"
    )


def _from_hub(repository: str) -> Path:
    """The configuration of the model `repository` on the hub, downloaded if need be."""
    from huggingface_hub import hf_hub_download

    try:
        return Path(hf_hub_download(repo_id=repository, filename=CONFIG))
    except Exception as error:  # of the network, of the hub, of the name
        raise OSError(
            f"name: 'hf-hub:{repository}': its {CONFIG} cannot be had ({type(error).__name__}: {one_line(error)}); "
            "expected a model of open_clip on the hub, and the hub within reach"
        ) from error


def _validate_config(file: Path, folder: Path | None) -> bool:
    """See `validate_source`."""
    model = _json(file).get("model_cfg")
    text, vision = (model.get(key) for key in ("text_cfg", "vision_cfg")) if isinstance(model, dict) else (None, None)
    if not isinstance(text, dict) or not isinstance(vision, dict):
        raise ValueError(f"name: {str(file)!r} is no configuration of open_clip; expected model_cfg with both towers")
    for key, value in _entries(model):
        if key == "auto_map" or (key == "trust_remote_code" and value is not False):
            raise _runs_code(file, key, value)
    if str(vision.get("timm_model_name", "")).startswith("local-dir:"):
        raise _leads_out(file, "timm_model_name", vision["timm_model_name"])
    settings = text.get("tokenizer_kwargs") or {}
    for key, value in settings.items() if isinstance(settings, dict) else [("tokenizer_kwargs", "/")]:
        if isinstance(value, str) and {"/", "\\"} & {*value}:
            raise _leads_out(file, key, value)
    folders = {folder} if folder and text.get("hf_tokenizer_name") else set()
    for key in ("hf_model_name", "hf_tokenizer_name"):
        value = text.get(key)
        if not value or (folder and key == "hf_tokenizer_name"):  # which open_clip looks for in the folder
            continue
        if isinstance(value, str) and HUB_NAME.fullmatch(value) and not os.path.exists(value):
            if key == "hf_model_name":
                _validate_tower(file, value)
        elif folder and isinstance(value, str) and _inside(Path(value), folder):
            folders.add(Path(value))
        else:
            raise _leads_out(file, key, value)
    for place in folders:
        for path in (place / "config.json", place / "tokenizer_config.json"):
            for key, value in _entries(_json(path)) if path.exists() else ():
                if key == "auto_map":
                    raise _runs_code(path, key, value)
    return bool(text.get("hf_tokenizer_name"))


def _validate_tower(file: Path, name: str) -> None:
    """ValueError if the text tower `name` on the hub brings code of its own: transformers would offer to run it."""
    try:
        from transformers import AutoConfig

        AutoConfig.from_pretrained(name, trust_remote_code=False)
    except ValueError as error:
        if "trust_remote_code" in str(error):
            raise _runs_code(file, "hf_model_name", name) from error
    except (ImportError, OSError):
        return  # open_clip says so, too


def _json(file: Path) -> dict[str, Any]:
    """What the configuration `file` holds."""
    try:
        if not file.is_file():
            raise ValueError("it is no file")
        if file.stat().st_size > LARGEST:
            raise ValueError(f"it has more than {LARGEST} bytes")
        content = json.loads(file.read_text(encoding="utf-8"))
        if not isinstance(content, dict):
            raise ValueError(f"it holds a {type(content).__name__}")
    except (ValueError, RecursionError) as error:
        raise ValueError(
            f"name: the configuration {str(file)!r} cannot be read ({one_line(error)}); expected a JSON object"
        ) from error
    return content


def _entries(content: object) -> Iterator[tuple[str, object]]:
    """Every key with its value, at any depth."""
    waiting = [content]
    while waiting:
        value = waiting.pop()
        if isinstance(value, dict):
            yield from value.items()
            waiting += value.values()
        elif isinstance(value, list):
            waiting += value


def _inside(path: Path, folder: Path) -> bool:
    return path.resolve().is_relative_to(folder.resolve())


def _runs_code(file: Path, key: str, value: object) -> ValueError:
    return ValueError(
        f"name: {str(file)!r} says {key} = {one_line(value)!r}, which runs code of the model's own; expected settings "
        "and weights only"
    )


def _leads_out(file: Path, key: str, value: object) -> ValueError:
    return ValueError(
        f"name: {str(file)!r} says {key} = {one_line(value)!r}; expected a name on the hub, or a path inside its folder"
    )
