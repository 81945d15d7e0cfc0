"""Export of edited models: a checkpoint for stock open_clip or transformers, or a program that needs neither."""

import copy
import json
import tempfile
import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import Tensor, nn

from ..datasets.loading import load_images
from ..edit import Edit
from ..embedding import embed
from ..errors import expect_types, import_extra, one_of
from ..files import write_text, written
from ..images import Images
from ..layers import rebuild, takes_bias
from ..models import Clip, open_clip, quiet, source_of, state, uses_quick_gelu
from ..towers import Projection, find_projection, find_text_projection, share, uncompiled
from .transformers import Adapter, save

SHARPNESS = 30.0
"""Sharpness of gelu in a fused hidden layer. It differs from relu by at most 0.17 / 30 = 0.6 % of the threshold."""

ONNX_TOLERANCE, ONNX_BYTES = 1e-5, 2**31 - 2**20
"""Largest error of a unit embedding's entry in onnxruntime, and the bytes that one ONNX file can hold."""


def fuse(clip: Clip, folder: str | Path, pictures: Images | None = None, side: str = "image") -> Path:
    """Write the edited `clip` as a checkpoint that stock open_clip or transformers loads; return `folder`.

    open_clip loads it as "local-dir:<folder>", transformers with `from_pretrained(folder)`. open_clip can hold linear
    edits and, in timm towers, one hidden layer (`neuron`) after them. That layer learns embedding lengths from
    `pictures`, by default miniworld's. transformers can hold linear edits without a bias, none in SigLIP's image tower,
    and needs a new or empty folder. side: "text" writes linear edits into the text projection, for an index that must
    not change (see `on_texts`). Raise ValueError for edits that weights cannot hold, such as gated ones.

    >>> import clipnull as cn, tempfile
    >>> clip = cn.load(device="cpu")
    >>> names = cn.Vocabulary(["cat", "dog"], ["photo", "line"])
    >>> edit = cn.unlearn(clip, cn.Forget(["dog"]), names, "oblique", prototypes=False)
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     sorted(file.name for file in cn.fuse(edit.apply(clip), folder).iterdir())
    ['open_clip_config.json', 'open_clip_model.safetensors']
    """
    expect_types(clip=clip)
    clip.validate_encoder()
    folder = Path(folder)
    if one_of("side", side, ["image", "text"]) == "text":
        clip = on_texts(clip)
    if isinstance(clip.model, Adapter):
        return save(clip, folder)
    projection = find_projection(clip.model)
    layer = clip.edits[-1] if clip.edits and clip.edits[-1].form == "layer" else None
    _validate_fusible(clip, projection)
    weights = state(clip.model)
    if layer:
        weights = {key: value for key, value in weights.items() if not key.startswith(projection.module + ".")}
        weights |= mlp_head(projection, layer, *length_of(clip, pictures or load_images(split="train")))
    config = {"model_cfg": _config(clip, projection, layer), "preprocess_cfg": clip.model.visual.preprocess_cfg}
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder, prefix=".") as temporary:
        if hasattr(clip.tokenizer, "save_pretrained"):
            clip.tokenizer.save_pretrained(temporary)
        # safetensors rejects tensors that share memory
        weights = {name: value.cpu().contiguous().clone() for name, value in weights.items()}
        save_file(weights, Path(temporary, "open_clip_model.safetensors"), {"format": "pt"})
        write_text(Path(temporary, "open_clip_config.json"), json.dumps(config, indent=2) + "\n")
        for file in sorted(path for path in Path(temporary).iterdir() if path.is_file()):
            with written(folder / file.name) as partial:
                file.replace(partial)
    return folder


