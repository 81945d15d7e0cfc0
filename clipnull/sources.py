"""Where a model comes from: what open_clip would run or read outside a model's folder is refused before it looks."""

import json
import os
import re
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open

from .errors import one_line

CONFIG = "open_clip_config.json"
WEIGHTS = (
    "open_clip_model.safetensors", "open_clip_pytorch_model.safetensors", "open_clip_pytorch_model.bin",
    "open_clip_pytorch_model.pth", "model.safetensors", "pytorch_model.bin", "pytorch_model.pth", "model.pth",
)  # fmt: skip
"""The names that open_clip looks for in a folder, in this order; after them, any of ENDINGS."""
ENDINGS = (".safetensors", ".bin", ".pth")
MAX_CONFIG_BYTES = 10**6
HUB_NAME = re.compile(r"[\w-][\w.-]*(/[\w-][\w.-]*)?")


def validate_source(source: str) -> bool:
    """Whether "local-dir:FOLDER" or "hf-hub:NAME" brings a tokenizer of transformers.

    Raises ValueError if it would run code, reads outside its folder or lacks weights. Of a model on the hub, only the
    configuration is downloaded.
    """
    kind, _, place = source.partition(":")
    folder = Path(place) if kind == "local-dir" else None
    if folder:
        if not place or not folder.is_dir():
            raise ValueError(f"name: {source!r}: {place!r} is not a folder; expected one with {CONFIG} and weights")
        if weights_in(folder) is None:
            raise ValueError(
                f"name: {source!r}: no weights in {place!r}; expected {WEIGHTS[0]}, or another file that ends in "
                f"{', '.join(ENDINGS)}"
            )
    return _validate_config(folder / CONFIG if folder else _download_config(place), folder)


def weights_in(folder: Path) -> Path | None:
    """The checkpoint in `folder` that open_clip takes."""
    files = [path for path in folder.iterdir() if path.suffix in ENDINGS and path.is_file()]
    rank = {name: i for i, name in enumerate(WEIGHTS)}
    return min(files, key=lambda p: (rank.get(p.name, len(rank)), p.suffix != ENDINGS[0], p), default=None)


def validate_checkpoint(argument: str, path: Path) -> None:
    """Raises ValueError if the weights at `path` are damaged, or a pickle that holds more than tensors."""
    try:
        if path.suffix == ".safetensors":
            with safe_open(path, "pt") as file:
                file.keys()
        elif zipfile.is_zipfile(path) and any(n.endswith("/constants.pkl") for n in zipfile.ZipFile(path).namelist()):
            raise ValueError("it is a program of TorchScript, as OpenAI's own files are")
        elif path.suffix not in (".npz", ".npy"):  # NumPy reads no pickles
            weights = torch.load(path, "cpu", weights_only=True, mmap=zipfile.is_zipfile(path))
            if not isinstance(weights, dict) or not weights:
                raise ValueError(f"it holds {type(weights).__name__} and not weights by their names")
    except PermissionError:
        raise
    except Exception as error:  # the readers raise anything on garbage
        raise ValueError(
            f"{argument}: {str(path)!r} cannot be read ({type(error).__name__}: {one_line(error)}); expected weights "
            "in safetensors, or a checkpoint of PyTorch that holds tensors and no code"
        ) from error


def _download_config(repository: str) -> Path:
    from huggingface_hub import hf_hub_download

    try:
        return Path(hf_hub_download(repo_id=repository, filename=CONFIG))
    except Exception as error:  # of the network, of the hub, of the name
        raise OSError(
            f"name: 'hf-hub:{repository}': its {CONFIG} cannot be had ({type(error).__name__}: {one_line(error)}); "
            "expected a model of open_clip on the hub, and the hub within reach"
        ) from error


def _validate_config(file: Path, folder: Path | None) -> bool:
    model = _read_json(file).get("model_cfg")
    text, vision = (model.get(key) for key in ("text_cfg", "vision_cfg")) if isinstance(model, dict) else (None, None)
    if not isinstance(text, dict) or not isinstance(vision, dict):
        raise ValueError(f"name: {str(file)!r} is not a configuration of open_clip; expected a model_cfg of two towers")
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
    for key in ("hf_model_name",) if folder else ("hf_model_name", "hf_tokenizer_name"):
        if text.get(key):
            folders |= _validate_name(file, key, text[key], folder)
    for path in (place / name for place in folders for name in ("config.json", "tokenizer_config.json")):
        for key, value in _entries(_read_json(path)) if path.exists() else ():
            if key == "auto_map":
                raise _runs_code(path, key, value)
    return bool(text.get("hf_tokenizer_name"))


def _validate_name(file: Path, key: str, value: object, folder: Path | None) -> set[Path]:
    """The folder that `value` names inside `folder`, none where it is a name on the hub."""
    if isinstance(value, str) and HUB_NAME.fullmatch(value) and not os.path.exists(value):
        if key == "hf_model_name":
            _validate_tower(file, value)
        return set()
    if folder and isinstance(value, str) and Path(value).resolve().is_relative_to(folder.resolve()):
        return {Path(value)}
    raise _leads_out(file, key, value)


def _validate_tower(file: Path, name: str) -> None:
    """Raises ValueError if the text tower `name` on the hub brings code: transformers would offer to run it."""
    try:
        from transformers import AutoConfig

        AutoConfig.from_pretrained(name, trust_remote_code=False)
    except ValueError as error:
        if "trust_remote_code" in str(error):
            raise _runs_code(file, "hf_model_name", name) from error
    except (ImportError, OSError):
        return  # open_clip reports it, too


def _read_json(file: Path) -> dict[str, Any]:
    try:
        if not file.is_file():
            raise ValueError("it is not a file")
        if file.stat().st_size > MAX_CONFIG_BYTES:
            raise ValueError(f"it has more than {MAX_CONFIG_BYTES} bytes")
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
    if isinstance(content, dict):
        yield from content.items()
    for value in content.values() if isinstance(content, dict) else content if isinstance(content, list) else ():
        yield from _entries(value)


def _runs_code(file: Path, key: str, value: object) -> ValueError:
    return ValueError(
        f"name: {str(file)!r} says {key} = {one_line(value)!r}, which runs code of the model's own; expected settings "
        "and weights only"
    )


def _leads_out(file: Path, key: str, value: object) -> ValueError:
    return ValueError(
        f"name: {str(file)!r} says {key} = {one_line(value)!r}; expected a name on the hub, or a path inside its folder"
    )
