"""Edited models for others: a checkpoint of stock open_clip, or a program that needs neither."""

import copy
import json
import shutil
import tempfile
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import Tensor, nn

from .applying import takes_bias
from .files import alone, write_text, written
from .models import Clip, find_projection, open_clip, source_of, state, uncompiled, uses_quick_gelu
from .quiet import quiet


def fuse(clip: Clip, folder: str | Path) -> Path:
    """Write the edited `clip` as a checkpoint that open_clip loads without clipnull.

    The folder is in open_clip's own layout: `open_clip.create_model_and_transforms("local-dir:<folder>")` and
    `open_clip.get_tokenizer("local-dir:<folder>")`. Its config names a projection or bias that an edit put in.

    Parameters
    ----------
    clip : Clip
        With linear edits only.
    folder : str or Path
        Made if need be; each file appears whole or not at all.

    Returns
    -------
    Path
        `folder`.

    Raises
    ------
    ValueError
        For edits that no weights can hold: gated ones, and a bias where the tower has no place for it.

    Examples
    --------
    >>> import clipnull as cn, tempfile
    >>> clip = cn.load(device="cpu")
    >>> names = cn.Vocabulary(["cat", "dog"], ["photo", "line"])
    >>> edit = cn.unlearn(clip, cn.Forget(["dog"]), names, "oblique", prototypes=False)
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     sorted(file.name for file in cn.fuse(edit.apply(clip), folder).iterdir())
    ['open_clip_config.json', 'open_clip_model.safetensors']
    """
    clip.validate_encoder()
    for edit in clip.edits:
        if not edit.linear:
            raise ValueError(
                f"clip: its edit {edit.method!r} is gated: what it does depends on the picture, so that "
                "it cannot be fused into weights; expected linear edits (`export` takes any)"
            )
    projection, folder = find_projection(clip.model), Path(folder)
    adds = [edit.method for edit in clip.edits if edit.bias is not None]
    if adds and not takes_bias(projection):
        raise ValueError(
            f"clip: its edit {adds[0]!r} adds a bias, and open_clip has no place for one at "
            f"{projection.module} of {clip.name}; expected edits without a bias (`export` takes any)"
        )
    with quiet():
        config: Any = copy.deepcopy(open_clip.get_model_config(source_of(clip.name)))
    config |= {"quick_gelu": True} if uses_quick_gelu(clip.model) else {}  # which a tag may have asked for
    if projection.module.startswith("visual.head.") and projection.weight is not None:
        config["vision_cfg"] |= {"timm_proj_bias": True} if projection.bias is not None else {}
        config["vision_cfg"] |= {"timm_proj": "linear"} if projection.module == "visual.head.proj" else {}
    folder.mkdir(parents=True, exist_ok=True)
    with alone(folder):
        if hasattr(clip.tokenizer, "save_pretrained"):
            _save_tokenizer(clip.tokenizer, folder)
        with written(folder / "open_clip_model.safetensors") as temporary:
            save_file(unshared(state(clip.model)), temporary, {"format": "pt"})
        content = {"model_cfg": config, "preprocess_cfg": clip.model.visual.preprocess_cfg}
        write_text(folder / "open_clip_config.json", json.dumps(content, indent=2) + "\n")
    return folder


def _save_tokenizer(tokenizer: Any, folder: Path) -> None:
    """Its files in `folder`, each whole; transformers would write into what a link of such a name leads to."""
    with tempfile.TemporaryDirectory() as apart:
        tokenizer.save_pretrained(apart)
        for file in sorted(Path(apart).iterdir()):
            if file.is_file():
                with written(folder / file.name) as temporary:
                    shutil.copyfile(file, temporary)


def unshared(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """`tensors` on the CPU, contiguous, those that share memory copied: what safetensors asks for."""
    seen, result = set(), {}
    for name, value in tensors.items():
        value = value.cpu().contiguous()
        storage = value.untyped_storage().data_ptr()
        result[name] = value.clone() if storage in seen else value
        seen.add(storage)
    return result


class Embedder(nn.Module):
    """Preprocessed pictures (n, 3, s, s) float32 -> unit embeddings (n, d) float32."""

    def __init__(self, clip: Clip):
        super().__init__()
        self.visual, self.dtype = uncompiled(clip.model.visual), clip.weights.dtype

    def forward(self, pixels: Tensor) -> Tensor:
        z = self.visual(pixels.to(self.dtype))
        return F.normalize((z[0] if isinstance(z, tuple) else z).float(), dim=-1)


def export(clip: Clip, path: str | Path) -> Path:
    """Write the image side of `clip`, with edits of any kind, as a program that runs without clipnull.

    `torch.export.load(path).module()` takes preprocessed pictures (n, 3, s, s) float32 on the device of `clip`, any n,
    and gives unit embeddings (n, d) float32. Texts are embedded by the unedited model.

    Parameters
    ----------
    clip : Clip
    path : str or Path
        Of the file, by custom with the ending .pt2. It appears whole or not at all.

    Returns
    -------
    Path
        `path`.

    Examples
    --------
    >>> import clipnull as cn, pathlib, tempfile, torch
    >>> clip = cn.load(device="cpu")
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     program = torch.export.load(cn.export(clip, pathlib.Path(folder, "clip.pt2"))).module()
    ...     program(torch.zeros(3, 3, clip.image_size, clip.image_size)).shape
    torch.Size([3, 256])
    """
    clip.validate_encoder()
    pixels = torch.zeros(2, 3, clip.image_size, clip.image_size, device=clip.device)
    with torch.no_grad():
        program = torch.export.export(
            Embedder(clip).eval(), (pixels,), strict=False, dynamic_shapes=({0: torch.export.Dim("n")},)
        )
    with written(path) as temporary:
        torch.export.save(program, temporary)
    return Path(path)