def _validate_fusible(clip: Clip, projection: Projection) -> None:
    """Raise ValueError unless open_clip's config has a place for every edit of `clip`."""
    nowhere = f"open_clip has no place for one at {projection.module} of {clip.name}"
    for number, edit in enumerate(clip.edits, 1):
        if edit.form == "layer" and number < len(clip.edits):
            problem = "is a hidden layer, but another edit follows; expected one such edit, in last place"
        elif edit.form == "layer" and projection.module != "visual.head.proj":
            problem = f"is a hidden layer, but {nowhere}; expected a timm tower or a linear edit such as 'oblique'"
        elif edit.form == "layer" and 4 * edit.left.shape[1] > clip.width:
            problem = f"has {edit.left.shape[1]} units; expected at most {clip.width // 4}, a quarter of the width"
        elif edit.form != "layer" and not edit.linear:
            problem = "is gated, and weights cannot hold it; expected linear edits"
        elif edit.bias is not None and not takes_bias(projection):
            problem = f"adds a bias, but {nowhere}; expected edits without a bias"
        else:
            continue
        raise ValueError(f"clip: its edit {edit.method!r} {problem} (`export` accepts any)")


def _config(clip: Clip, projection: Projection, layer: Edit | None) -> dict[str, Any]:
    """Return open_clip's config of `clip`, with the projection, bias or hidden layer that edits added."""
    with quiet():
        config: Any = copy.deepcopy(open_clip.get_model_config(source_of(clip.name)))
    if uses_quick_gelu(clip.model):  # a tag may have set it
        config["quick_gelu"] = True
    if projection.module.startswith("visual.head.") and projection.weight is not None:
        config["vision_cfg"] |= {"timm_proj_bias": True} if projection.bias is not None else {}
        config["vision_cfg"] |= {"timm_proj": "linear"} if projection.module == "visual.head.proj" else {}
    if layer:
        config["vision_cfg"]["timm_proj"] = "mlp"
    return config


# --- A hidden layer as timm's MLP head, which open_clip's config supports


