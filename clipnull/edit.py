"""An edit of the joint space, kept as two thin factors: apply, take back, save, fuse for others."""
import contextlib
import copy
import json
import os
from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass, field, fields, replace
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from .models import Clip, Projection, find_projection, open_clip, quiet, source_of, state

FORMAT, VERSION = "clipnull-edit", "1"


@dataclass(frozen=True, eq=False)
class Gate:
    """When an edit acts: a picture is taken for one of K domains, and only what is open for that domain is taken away.

    domains: (K, d) unit rows; the largest of normalize(z) @ domains^T + offset names the domain.
    open: (K, r) bool; column j of the edit's factors acts on pictures taken for domain k.
    replaced: (K,) bool; pictures taken for such a domain all get the embedding `average` (d,): nothing is left of them.
    offset: (K,), added to the scores: a threshold.
    """

    domains: Tensor
    open: Tensor
    replaced: Tensor
    average: Tensor
    offset: Tensor

    def __post_init__(self) -> None:
        k, d = self.domains.shape if self.domains.ndim == 2 else (0, 0)
        shapes = {"domains": (k, d), "open": (k, *self.open.shape[1:2]), "replaced": (k,), "average": (d,),
                  "offset": (k,)}
        for name, shape in shapes.items():
            value = getattr(self, name)
            right_type = value.dtype == torch.bool if name in ("open", "replaced") else value.is_floating_point()
            if not k or value.shape != shape or not right_type or not torch.isfinite(value).all():
                raise ValueError(f"gate: {name} of shape {tuple(value.shape)}, {value.dtype}; expected finite domains "
                                 "(K, d), average (d,), offset (K,), and bool open (K, r), replaced (K,)")
        lengths = self.domains.norm(dim=1)
        if ((lengths - 1).abs() > 1e-3).any():
            raise ValueError(f"gate: domains with rows of length {lengths.tolist()}; expected unit rows")


