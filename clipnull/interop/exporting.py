"""Edited models for others: a checkpoint for stock open_clip or transformers, or a program that needs neither."""

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

from ..edit import Edit
from ..errors import expect_types, import_extra, one_of
from ..files import write_text, written
from ..layers import takes_bias
from ..models import Clip, open_clip, quiet, source_of, state, uses_quick_gelu
from ..towers import Projection, find_projection, find_text_projection, share, uncompiled
from .transformers import Adapter, save

ONNX_TOLERANCE, ONNX_BYTES = 1e-5, 2**31 - 2**20
"""How far a number of a unit embedding may be off in onnxruntime; what one file of ONNX, a protobuf, can hold."""


def fuse(clip: Clip, folder: str | Path, side: str = "image") -> Path:
    """Write the edited `clip` as a checkpoint that stock open_clip or transformers loads; returns `folder`.

    open_clip loads it as "local-dir:<folder>", transformers with `from_pretrained(folder)`, which needs a new or empty
    folder. Only linear edits fit into weights. transformers takes none with a bias, and none in SigLIP's image tower.
    side: "text" writes the edits into the text projection, for an index that must not change (`on_texts`). Raises
    ValueError for edits that have no place there; `export` takes any.

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
    clip, folder = on_texts(clip) if one_of("side", side, ["image", "text"]) == "text" else clip, Path(folder)
    if isinstance(clip.model, Adapter):
        return save(clip, folder)
    projection = find_projection(clip.model)
    for edit in clip.edits:
        _validate_fusible(clip, edit, projection)
    config = {"model_cfg": _config(clip, projection), "preprocess_cfg": clip.model.visual.preprocess_cfg}
    weights = {name: value.cpu().contiguous().clone() for name, value in state(clip.model).items()}  # none share memory
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder, prefix=".") as temporary:
        if hasattr(clip.tokenizer, "save_pretrained"):
            clip.tokenizer.save_pretrained(temporary)
        save_file(weights, Path(temporary, "open_clip_model.safetensors"), {"format": "pt"})
        write_text(Path(temporary, "open_clip_config.json"), json.dumps(config, indent=2) + "\n")
        for file in sorted(path for path in Path(temporary).iterdir() if path.is_file()):
            with written(folder / file.name) as partial:
                file.replace(partial)
    return folder


def _validate_fusible(clip: Clip, edit: Edit, projection: Projection) -> None:
    if not edit.linear:
        problem = f"is of form {edit.form!r}, which no single matrix can hold; expected linear edits"
    elif edit.bias is not None and not takes_bias(projection):
        problem = f"adds a bias, and open_clip has no place for one at {projection.module} of {clip.name}"
    else:
        return
    raise ValueError(f"clip: its edit {edit.method!r} {problem} (`export` takes any)")


def _config(clip: Clip, projection: Projection) -> dict[str, Any]:
    """open_clip's config of `clip`, with the projection or the bias that edits put in."""
    with quiet():
        config: Any = copy.deepcopy(open_clip.get_model_config(source_of(clip.name)))
    if uses_quick_gelu(clip.model):  # which a tag may have set
        config["quick_gelu"] = True
    if projection.module.startswith("visual.head.") and projection.weight is not None:
        config["vision_cfg"] |= {"timm_proj_bias": True} if projection.bias is not None else {}
        config["vision_cfg"] |= {"timm_proj": "linear"} if projection.module == "visual.head.proj" else {}
    return config


@torch.no_grad()
def on_texts(clip: Clip) -> Clip:
    """`clip` with its edits in the text tower in place of the image tower, as a model of its own, without `edits`.

    The text projection W_t becomes W_t P^T, as `Edit.queries` does to an embedding. Inner products are those of the
    edited image tower; a cosine is |z P| / |t P^T| times that. For search (one text) that hardly matters. Zero-shot, it
    scales what remains of a forgotten text up, and the text wins again: on OpenAI's ViT-B/32 `nullspace` forgets .49
    this way in place of 1.00, `oblique` .82 of 1.00, unless texts are divided by their former length.
    """
    base = clip.base or clip
    projection = find_text_projection(base.model)
    model = share(base.model, but=(projection.weight, projection.bias))
    projection = find_text_projection(model)
    assert projection.weight is not None
    weight = projection.weight.T if projection.transposed else projection.weight
    for value in (weight, projection.bias):
        if value is not None:
            wide = value.double()
            for edit in reversed(clip.edits):  # <z P1 P2, t> = <z, t P2^T P1^T>
                wide = edit.queries(wide)
            value.copy_(wide)
    return replace(base, model=model)


class Embedder(nn.Module):
    """Preprocessed pictures (n, 3, s, s) float32 -> unit embeddings (n, d) float32."""

    def __init__(self, clip: Clip):
        super().__init__()
        self.visual, self.dtype = uncompiled(clip.model.visual), clip.weights.dtype

    def forward(self, pixels: Tensor) -> Tensor:
        z = self.visual(pixels.to(self.dtype))
        return F.normalize((z[0] if isinstance(z, tuple) else z).float(), dim=-1)


def export(clip: Clip, path: str | Path) -> Path:
    """Write the image side of `clip`, with edits of any kind, as a program that runs without clipnull; returns `path`.

    Preprocessed pictures (n, 3, s, s) float32 give unit embeddings (n, d) float32. A `path` that ends in .onnx gets an
    ONNX model ("pixels" -> "embeddings"), once onnxruntime gives the same numbers, to ONNX_TOLERANCE; any other gets
    what `torch.export.load(path).module()` reads. ONNX takes weights in float32 of less than 2 GB.

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
        warnings.simplefilter("ignore")  # about how the exporter works
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
            raise RuntimeError(
                f"path: {str(path)!r} is not written: onnxruntime gives embeddings that differ by "
                f"{float((embeddings - expected).abs().max()):.1e}; expected at most {ONNX_TOLERANCE:g}"
            )
    return path