@torch.no_grad()
def length_of(clip: Clip, pictures: Images) -> tuple[Tensor, Tensor]:
    """Fit m (d,) and c in |z| ~ z m + c by ridge regression on the embeddings of `pictures` after the linear edits.

    On unseen pictures, miniclip's lengths are 27.5 with a spread of 6.3, and the error of the fit is 1.5.
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
    """Return weights of timm's MLP head (2d units, gelu) that replace the projection and the hidden layer `edit`.

    Let z = f W + b. Since x = gelu(x) - gelu(-x), two units carry one direction of z unchanged. The units of the edit
    (d/4 at most) take the place of the directions that W scales least, two units for each direction. A unit of the
    edit becomes gelu(s y) / s, close to relu(y), with y = z v_c - o_c (z m + c) and s = SHARPNESS / (o_c c).
    """
    d, r = edit.left.shape
    stored, threshold = projection.weight, edit.threshold
    assert threshold is not None
    w = torch.eye(d, dtype=torch.float64) if stored is None else stored.double().cpu().T  # (D, d)
    b = torch.zeros(d, dtype=torch.float64) if projection.bias is None else projection.bias.double().cpu()
    axes = torch.linalg.svd(w, full_matrices=False).Vh[: d - -(-r // 2)].T  # (d, directions carried unchanged)
    sharp = SHARPNESS / (threshold.clamp(min=1e-3) * c.abs().clamp(min=1e-3))
    spare = torch.zeros(d, 2 * d - 2 * axes.shape[1] - r, dtype=w.dtype)  # an odd r leaves one unit unused
    read = torch.cat([axes, -axes, (edit.left - m[:, None] * threshold) * sharp, spare], dim=1)  # (d, 2d)
    shift = torch.cat([torch.zeros(2 * axes.shape[1], dtype=w.dtype), -threshold * c * sharp, spare[0]])
    write = torch.cat([axes, -axes, -edit.right / sharp, spare], dim=1)
    weights = {"fc1.weight": (w @ read).T, "fc1.bias": b @ read + shift, "fc2.weight": write}
    if projection.bias is not None:  # the carried directions already contain b
        weights["fc2.bias"] = torch.zeros(d, dtype=w.dtype)
    dtype = torch.float32 if stored is None else stored.dtype
    return {f"visual.head.mlp.{name}": value.to(dtype).contiguous() for name, value in weights.items()}


# --- Edits on the text side


@torch.no_grad()
def on_texts(clip: Clip) -> Clip:
    """Move the edits of `clip` from the image to the text tower; return a new model without `edits`.

    The text projection W_t becomes W_t P^T, as `Edit.queries` does to an embedding. Inner products equal the edited
    image tower's, and cosines are multiplied by |z P| / |t P^T|. The factor barely matters for a search with one text.
    In zero-shot classification it enlarges what remains of a forgotten text, which then wins again: on OpenAI's
    ViT-B/32, `nullspace` forgets .49 in place of 1.00, and `oblique` .82. Dividing each text by its length before
    the edit prevents this.
    """
    base = clip.base or clip
    projection = find_text_projection(base.model)
    model = share(base.model, but=(projection.weight, projection.bias))
    projection = find_text_projection(model)
    assert projection.weight is not None
    weight = projection.weight.T if projection.transposed else projection.weight
    for value in (weight, projection.bias):
        if value is not None:
            exact = value.double()
            for edit in reversed(clip.edits):  # <z P1 P2, t> = <z, t P2^T P1^T>
                exact = edit.queries(exact)
            value.copy_(exact)
    return replace(base, model=model)


# --- A program


class Embedder(nn.Module):
    """An image encoder from preprocessed pictures (n, 3, s, s) float32 to unit embeddings (n, d) float32."""

    def __init__(self, clip: Clip):
        super().__init__()
        self.visual, self.dtype = uncompiled(clip.model.visual), clip.weights.dtype

    def forward(self, pixels: Tensor) -> Tensor:
        z = self.visual(pixels.to(self.dtype))
        return F.normalize((z[0] if isinstance(z, tuple) else z).float(), dim=-1)


def export(clip: Clip, path: str | Path) -> Path:
    """Write the image side of `clip`, with edits of any kind, as a program that runs without clipnull; return `path`.

    The program maps preprocessed pictures (n, 3, s, s) float32 to unit embeddings (n, d) float32. A `path` that ends in
    .onnx gets an ONNX model ("pixels" -> "embeddings") after a check that onnxruntime agrees to ONNX_TOLERANCE. Any
    other path gets a file for `torch.export.load(path).module()`. ONNX needs float32 weights of less than 2 GB.

    >>> import clipnull as cn, pathlib, tempfile, torch
    >>> clip = cn.load(device="cpu")
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     program = torch.export.load(cn.export(clip, pathlib.Path(folder, "clip.pt2"))).module()
    ...     program(torch.zeros(3, 3, clip.image_size, clip.image_size)).shape
    torch.Size([3, 256])
    """
    expect_types(clip=clip)
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
    for module in ("onnx", "onnxscript"):  # torch.onnx needs them
        import_extra(module, "onnx")
    runtime: Any = import_extra("onnxruntime", "onnx")
    size = sum(value.nbytes for value in embedder.state_dict().values())
    if embedder.dtype != torch.float32 or size >= ONNX_BYTES:
        weights = f"weights of {embedder.dtype}, {size:,} bytes"
        expected = f"torch.float32 and less than {ONNX_BYTES:,} bytes for ONNX (a path that ends in .pt2 accepts any)"
        raise ValueError(f"clip: {weights}; expected {expected}")
    with torch.no_grad(), quiet(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about the internals of the exporter
        program: Any = torch.onnx.export(
            embedder, (pixels,), dynamo=True, dynamic_shapes=shapes, input_names=["pixels"],
            output_names=["embeddings"], verbose=False,
        )  # fmt: skip
        trial = torch.rand(3, *pixels.shape[1:], generator=torch.Generator().manual_seed(0))
        expected = embedder(trial.to(pixels.device)).cpu()
    with written(path) as temporary:
        program.save(temporary, external_data=False)
        session = runtime.InferenceSession(str(temporary), providers=["CPUExecutionProvider"])
        embeddings = torch.from_numpy(session.run(None, {"pixels": trial.numpy()})[0])
        if not torch.allclose(embeddings, expected, rtol=0, atol=ONNX_TOLERANCE):
            error = f"embeddings in onnxruntime differ by {float((embeddings - expected).abs().max()):.1e}"
            raise RuntimeError(
                f"path: {str(path)!r} is not written because {error}; expected at most {ONNX_TOLERANCE:g}"
            )
    return path