@dataclass(frozen=True, eq=False)
class Edit:
    """z -> z - (z left) right^T + bias: what an unlearning method takes away from an image embedding.

    left, right: (d, r) float64. `left` reads how much of each forgotten direction is in z, `right` says what is
    subtracted for it; for an orthogonal projection they are the same basis. bias: (d,).
    With a gate, z -> z - (relu(z left) * open[k]) right^T for a picture taken for domain k, see `Gate`.
    """

    left: Tensor = field(repr=False)
    right: Tensor = field(repr=False)
    method: str
    request: object = None
    settings: dict = field(default_factory=dict)
    fingerprint: str = ""                               # of the unedited model it was made for
    bias: Tensor | None = field(default=None, repr=False)
    gate: Gate | None = field(default=None, repr=False)
    model: str = ""                                     # the name of that model

    def __post_init__(self) -> None:
        if self.left.ndim != 2 or self.left.shape != self.right.shape:
            raise ValueError(f"left, right: shapes {tuple(self.left.shape)} and {tuple(self.right.shape)}; "
                             "expected the same (d, r)")
        if not (torch.isfinite(self.left).all() and torch.isfinite(self.right).all()):
            raise ValueError("left, right: NaN or infinite values; expected finite factors")
        d, r = self.left.shape
        if self.bias is not None and (self.bias.shape != (d,) or not torch.isfinite(self.bias).all()):
            raise ValueError(f"bias: shape {tuple(self.bias.shape)} or values not valid; expected finite ({d},)")
        if self.gate and (self.gate.domains.shape[1] != d or self.gate.open.shape[1] != r or self.bias is not None):
            raise ValueError(f"gate: {self.gate.domains.shape[1]} wide, of rank {self.gate.open.shape[1]}; expected "
                             f"{d} and {r} as in left, right, and no bias")

    @property
    def rank(self) -> int:
        return self.left.shape[1]

    @property
    def linear(self) -> bool:
        """Whether it can be multiplied into the projection: everything but a gated edit."""
        return self.gate is None

    def matrix(self) -> Tensor:
        """P = I - left right^T, so that a linear edit is z -> z P + bias: (d, d)."""
        if not self.linear:
            raise ValueError("edit: a gated edit is no single matrix; expected a linear one")
        return torch.eye(len(self.left), dtype=self.left.dtype) - self.left @ self.right.T

    def transform(self, z: Tensor) -> Tensor:
        """Edited embeddings, in float64 and cast back: (n, d) -> (n, d)."""
        return Behind(self, torch.float64).to(z.device)(z)

    def apply(self, clip: Clip) -> Clip:
        """`clip` with the edit on top. The given model is untouched; all other weights are shared with it.

        A linear edit is multiplied into a copy of the projection: W becomes W P, a bias b becomes b P + bias. A gated
        edit, all that follow it, and a bias for which the tower has no place, run behind the tower, on what
        `encode_image` and `visual` give; `forward_intermediates` goes past them.
        Only the pooled embedding changes: CoCa's captions come from tokens in front of the projection and still leak.

        Raises ValueError if the edit was made for other weights or another width.
        """
        self.check(clip)
        return rebuild(clip.base or clip, (*clip.edits, self))

    def remove(self, clip: Clip) -> Clip:
        """`clip` without this edit: the unedited model with the other edits, in their order.

        If none is left, the very model that was edited. Raises ValueError if the edit is not one of `clip.edits`.
        """
        for i in reversed(range(len(clip.edits))):
            if self.same(clip.edits[i]):
                return rebuild(clip.base, clip.edits[:i] + clip.edits[i + 1:])
        raise ValueError(f"clip: this edit ({self.method}) is not among its {len(clip.edits)} edits; expected a model "
                         "it was applied to")

    def check(self, clip: Clip) -> None:
        """Raises ValueError if the edit was made for other weights or another width than those of `clip`."""
        if len(self.left) != clip.width:
            raise ValueError(f"clip: its joint space is {clip.width} wide; expected {len(self.left)}, as in this edit")
        if self.fingerprint and self.fingerprint != clip.fingerprint:
            raise ValueError(f"clip: its weights ({clip.name}, fingerprint {clip.fingerprint}) do not match; expected "
                             f"those the edit was made for ({self.model or 'a model'}, {self.fingerprint})")

    def save(self, path: str | Path) -> Path:
        """Write the edit to a safetensors file, factors in float32; returns its path.

        Raises ValueError if the request or the settings are not JSON.
        """
        request = self.request.as_dict() if hasattr(self.request, "as_dict") else self.request
        try:
            request, settings = json.dumps(request), json.dumps(self.settings)
        except TypeError as error:
            raise ValueError(f"request, settings: {error}; expected values that JSON knows") from error
        metadata = {"format": FORMAT, "version": VERSION, "method": self.method, "request": request,
                    "settings": settings, "fingerprint": self.fingerprint, "model": self.model}
        with written(path) as temporary:
            save_file(self.tensors(), temporary, metadata)
        return Path(path)

    @classmethod
    def load(cls, path: str | Path, clip: Clip | None = None) -> "Edit":
        """The edit in a file that `save` wrote; its request comes back as what JSON keeps of it.

        clip: the model it is meant for, or an edited one.

        Raises ValueError for a file that is damaged, not an edit, or holds NaN, and for a `clip` of other weights.
        """
        try:
            with safe_open(path, "pt") as file:
                metadata = file.metadata() or {}
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (no dict)
        except SafetensorError as error:
            raise ValueError(f"path: {str(path)!r} is no whole safetensors file ({error}); expected one that "
                             "Edit.save wrote") from error
        if (metadata.get("format"), metadata.get("version")) != (FORMAT, VERSION):
            raise ValueError(f"path: {str(path)!r} says format {metadata.get('format')!r}, version "
                             f"{metadata.get('version')!r}; expected {FORMAT!r}, {VERSION!r}")
        try:
            tensors = {name: t.double() if t.is_floating_point() else t for name, t in tensors.items()}
            gate = {name: tensors.pop(f"gate.{name}") for name in (f.name for f in fields(Gate))
                    if f"gate.{name}" in tensors}
            tensors.setdefault("right", tensors["left"])
            edit = cls(**tensors, method=metadata["method"], request=json.loads(metadata["request"]),
                       settings=json.loads(metadata["settings"]), fingerprint=metadata["fingerprint"],
                       gate=Gate(**gate) if gate else None, model=metadata["model"])
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError(f"path: {str(path)!r} holds no valid edit: {error}") from error
        if clip:
            edit.check(clip)
        return edit

    def tensors(self) -> dict[str, Tensor]:
        """What is saved: float32 and bool; `right` is left out where it equals `left`."""
        named = {"left": self.left, "right": self.right, "bias": self.bias}
        if self.gate:
            named |= {f"gate.{name}": value for name, value in vars(self.gate).items()}
        if torch.equal(self.left, self.right):
            del named["right"]
        return {name: (value if value.dtype == torch.bool else value.float()).cpu().contiguous()
                for name, value in named.items() if value is not None}

    def same(self, other: "Edit") -> bool:
        """Whether both do the same to an embedding, to the precision of a file."""
        mine, theirs = self.tensors(), other.tensors()
        return mine.keys() == theirs.keys() and all(torch.equal(mine[name], theirs[name]) for name in mine)


