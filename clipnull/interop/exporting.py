"""Edited models for others: a checkpoint of stock open_clip or transformers, or a program that needs neither."""

import copy
import json
import shutil
import tempfile
import warnings
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import Tensor, nn

from ..datasets.loading import load_images
from ..edit import Edit
from ..embedding import embed
from ..errors import import_extra, one_of
from ..files import alone, write_text, written
from ..images import Images
from ..layers import on_texts, rebuild, takes_bias
from ..models import Clip, open_clip, quiet, source_of, state, uses_quick_gelu
from ..towers import Projection, find_projection, uncompiled
from .transformers import Adapter, save

# --- A hidden layer in the place where open_clip's config knows an MLP: the weights of timm's head for a `neuron` edit.

SHARP = 30.0
"""How sharply gelu bends: a unit is within 0.17 / SHARP, 0.6 %, of its threshold from a relu."""


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


# --- exporting

ONNX_TOLERANCE, ONNX_BYTES = 1e-5, 2**31 - 2**20
"""How far a number of a unit embedding may be off in onnxruntime; what one file of ONNX, a protobuf, can hold."""


def fuse(clip: Clip, folder: str | Path, pictures: Images | None = None, side: str = "image") -> Path:
    """Write the edited `clip` as a checkpoint that open_clip, or transformers, loads without clipnull.

    A model of open_clip is written in its own layout: `open_clip.create_model_and_transforms("local-dir:<folder>")` and
    `open_clip.get_tokenizer("local-dir:<folder>")`. Its config names a projection or bias that an edit put in. A model
    of transformers (`wrap`) is read by `CLIPModel.from_pretrained(folder)` and `CLIPProcessor.from_pretrained(folder)`;
    it has a place for linear edits without a bias, and SigLIP's image tower for none.

    Parameters
    ----------
    clip : Clip
        With linear edits, and after them one of form "layer" at most (`neuron`), if its tower comes from timm with a
        linear head or none: open_clip's config knows an MLP in that place, see `mlp_head`.
    folder : str or Path
        Made if need be; each file appears whole or not at all. For transformers it has to be new or empty, and appears
        as a whole.
    pictures : Images, optional
        For a hidden layer: any pictures, to learn how long embeddings are (`length_of`), since weights cannot compute
        the |z| in its threshold; by default the training pictures of miniworld. Nothing else is taken from them.
    side : str
        "text" writes linear edits without a bias into the text projection and leaves the image tower alone, for who
        keeps an index of pictures and can change the text tower only. Dot products are the same, cosines are not: see
        `applying.on_texts`.

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
    clip = on_texts(clip) if one_of("side", side, ["image", "text"]) == "text" else clip
    if isinstance(clip.model, Adapter):
        return save(clip, Path(folder))
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

    It takes prepared pictures (n, 3, s, s) float32, any n, and gives unit embeddings (n, d) float32. Texts are embedded
    by the unedited model. `torch.export.load(path).module()` reads it, on the device of `clip`; a path that ends in
    .onnx gets an ONNX model, with the input "pixels" and the output "embeddings", for onnxruntime and others.

    Parameters
    ----------
    clip : Clip
    path : str or Path
        Of the file: .onnx, or anything else, by custom .pt2. It appears whole or not at all, and an ONNX model only
        after onnxruntime has given the same embeddings with it, to ONNX_TOLERANCE.

    Returns
    -------
    Path
        `path`.

    Raises
    ------
    ValueError
        For a file of embeddings; and for ONNX, of a model that is not in float32 or has 2 GB of weights, which is the
        most that one such file holds.
    ImportError
        For ONNX without the extra "onnx".

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
    embedder, shapes = Embedder(clip).eval(), ({0: torch.export.Dim("n")},)
    if Path(path).suffix.lower() == ".onnx":
        return _export_onnx(embedder, pixels, shapes, Path(path))
    with torch.no_grad():
        program = torch.export.export(embedder, (pixels,), strict=False, dynamic_shapes=shapes)
    with written(path) as temporary:
        torch.export.save(program, temporary)
    return Path(path)


def _export_onnx(embedder: Embedder, pixels: Tensor, shapes: tuple, path: Path) -> Path:
    """See `export`."""
    for module in ("onnx", "onnxscript"):  # which torch needs
        import_extra(module, "onnx")
    runtime: Any = import_extra("onnxruntime", "onnx")
    size = sum(value.nbytes for value in embedder.state_dict().values())
    if embedder.dtype != torch.float32 or size >= ONNX_BYTES:
        raise ValueError(
            f"clip: weights of {embedder.dtype}, {size:,} bytes; expected torch.float32 and less than {ONNX_BYTES:,} "
            "for ONNX (a path with the ending .pt2 takes any)"
        )
    with torch.no_grad(), quiet(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of how the exporter works
        program: Any = torch.onnx.export(
            embedder, (pixels,), dynamo=True, dynamic_shapes=shapes, input_names=["pixels"],
            output_names=["embeddings"], verbose=False,
        )  # fmt: skip
        trial = torch.rand(3, *pixels.shape[1:], generator=torch.Generator().manual_seed(0))
        expected = embedder(trial.to(pixels.device)).cpu()
    with written(path) as temporary:
        program.save(temporary, external_data=False)
        session = runtime.InferenceSession(str(temporary), providers=["CPUExecutionProvider"])
        found = torch.from_numpy(session.run(None, {"pixels": trial.numpy()})[0])
        if not torch.allclose(found, expected, rtol=0, atol=ONNX_TOLERANCE):
            raise RuntimeError(
                f"path: {str(path)!r} is not written: onnxruntime gives embeddings that differ by "
                f"{float((found - expected).abs().max()):.1e}; expected at most {ONNX_TOLERANCE:g}"
            )
    return path
