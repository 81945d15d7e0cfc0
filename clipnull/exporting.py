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

from .applying import rebuild, takes_bias
from .data import Images, load_images
from .edit import Edit
from .embedding import embed
from .files import alone, write_text, written
from .models import Clip, Projection, find_projection, open_clip, source_of, state, uncompiled, uses_quick_gelu
from .quiet import quiet

SHARP = 30.0
"""How sharply gelu bends: a unit is within 0.17 / SHARP, 0.6 %, of its threshold from a relu."""


def fuse(clip: Clip, folder: str | Path, pictures: Images | None = None) -> Path:
    """Write the edited `clip` as a checkpoint that open_clip loads without clipnull.

    The folder is in open_clip's own layout: `open_clip.create_model_and_transforms("local-dir:<folder>")` and
    `open_clip.get_tokenizer("local-dir:<folder>")`. Its config names a projection or bias that an edit put in.

    Parameters
    ----------
    clip : Clip
        With linear edits, and after them one of form "layer" at most (`neuron`), if its tower comes from timm with a
        linear head or none: open_clip's config knows an MLP in that place, see `mlp_head`.
    folder : str or Path
        Made if need be; each file appears whole or not at all.
    pictures : Images, optional
        For a hidden layer: any pictures, to learn how long embeddings are (`length_of`), since weights cannot compute
        the |z| in its threshold; by default the training pictures of miniworld. Nothing else is taken from them.

    Returns
    -------
    Path
        `folder`.

    Raises
    ------
    ValueError
        For edits that no weights can hold: gated ones, a hidden layer or a bias where the tower has no place for it.

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
    projection, folder = find_projection(clip.model), Path(folder)
    hidden = clip.edits[-1] if clip.edits and clip.edits[-1].form == "layer" else None
    for edit in clip.edits[:-1] if hidden else clip.edits:
        if edit.form == "layer":
            raise ValueError(
                f"clip: its edit {edit.method!r} is a hidden layer and another one follows; expected one such edit, "
                "the last (`export` takes any)"
            )
        if not edit.linear:
            raise ValueError(
                f"clip: its edit {edit.method!r} is gated: what it does depends on the picture, so that "
                "it cannot be fused into weights; expected linear edits (`export` takes any)"
            )
    if hidden and projection.module != "visual.head.proj":
        raise ValueError(
            f"clip: its edit {hidden.method!r} is a hidden layer, and open_clip has no place for one at "
            f"{projection.module} of {clip.name}; expected a timm tower with a linear head or none, or a linear edit "
            "such as 'oblique' (`export` writes any as a program)"
        )
    adds = [edit.method for edit in clip.edits if edit.bias is not None]
    if adds and not takes_bias(projection):
        raise ValueError(
            f"clip: its edit {adds[0]!r} adds a bias, and open_clip has no place for one at "
            f"{projection.module} of {clip.name}; expected edits without a bias (`export` takes any)"
        )
    weights = state(clip.model)
    if hidden:
        weights = {key: value for key, value in weights.items() if not key.startswith(projection.module + ".")}
        weights |= mlp_head(projection, hidden, *length_of(clip, pictures or load_images(split="train")))
    with quiet():
        config: Any = copy.deepcopy(open_clip.get_model_config(source_of(clip.name)))
    config |= {"quick_gelu": True} if uses_quick_gelu(clip.model) else {}  # which a tag may have asked for
    if projection.module.startswith("visual.head.") and projection.weight is not None:
        config["vision_cfg"] |= {"timm_proj_bias": True} if projection.bias is not None else {}
        config["vision_cfg"] |= {"timm_proj": "linear"} if projection.module == "visual.head.proj" else {}
    if hidden:
        config["vision_cfg"]["timm_proj"] = "mlp"
    folder.mkdir(parents=True, exist_ok=True)
    with alone(folder):
        if hasattr(clip.tokenizer, "save_pretrained"):
            _save_tokenizer(clip.tokenizer, folder)
        with written(folder / "open_clip_model.safetensors") as temporary:
            save_file(unshared(weights), temporary, {"format": "pt"})
        content = {"model_cfg": config, "preprocess_cfg": clip.model.visual.preprocess_cfg}
        write_text(folder / "open_clip_config.json", json.dumps(content, indent=2) + "\n")
    return folder


@torch.no_grad()
def length_of(clip: Clip, pictures: Images) -> tuple[Tensor, Tensor]:
    """m (d,) and c with |z| about z m + c, by ridge regression on what `clip` makes of `pictures`, linear edits only.

    On miniclip lengths vary by 6.3 around 27.5 on other pictures, and this is off by 1.5.
    """
    z = embed(rebuild(clip.base or clip, tuple(edit for edit in clip.edits if edit.linear)), pictures).double()
    z = z[~z.isnan().any(1)]
    x, lengths = z - z.mean(0), z.norm(dim=1)
    gram = x.T @ x
    ridge = 0.005 * gram.trace() / len(gram) * torch.eye(len(gram), dtype=gram.dtype)
    m = torch.linalg.solve(gram + ridge, x.T @ (lengths - lengths.mean()))
    return m, lengths.mean() - z.mean(0) @ m


@torch.no_grad()
def mlp_head(projection: Projection, edit: Edit, m: Tensor, c: Tensor) -> dict[str, Tensor]:
    """The weights of timm's MLP (2d hidden units, gelu) that do what the projection and the hidden layer `edit` do.

    With z = f W + b: x = gelu(x) - gelu(-x), so that two units carry one direction of z unchanged. Each pair of units
    of the edit takes the place of a direction that z varies least in, the smallest singular values of W. A unit of the
    edit is gelu(s y) / s, close to relu(y), with y = z v_c - o_c (z m + c) and s = SHARP / o_c c.

    Raises ValueError if the edit has more than d/4 units.
    """
    d, r = edit.left.shape
    if 4 * r > d:
        raise ValueError(f"clip: its edit {edit.method!r} has {r} units; expected at most {d // 4} in {d} dimensions")
    stored, least = projection.weight, edit.threshold
    assert least is not None
    w = torch.eye(d, dtype=torch.float64) if stored is None else stored.double().cpu().T  # (D, d)
    b = torch.zeros(d, dtype=torch.float64) if projection.bias is None else projection.bias.double().cpu()
    axes = torch.linalg.svd(w, full_matrices=False).Vh[: d - -(-r // 2)].T  # (d, kept)
    sharp = SHARP / (least.clamp(min=1e-3) * c.abs().clamp(min=1e-3))
    none = torch.zeros(d, 2 * d - 2 * axes.shape[1] - r, dtype=w.dtype)  # of an odd r, a unit is left over
    read = torch.cat([axes, -axes, (edit.left - m[:, None] * least) * sharp, none], dim=1)  # (d, 2d)
    shift = torch.cat([torch.zeros(2 * axes.shape[1], dtype=w.dtype), -least * c * sharp, none[0]])
    write = torch.cat([axes, -axes, -edit.right / sharp, none], dim=1)
    kind = torch.float32 if stored is None else stored.dtype
    found = {"fc1.weight": (w @ read).T, "fc1.bias": b @ read + shift, "fc2.weight": write}
    if projection.bias is not None:  # what the MLP carries holds b already
        found["fc2.bias"] = torch.zeros(d, dtype=w.dtype)
    return {f"visual.head.mlp.{name}": value.to(kind).contiguous() for name, value in found.items()}


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