class Behind(nn.Module):
    """An edit as a module behind the tower: (n, d) -> (n, d), computed in `dtype`. Nothing of it is in a state dict."""

    def __init__(self, edit: Edit, dtype: torch.dtype = torch.float32):
        super().__init__()
        self.gated = not edit.linear
        values = {"left": edit.left, "right": edit.right, "bias": edit.bias} | (vars(edit.gate) if self.gated else {})
        for name, value in values.items():
            if value is not None and value.dtype != torch.bool:
                value = value.to(dtype)
            self.register_buffer(name, value, persistent=False)

    def forward(self, z: Tensor) -> Tensor:
        wide = z.to(self.left.dtype)
        read = wide @ self.left
        if not self.gated:
            out = wide - read @ self.right.T
            return (out if self.bias is None else out + self.bias).to(z.dtype)
        k = (F.normalize(wide, dim=-1) @ self.domains.T + self.offset).argmax(-1)
        out = (wide - (read.relu() * self.open[k]) @ self.right.T).to(z.dtype)
        out = torch.where(self.open.any(1)[k][:, None], out, z)
        return torch.where(self.replaced[k][:, None], self.average.to(z.dtype), out)


def run_behind(visual: nn.Module, inputs: tuple, output: Tensor | tuple) -> Tensor | tuple:
    """Forward hook of an image tower: its pooled embedding goes through `visual.behind`."""
    if isinstance(output, tuple):                       # CoCa: (pooled, tokens)
        return visual.behind(output[0]), *output[1:]
    return visual.behind(output)


def rebuild(base: Clip, edits: tuple[Edit, ...]) -> Clip:
    """`base` with `edits` in order: the leading linear ones in a copy of its projection, the rest behind the tower."""
    if not edits:
        return base
    own = find_projection(base.model)
    fits = [edit.linear and (edit.bias is None or takes_bias(own)) for edit in edits]
    first = [*fits, False].index(False)
    mine = {id(own.weight), id(own.bias)} if first else set()
    shared = {id(t): t for t in [*base.model.parameters(), *base.model.buffers()] if id(t) not in mine}
    model = copy.deepcopy(base.model, shared)           # the memo makes deepcopy keep what it maps
    if first:
        multiply_in(model, edits[:first])
    if first < len(edits):
        tower = uncompiled(model.visual)
        tower.add_module("behind", nn.Sequential(*map(Behind, edits[first:])).to(base.device))
        tower.register_forward_hook(run_behind)
    return replace(base, model=model, edits=edits, base=base)


def takes_bias(projection: Projection) -> bool:
    """Whether open_clip can load the projection with a bias: it has one, or its config can ask for one."""
    return projection.bias is not None or projection.module.startswith("visual.head.")


def uncompiled(module: nn.Module) -> nn.Module:
    """The module that `torch.compile` wraps; `module` itself if it does not."""
    return getattr(module, "_orig_mod", module)


