"""What methods and rivals are made from: texts, synthesized pictures with noise, and pictures with labels."""

from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor

from .data import Images
from .edit import Edit
from .embedding import embed, readable
from .errors import at_least
from .methods.cells import Cells
from .models import Clip
from .prototypes import Prototypes, are_made, cell_prototypes
from .unlearning import chosen_cells, embed_vocabulary
from .wording import Vocabulary

COPIES, NOISE = 8, 0.25
"""Noisy copies of each synthesized picture; the standard deviation of their noise, of pixels in [0, 1]."""


@dataclass(frozen=True, eq=False)
class Material:
    """What rivals are made from.

    Attributes
    ----------
    cells : Cells
        Texts and prototypes, as all methods have them; C classes, K domains.
    scale : float
        The factor on cosines in the model's softmax.
    z : (n, d), optional
        Embeddings of pictures with labels, of a train split.
    classes, domains : (n,) int64, optional
        Their labels.
    noisy : (seeds, C, K, 1 + COPIES, d), optional
        Embeddings of synthesized pictures, the first without noise, the others with; NaN where a cell has none.
    """

    cells: Cells
    scale: float
    z: Tensor | None = None
    classes: Tensor | None = None
    domains: Tensor | None = None
    noisy: Tensor | None = None

    def after(self, edit: Edit) -> "Material":
        """The same of the edited model: what comes from pictures is edited, texts stay."""
        cells, d = self.cells, self.cells.texts.shape[-1]
        v = None if cells.prototypes is None else edit.images(cells.prototypes.flatten(0, 1))
        mean = None if cells.mean is None else edit.images(cells.mean[None])[0]
        return replace(
            self,
            cells=replace(
                cells, prototypes=None if v is None else F.normalize(v, dim=-1).view_as(cells.texts), mean=mean
            ),
            z=None if self.z is None else edit.images(self.z),
            noisy=None if self.noisy is None else edit.images(self.noisy.reshape(-1, d)).view_as(self.noisy),
        )

    @property
    def kinds(self) -> set[str]:
        """The kinds of pictures that there are, see `Rival.pictures`."""
        found = {"none": True, "labelled": self.z is not None, "synthesized": self.noisy is not None}
        return {kind for kind, there in found.items() if there}


def gather(clip: Clip, vocabulary: Vocabulary, labelled: Images | None = None, seeds: int = 1) -> Material:
    """What rivals get of an unedited `clip`: all of it is embedded here, once.

    labelled: pictures with the same names, of which none is measured; without them, rivals that need some are left out.
    seeds: how many times noise is drawn. A file of embeddings has no synthesized pictures to put noise on.

    Raises ValueError for `labelled` of other names, and for an edited `clip`.
    """
    at_least("seeds", seeds, 1)
    if clip.edits:
        raise ValueError(f"clip: it carries {len(clip.edits)} edits; expected the unedited model, clip.base")
    made: Prototypes | bool = True
    noisy = None
    if clip.encoder:
        few = None if are_made(clip, vocabulary) else chosen_cells(vocabulary.shape)
        made = cell_prototypes(clip, vocabulary, few)
        noisy = torch.full((seeds, *vocabulary.shape, 1 + COPIES, clip.width), torch.nan)
        x, config = made.pixels[made.mask].float() / 255, clip.model.visual.preprocess_cfg
        mean, std = (torch.tensor(config[key]).view(3, 1, 1) for key in ("mean", "std"))
        for seed in range(seeds):
            draw = torch.Generator().manual_seed(seed)
            copies = [x, *(x + NOISE * torch.randn(x.shape, generator=draw) for _ in range(COPIES))]
            parts = [clip.embed_pixels((copy.clamp(0, 1) - mean) / std) for copy in copies]
            noisy[seed][made.mask] = torch.stack(parts, 1)
    cells = embed_vocabulary(clip, vocabulary, made)
    if labelled is None:
        return Material(cells, clip.logit_scale, noisy=noisy)
    if labelled.vocabulary != vocabulary:
        raise ValueError(
            f"labelled: pictures of {labelled.vocabulary.shape} classes and domains, with other names than those "
            f"measured, {vocabulary.shape}; expected the same"
        )
    labelled, (z,) = readable(labelled, embed(clip, labelled))
    return Material(cells, clip.logit_scale, z, labelled.classes, labelled.domains, noisy)
