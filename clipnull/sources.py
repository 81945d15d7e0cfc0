"""Where a model comes from: what open_clip would run or read outside a model's folder is refused before it looks."""

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
WEIGHTS = (".safetensors", ".bin", ".pth")
"""How the names of checkpoints end that open_clip looks for in a folder."""
MAX_CONFIG_BYTES = 10**6
NAMES = ("hf_model_name", "hf_tokenizer_name", "timm_model_name")
"""Settings that name a tower or a tokenizer. They, and no others, may hold a slash: that of a name on the hub."""
HUB_NAME = re.compile(r"(hf-hub:)?[\w-][\w.-]*(/[\w-][\w.-]*)?")


def validate_source(source: str) -> bool:
    """Whether "local-dir:FOLDER" or "hf-hub:NAME" brings a tokenizer of transformers.

    Raises ValueError if it would run code, reads outside its folder, or lacks sound weights. Of a model on the hub,
    only the configuration is downloaded.
    """
    kind, _, place = source.partition(":")
    folder = Path(place) if kind == "local-dir" else None
    if folder:
        weights = [path for path in folder.glob("*") if path.suffix in WEIGHTS] if place else []
        if not weights or not all(path.is_file() for path in weights):
            raise ValueError(
                f"name: {source!r} is not a folder with weights; expected {CONFIG} and open_clip_model.safetensors"
            )
        for path in weights:  # whichever open_clip takes
            validate_checkpoint("name", path)
    config = _read_json(folder / CONFIG) if folder else {"model_cfg": _download_config(source)}
    model, prepared = config.get("model_cfg"), config.get("preprocess_cfg")
    text, vision = (model.get(key) for key in ("text_cfg", "vision_cfg")) if isinstance(model, dict) else (None, None)
    if not isinstance(text, dict) or not isinstance(vision, dict):
        raise ValueError(f"name: {source!r}: its {CONFIG} is damaged; expected a model_cfg of two towers")
    tokenizer = bool(text.get("hf_tokenizer_name"))
    for key, value in _entries(model):
        if not (folder and key == "hf_tokenizer_name"):  # a folder brings the tokenizer itself
            _validate_setting(f"{source}/{CONFIG}", key, value)
    for name in ("config.json", "tokenizer_config.json"):
        if folder and tokenizer and (folder / name).exists():
            for key, value in _entries(_read_json(folder / name)):
                if key == "auto_map":
                    _validate_setting(f"{source}/{name}", key, value)
    if folder and not (isinstance(prepared, dict) and {"mean", "std", "interpolation"} <= prepared.keys()):
        warnings.warn(
            f"name: {source!r}: pictures are prepared as for OpenAI's CLIP where {CONFIG} is silent", stacklevel=3
        )
    return tokenizer


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


def _download_config(source: str) -> dict[str, Any] | None:
    import open_clip

    try:
        return open_clip.get_model_config(source)
    except Exception as error:  # of the network, of the hub, of the name
        raise OSError(
            f"name: {source!r}: its {CONFIG} cannot be had ({one_line(error)}); expected a model of open_clip on the "
            "hub, and the hub within reach"
        ) from error


def _validate_setting(file: str, key: object, value: object) -> None:
    """Raises ValueError if a setting asks for code, or names something outside the model's folder."""
    if key in NAMES:
        name = isinstance(value, str) and HUB_NAME.fullmatch(value) and not os.path.exists(value)
        sound = not value or name and not (key == "hf_model_name" and _brings_code(str(value)))
    elif key in ("auto_map", "trust_remote_code"):
        sound = value is False
    else:
        sound = not (isinstance(value, str) and {"/", "\\"} & {*value})
    if not sound:
        raise ValueError(f"name: {file!r} says {key} = {one_line(value)!r}; expected settings, no code and no path")


def _brings_code(name: str) -> bool:
    """Whether the text tower `name` on the hub brings code, which transformers would offer to run."""
    try:
        from transformers import AutoConfig

        AutoConfig.from_pretrained(name, trust_remote_code=False)
    except (ImportError, OSError, ValueError) as error:  # whatever else is wrong, open_clip reports
        return "trust_remote_code" in str(error)
    return False


def _read_json(file: Path) -> dict[str, Any]:
    try:
        if not file.is_file() or file.stat().st_size > MAX_CONFIG_BYTES:
            raise ValueError(f"it is not a file of at most {MAX_CONFIG_BYTES:,} bytes")
        return dict(json.loads(file.read_text(encoding="utf-8")).items())
    except (ValueError, AttributeError, RecursionError) as error:
        raise ValueError(f"name: {str(file)!r} cannot be read ({one_line(error)}); expected a JSON object") from error


def _entries(content: object) -> Iterator[tuple[object, object]]:
    """Every key with its value, at any depth."""
    pairs = content.items() if isinstance(content, dict) else enumerate(content) if isinstance(content, list) else ()
    for key, value in pairs:
        yield key, value
        yield from _entries(value)
