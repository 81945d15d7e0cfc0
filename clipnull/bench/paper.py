"""The paper's models and data, as far as they can be had, under our methods: a page beside the paper's two figures.

`clipnull paper FOLDER ...` embeds each folder of pictures with each model (`clipnull.datasets.storing`), forgets every
request by every method (`clipnull.bench.sweep`), and writes PAPER.md. The same command continues where it stopped.
"""

import contextlib
import json
import sys
from collections.abc import Sequence
from pathlib import Path

import pandas as pd
import torch

from .. import __version__
from ..datasets.loading import load_images, name_of
from ..datasets.shards import content
from ..datasets.storing import store
from ..errors import at_least, distinct, names, one_of
from ..files import counted, markdown, write_text
from ..images import Images
from ..methods import METHODS
from ..methods.nullspace import PUBLISHED
from ..models import Clip, load, open_clip, source_of
from ..stored import read_stored
from . import sweep

PAGE, NOTE = "PAPER.md", "made by clipnull paper"
ABOUT = (
    "[arXiv 2512.14113](https://arxiv.org/abs/2512.14113) is said to report that 92.3 % is forgotten and 0.76 points "
    "are lost on what is kept, on average; its abstract has no figures. These two are the paper's. All others on this "
    "page are ours, measured by `clipnull paper`, version {version}. We do not know the paper's templates, its rank "
    "rule and its weights of texts against pictures: `nullspace` is a reconstruction of its edit, and no row below is "
    "known to average over what the paper's figures do. `ridge` is CCUP's edit; `residual`, `oblique`, `neuron` and "
    "`gated` are ours."
)
HOW = (
    "Every class (global), every cell that holds pictures (selective) and every domain (complete) is forgotten alone; "
    "prompts name no domain and are worded otherwise than those that build edits. Means over requests with 95 % "
    "intervals; the retain drop is in percentage points. Requests with nothing to lose are left out."
)


def measure(
    folders: Sequence[str | Path],
    models: Sequence[str],
    pretrained: str,
    out: str | Path,
    methods: Sequence[str] | None = None,
    paradigms: Sequence[str] | None = None,
    most: int | None = None,
    prototypes: bool = True,
) -> Path:
    """Embed and sweep every folder with every model into the folder `out`, and write the page: its path.

    Each pair gets `<model>-<folder>.npz`, as `clipnull embed` writes it, and `<model>-<folder>.json`, as
    `clipnull bench --json` does; the page is written anew after each. A sweep of the same embeddings with the same
    options and version is reused. pretrained: the tag of the weights of models that do not bring their own. methods,
    paradigms: by default all. most: only so many pictures of each cell.
    """
    out, methods = Path(out), names("methods", METHODS if methods is None else methods, tuple(METHODS))
    paradigms = sweep.PARADIGMS if paradigms is None else paradigms
    tags = [_tag(model, pretrained) for model in models]
    shorts = distinct("models", map(_plain, models))
    stems = distinct("folders", [_plain(name_of(folder)) for folder in folders])
    data = [at_most(load_images(folder), most) for folder in folders]
    for images in data:
        sweep.every_request(images, paradigms)  # refuses what has none before hours are spent
    out.mkdir(parents=True, exist_ok=True)
    entries: list[dict] = []
    for model, short, tag in zip(models, shorts, tags, strict=True):
        clip = load(model, tag)
        for images, stem in zip(data, stems, strict=True):
            about = {"name": f"{stem} {short} {tag or ''}".rstrip(), "most": most, "prototypes": prototypes}
            entries.append(_measured(clip, images, out / f"{short}-{stem}", about, methods, paradigms))
            write_text(out / PAGE, page(entries))
    return out / PAGE


def _tag(model: str, pretrained: str) -> str | None:
    """The tag of the weights of `model`; None if it brings its own."""
    if ":" in source_of(model):
        return None
    return one_of("pretrained", pretrained, open_clip.list_pretrained_tags_by_model(model))


def _plain(name: str) -> str:
    """A name that can be part of a file's name, and holds no markup."""
    name = Path(name).name if name.startswith("local-dir:") else name
    return "".join(c if c.isalnum() or c in ".-+_" else "-" for c in name).strip("-.") or "x"


def at_most(images: Images, most: int | None) -> Images:
    """At most so many pictures of each cell, drawn at random, the same ones each time; None: all."""
    if most is None:
        return images
    order, chosen = torch.randperm(len(images), generator=torch.Generator().manual_seed(0)), torch.zeros(len(images))
    cells = pd.Series((images.classes * images.vocabulary.shape[1] + images.domains)[order].numpy())
    chosen[order] = torch.from_numpy(cells.groupby(cells).cumcount().to_numpy() < at_least("most", most, 1)).float()
    return images.where(chosen > 0)


def _measured(
    clip: Clip, images: Images, stem: Path, about: dict, methods: Sequence[str], paradigms: Sequence[str]
) -> dict:
    """`sweep.to_json` of one pair with `about`; from its file where the embeddings and all else are the same."""
    embeddings, rows = Path(f"{stem}.npz"), Path(f"{stem}.json")
    if embeddings.exists() and NOTE not in read_stored(embeddings).words.get("note", ""):
        raise ValueError(f"out: {str(embeddings)!r} was not made by `clipnull paper`; expected another folder")
    store(clip, images, embeddings, prototypes=about["prototypes"], note=NOTE)
    settings = about | {"inputs": [__version__, content(embeddings), *methods, *paradigms]}
    with contextlib.suppress(OSError, ValueError):  # not there, or not as it was written
        entry = json.loads(rows.read_text(encoding="utf-8"))
        if entry | settings == entry:
            print(f"paper: {rows} is reused", file=sys.stderr)
            return entry
    entry = sweep.to_json(load(str(embeddings)), load_images(embeddings), about["name"], methods, paradigms) | settings
    write_text(rows, json.dumps(entry, indent=1, allow_nan=False) + "\n")
    return entry


def page(entries: Sequence[dict]) -> str:
    """PAPER.md: a row for each pair, paradigm and method of `entries`."""
    rows = [["the paper", "average", "its edit", "", *PUBLISHED.values()]]
    for entry in entries:
        for row in (row for row in entry["summary"] if row["prompts"] == "free"):
            counts = f"{row['measured']} of {row['requests']}"
            figures = sweep.format_figures(row, PUBLISHED)
            rows.append([entry["name"], row["paradigm"], f"`{row['method']}`", counts, *figures])
    table = markdown(rows, ["measured", "paradigm", "method", "requests", *(sweep.COLUMNS[name] for name in PUBLISHED)])
    about = "\n".join(map(_about, entries))
    parts = ["# The paper's two figures, and ours", ABOUT.format(version=__version__), HOW, table, about]
    return "\n\n".join(parts) + "\n"


def _about(entry: dict) -> str:
    texts = "texts and one synthesized picture a cell" if entry["prototypes"] else "texts alone"
    drawn = f" (at most {entry['most']} a cell, drawn at random)" if entry["most"] else ""
    pictures, shape = counted(entry["pictures"], "picture"), f"{entry['classes']} classes × {entry['domains']} domains"
    return f"- {entry['name']}: {pictures}{drawn}, {shape}; edits made from {texts}."
