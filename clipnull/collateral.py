"""Collateral damage: what an edit does to pictures that have nothing to do with the request.

Pictures of other things are given names of other things. How many of them get another name after the edit? A figure
beside the drops on kept cells: these are few and known to the method, other words are many and it has never met them.

The pictures and words of a file of embeddings are in the file. Those of miniclip come with it, as embeddings: held-out
artworks of classes that are neither in miniworld nor in PACS (`data/build/others.py`). They are found by fingerprint.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from .files import data_folder
from .gates import ROWS
from .models import Clip
from .prompts import kept_names
from .requests import Forget
from .wording import Vocabulary, is_near, words


@dataclass(frozen=True, eq=False)
class Others:
    """m unrelated pictures, and w words that no request mentions.

    Attributes
    ----------
    images : (m, d) float32
        Embeddings of the unedited model, of any length.
    texts : (w, d) float32
        Unit rows.
    names : tuple of w str
    shows : (m,) int64, optional
        Which word each picture shows, where that is known.
    """

    images: Tensor
    texts: Tensor
    names: tuple[str, ...]
    shows: Tensor | None = None

    def answers(self, change: Callable[[Tensor], Tensor] | None = None) -> Tensor:
        """The word with the largest cosine to each picture after `change`, such as `edit.images`: (m,) int64."""
        parts = [
            ((rows if change is None else change(rows)) @ self.texts.T).argmax(1) for rows in self.images.split(ROWS)
        ]
        return torch.cat(parts)

    @cached_property
    def unedited(self) -> Tensor:
        """The answers of the unedited model, (m,); computed once and kept."""
        return self.answers()

    def changed(self, change: Callable[[Tensor], Tensor]) -> Tensor:
        """Whose answer `change` changes: (m,) bool. 100 times its mean is the collateral, in percent."""
        return self.answers(change) != self.unedited


def others_of(clip: Clip, vocabulary: Vocabulary) -> Others | None:
    """The unrelated pictures and words that are known of `clip`; None where there are none.

    Words that hold the name of a class, are held by one or differ from it by a blank or a plural only are left out, and
    the pictures that are known to show them. So are `prompts.kept_names`: edits are made to keep them, and what is
    measured here is what becomes of words that no edit has met.
    """
    if clip.encoder:
        found = _shipped(clip.fingerprint)
    else:
        stored = clip.model.stored
        if "other_images" not in stored.vectors or "other_texts" not in stored.vectors:
            return None
        found = stored.vectors["other_images"], stored.vectors["other_texts"], stored.other_names, None
    if found is None:
        return None
    images, texts, names, shown = found
    met = {*map(words, kept_names(clip))}
    kept = [not is_near(name, vocabulary.classes) and words(name) not in met for name in names]
    if sum(kept) < 2:
        return None
    chosen = torch.tensor(kept)
    shows = None
    if shown is not None:
        images, shown = images[chosen[shown]], shown[chosen[shown]]
        shows = (chosen.cumsum(0) - 1)[shown]
    names = tuple(n for n, k in zip(names, kept, strict=True) if k)
    return Others(images, F.normalize(texts[chosen], dim=-1), names, shows)


def is_measurable(request: Forget) -> bool:
    """Whether unrelated pictures are to stay as they are: a whole domain that goes takes unrelated pictures along."""
    return request.paradigm != "complete"


def file_of(fingerprint: str) -> Path:
    """Where the embeddings that come with the model of that fingerprint are."""
    return data_folder("miniclip") / f"others-{fingerprint}.npz"


def _shipped(fingerprint: str) -> tuple[Tensor, Tensor, tuple[str, ...], Tensor] | None:
    """What `data/build/others.py` wrote: pictures (m, d), texts (w, d), names (w,), which of them each shows (m,)."""
    path = file_of(fingerprint)
    if not path.is_file():
        return None
    with np.load(path, allow_pickle=False) as found:
        images, texts = (torch.from_numpy(found[name].astype(np.float32)) for name in ("other_images", "other_texts"))
        return images, texts, tuple(found["other_names"].tolist()), torch.from_numpy(found["shows"].astype(np.int64))