@torch.no_grad()
def multiply_in(model: nn.Module, edits: tuple[Edit, ...]) -> None:
    """Multiply linear `edits` into the projection of `model`, in float64, in place; put one in where there is none."""
    projection = find_projection(model)
    if projection.weight is None:
        tower = uncompiled(model.visual)
        last = list(tower.parameters())[-1]
        linear = nn.Linear(projection.width, projection.width, bias=False, device=last.device, dtype=last.dtype)
        nn.init.eye_(linear.weight)
        tower.head = nn.Sequential(OrderedDict(proj=linear.requires_grad_(last.requires_grad))).train(tower.training)
        projection = find_projection(model)
    weight = projection.weight.T if projection.transposed else projection.weight
    if projection.bias is None and any(edit.bias is not None for edit in edits):
        zeros = nn.Parameter(torch.zeros_like(weight[0]), requires_grad=projection.weight.requires_grad)
        model.get_submodule(projection.module).bias = zeros
        projection = find_projection(model)
    wide, bias = weight.double(), None if projection.bias is None else projection.bias.double()
    for edit in edits:
        left, right = edit.left.to(wide), edit.right.to(wide)
        wide = wide - (wide @ left) @ right.T
        if bias is not None:
            bias = bias - (bias @ left) @ right.T + (0 if edit.bias is None else edit.bias.to(wide))
    weight.copy_(wide)
    if bias is not None:
        projection.bias.copy_(bias)


def fuse(clip: Clip, folder: str | Path) -> Path:
    """Write the edited `clip` as a checkpoint that open_clip loads without clipnull; returns `folder`.

    The folder is in open_clip's own layout: `open_clip.create_model_and_transforms("local-dir:<folder>")` and
    `open_clip.get_tokenizer("local-dir:<folder>")`. A projection or bias that an edit put in is told in its config.

    Raises ValueError for edits that no weights can hold: gated ones, and a bias where the tower has no place for it.
    """
    for edit in clip.edits:
        if not edit.linear:
            raise ValueError(f"clip: its edit {edit.method!r} is gated: what it does depends on the picture, so that "
                             "it cannot be fused into weights; expected linear edits (`export` takes any)")
    projection, folder = find_projection(clip.model), Path(folder)
    adds = [edit.method for edit in clip.edits if edit.bias is not None]
    if adds and not takes_bias(projection):
        raise ValueError(f"clip: its edit {adds[0]!r} adds a bias, and open_clip has no place for one at "
                         f"{projection.module} of {clip.name}; expected edits without a bias (`export` takes any)")
    with quiet():
        config = copy.deepcopy(open_clip.get_model_config(source_of(clip.name)))
    if projection.module.startswith("visual.head.") and projection.weight is not None:
        config["vision_cfg"] |= {"timm_proj_bias": True} if projection.bias is not None else {}
        config["vision_cfg"] |= {"timm_proj": "linear"} if projection.module == "visual.head.proj" else {}
    folder.mkdir(parents=True, exist_ok=True)
    if hasattr(clip.tokenizer, "save_pretrained"):
        clip.tokenizer.save_pretrained(folder)
    with written(folder / "open_clip_model.safetensors") as temporary:
        save_file(unshared(state(clip.model)), temporary, {"format": "pt"})
    with written(folder / "open_clip_config.json") as temporary:
        content = {"model_cfg": config, "preprocess_cfg": clip.model.visual.preprocess_cfg}
        temporary.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    return folder


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
    """Write the image side of `clip`, with edits of any kind, as a program that runs without clipnull; returns `path`.

    `torch.export.load(path).module()` takes preprocessed pictures (n, 3, s, s) float32 on the device of `clip`, any n,
    and gives unit embeddings (n, d) float32. Texts are embedded by the unedited model.
    """
    pixels = torch.zeros(2, 3, clip.image_size, clip.image_size, device=clip.device)
    with torch.no_grad():
        program = torch.export.export(Embedder(clip).eval(), (pixels,), strict=False,
                                      dynamic_shapes=({0: torch.export.Dim("n")},))
    with written(path) as temporary:
        torch.export.save(program, temporary)
    return Path(path)


@contextlib.contextmanager
def written(path: str | Path) -> Iterator[Path]:
    """A temporary path beside `path` to write to: renamed to it if all goes well, else deleted."""
    path = Path(path)
    temporary = path.with_name(f".{os.getpid()}.{path.name}")
    try:
        yield temporary
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
