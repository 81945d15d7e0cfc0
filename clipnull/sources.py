"""Checks on the source of a model, so that open_clip neither runs its code nor reads outside its folder."""

import json
import os
import re
import warnings
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open

from .errors import one_line

CONFIG = "open_clip_config.json"
WEIGHTS = (".safetensors", ".bin", ".pth")  # the suffixes of checkpoints that open_clip looks for in a folder
MAX_CONFIG_BYTES = 10**6
NAMES = ("hf_model_name", "hf_tokenizer_name", "timm_model_name")
"""The only settings that may contain a slash: each names a tower or tokenizer, which may be on the hub."""
HUB_NAME = re.compile(r"(hf-hub:)?[\w-][\w.-]*(/[\w-][\w.-]*)?")


def validate_source(source: str) -> bool:
    """Return True if "local-dir:FOLDER" or "hf-hub:NAME" has a tokenizer of transformers.

    Raise ValueError if it would run code, reads outside its folder or lacks valid weights. Only the configuration of a
    model on the hub is downloaded.
    """
    kind, _, place = source.partition(":")
    folder = Path(place) if kind == "local-dir" else None
    if folder:
        weights = [path for path in folder.glob("*") if path.suffix in WEIGHTS] if place else []
        if not weights or not all(path.is_file() for path in weights):
            raise ValueError(f"name: {source!r} has no weights; expected {CONFIG} and open_clip_model.safetensors")
        for path in weights:  # open_clip may load any of them
            validate_checkpoint("name", path)
    config = _read_json(folder / CONFIG) if folder else {"model_cfg": _download_config(source)}
    model, preprocessing = config.get("model_cfg"), config.get("preprocess_cfg")
    if not isinstance(model, dict) or not all(isinstance(model.get(k), dict) for k in ("text_cfg", "vision_cfg")):
        raise ValueError(f"name: {source!r} has a damaged {CONFIG}; expected a model_cfg with two towers")
    tokenizer = bool(model["text_cfg"].get("hf_tokenizer_name"))
    for key, value in _entries(model):
        if not (folder and key == "hf_tokenizer_name"):  # a folder has its own tokenizer
            _validate_setting(f"{source}/{CONFIG}", key, value)
    for name in ("config.json", "tokenizer_config.json"):
        if folder and tokenizer and (folder / name).exists():
            for key, value in _entries(_read_json(folder / name)):
                if key == "auto_map":
                    _validate_setting(f"{source}/{name}", key, value)
    if folder and not (isinstance(preprocessing, dict) and {"mean", "std", "interpolation"} <= preprocessing.keys()):
        warnings.warn(f"name: {source!r} lacks preprocessing settings, which default to OpenAI's CLIP", stacklevel=3)
    return tokenizer


def validate_checkpoint(argument: str, path: Path) -> None:
    """Raise ValueError if the weights at `path` are damaged, or if a pickle holds anything but tensors."""
    try:
        if path.suffix == ".safetensors":
            with safe_open(path, "pt") as file:
                file.keys()
        elif zipfile.is_zipfile(path) and any(n.endswith("/constants.pkl") for n in zipfile.ZipFile(path).namelist()):
            raise ValueError("it is a TorchScript program, like OpenAI's own files")
        elif path.suffix not in (".npz", ".npy"):  # open_clip loads NumPy files without pickles
            weights = torch.load(path, "cpu", weights_only=True, mmap=zipfile.is_zipfile(path))
            if not isinstance(weights, dict) or not weights:
                raise ValueError(f"it holds {type(weights).__name__}; expected a dictionary of weights")
    except PermissionError:
        raise
    except Exception as error:  # on garbage, readers raise exceptions of any class
        raise ValueError(
            f"{argument}: {str(path)!r} cannot be read ({type(error).__name__}: {one_line(error)}); expected "
            "safetensors, or a PyTorch checkpoint that holds only tensors"
        ) from error


def _download_config(source: str) -> dict[str, Any] | None:
    import open_clip

    try:
        return open_clip.get_model_config(source)
    except Exception as error:  # network, hub and names fail in many ways
        raise OSError(
            f"name: {source!r} does not provide {CONFIG} ({one_line(error)}); expected an open_clip model on the hub, "
            "and a network connection"
        ) from error


def _validate_setting(file: str, key: object, value: object) -> None:
    """Raise ValueError if a setting asks for code, or points outside the model's folder."""
    if key in NAMES:
        on_hub = isinstance(value, str) and HUB_NAME.fullmatch(value) and not os.path.exists(value)
        safe = not value or on_hub and not (key == "hf_model_name" and _has_code(str(value)))
    elif key in ("auto_map", "trust_remote_code"):
        safe = value is False
    else:
        safe = not (isinstance(value, str) and {"/", "\\"} & {*value})
    if not safe:
        raise ValueError(f"name: {file!r} sets {key} = {one_line(value)!r}; expected no code and no path")


def _has_code(name: str) -> bool:
    """Return True if the text tower `name` on the hub contains code, which transformers would offer to run."""
    try:
        from transformers import AutoConfig

        AutoConfig.from_pretrained(name, trust_remote_code=False)
    except (ImportError, OSError, ValueError) as error:  # open_clip reports all other errors
        return "trust_remote_code" in str(error)
    return False


def _read_json(file: Path) -> dict[str, Any]:
    try:
        if not file.is_file() or file.stat().st_size > MAX_CONFIG_BYTES:
            raise ValueError(f"not a file of at most {MAX_CONFIG_BYTES:,} bytes")
        return dict(json.loads(file.read_text(encoding="utf-8")).items())
    except (ValueError, AttributeError, RecursionError) as error:
        raise ValueError(f"name: {str(file)!r} cannot be read ({one_line(error)}); expected a JSON object") from error


def _entries(content: object) -> Iterator[tuple[object, object]]:
    """Yield every key with its value, at any depth."""
    pairs = content.items() if isinstance(content, dict) else enumerate(content) if isinstance(content, list) else ()
    for key, value in pairs:
        yield key, value
        yield from _entries(value)
