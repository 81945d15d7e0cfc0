"""An edit of the joint space, kept as two thin factors."""
import copy
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from .models import Clip, find_projection


@dataclass(frozen=True, eq=False)
class Edit:
    """z -> z - (z left) right^T: what an unlearning method takes away from an image embedding.

    left, right: (d, r) float64. `left` reads how much of each forgotten direction is in z, `right` says what is
    subtracted for it; for an orthogonal projection they are the same basis.
    """

    left: Tensor
    right: Tensor
    method: str
    request: object = None
    settings: dict = field(default_factory=dict)
    fingerprint: str = ""                               # of the model it was made for

    def __post_init__(self) -> None:
        if self.left.ndim != 2 or self.left.shape != self.right.shape:
            raise ValueError(f"left, right: shapes {tuple(self.left.shape)} and {tuple(self.right.shape)}; "
                             "expected the same (d, r)")
        if not (torch.isfinite(self.left).all() and torch.isfinite(self.right).all()):
            raise ValueError("left, right: NaN or infinite values; expected finite factors")

    @property
    def rank(self) -> int:
        return self.left.shape[1]

    def matrix(self) -> Tensor:
        """P = I - left right^T, so that the edit is z -> z P: (d, d)."""
        return torch.eye(len(self.left), dtype=self.left.dtype) - self.left @ self.right.T

    def transform(self, z: Tensor) -> Tensor:
        """Edited embeddings, in float64 and cast back: (n, d) -> (n, d)."""
        wide = z.double()
        return (wide - (wide @ self.left.to(z.device)) @ self.right.to(z.device).T).to(z.dtype)

    def apply(self, clip: Clip) -> Clip:
        """`clip` with the edit multiplied into a copy of its projection: W becomes W P, a bias b becomes b P.

        The given model is untouched; all other weights are shared with it. Raises ValueError if the edit was made for
        other weights or another width.
        """
        if len(self.left) != clip.width:
            raise ValueError(f"clip: its joint space is {clip.width} wide; expected {len(self.left)}, as in this edit")
        if self.fingerprint and self.fingerprint != clip.fingerprint:
            raise ValueError(f"clip: its weights ({clip.name}, fingerprint {clip.fingerprint}) do not match; expected "
                             f"those the edit was made for ({self.fingerprint})")
        own = find_projection(clip.model)
        mine = {id(own.weight)} | ({id(own.bias)} if own.bias is not None else set())
        shared = {id(t): t for t in [*clip.model.parameters(), *clip.model.buffers()] if id(t) not in mine}
        model = copy.deepcopy(clip.model, shared)       # the memo makes deepcopy keep what it maps
        projection = find_projection(model)
        with torch.no_grad():
            weight = projection.weight.T if projection.transposed else projection.weight
            weight.copy_(self.transform(weight))
            if projection.bias is not None:
                projection.bias.copy_(self.transform(projection.bias[None])[0])
        return replace(clip, model=model, edits=(*clip.edits, self))
