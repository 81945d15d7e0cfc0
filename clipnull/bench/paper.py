"""Run our methods on the paper's models and data, as far as available, and compare with the paper's two figures.

`clipnull paper FOLDER ...` embeds each folder with each model (`clipnull.datasets.storing`), runs every request with
every method (`clipnull.bench.sweep`) and writes PAPER.md. Run it again to continue after an interruption.
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
    "[arXiv 2512.14113](https://arxiv.org/abs/2512.14113) reportedly forgets 92.3 % and loses 0.76 points on what is "
    "kept, on average; its abstract has no figures. Only these two figures are the paper's. We measured all others "
    "with `clipnull paper`, version {version}. We do not know the paper's templates, its rank rule or how it weighs "
    "texts against pictures. `nullspace` therefore reconstructs its edit, and no row below is known to average over "
    "the same requests. `ridge` is CCUP's edit; `residual`, `oblique`, `neuron` and `gated` are ours."
)
HOW = (
    "Every class (global), (class, domain) cell with pictures (selective) and domain (complete) is forgotten alone. "
    "Prompts name no domain, and none of their templates builds an edit. Figures are means over requests "
    "with 95 % intervals; the retain drop is in percentage points. Requests with nothing to lose are left out."
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
    """Embed and sweep every folder with every model into the folder `out`; return the path of the page.

    Each pair gets `<model>-<folder>.npz` as from `clipnull embed`, and `<model>-<folder>.json` as from `clipnull bench
    --json`; then the page is updated. A sweep of the same embeddings with the same options and version is reused.
    pretrained: tag of the weights, for models that do not bring their own. methods, paradigms: by default all. most:
    maximum number of pictures per cell.
    """
    out, methods = Path(out), names("methods", METHODS if methods is None else methods, tuple(METHODS))
    paradigms = sweep.PARADIGMS if paradigms is None else paradigms
    tags = [_tag(model, pretrained) for model in models]
    shorts = distinct("models", map(_plain, models))
    stems = distinct("folders", [_plain(name_of(folder)) for folder in folders])
    data = [at_most(load_images(folder), most) for folder in folders]
    for images in data:
        sweep.every_request(images, paradigms)  # fails early, before hours of embedding
    out.mkdir(parents=True, exist_ok=True)
    entries: list[dict] = []
    for model, short, tag in zip(models, shorts, tags, strict=True):
        clip = load(model, tag)
        for images, stem in zip(data, stems, strict=True):
            options = {"name": f"{stem} {short} {tag or ''}".rstrip(), "most": most, "prototypes": prototypes}
            entries.append(_measured(clip, images, out / f"{short}-{stem}", options, methods, paradigms))
            write_text(out / PAGE, page(entries))
    return out / PAGE


def _tag(model: str, pretrained: str) -> str | None:
    """Return the tag of the weights for `model`, or None if it brings its own."""
    if ":" in source_of(model):
        return None
    return one_of("pretrained", pretrained, open_clip.list_pretrained_tags_by_model(model))


def _plain(name: str) -> str:
    """Return a name without markup that is valid in file names."""
    name = Path(name).name if name.startswith("local-dir:") else name
    return "".join(c if c.isalnum() or c in ".-+_" else "-" for c in name).strip("-.") or "x"


def at_most(images: Images, most: int | None) -> Images:
    """Return a fixed random sample of at most `most` pictures per cell; None keeps all."""
    if most is None:
        return images
    order = torch.randperm(len(images), generator=torch.Generator().manual_seed(0))
    cells = pd.Series((images.classes * images.vocabulary.shape[1] + images.domains)[order].numpy())
    sample = torch.zeros(len(images), dtype=torch.bool)
    sample[order] = torch.from_numpy(cells.groupby(cells).cumcount().to_numpy() < at_least("most", most, 1))
    return images.where(sample)


def _measured(
    clip: Clip, images: Images, stem: Path, options: dict, methods: Sequence[str], paradigms: Sequence[str]
) -> dict:
    """Return `sweep.to_json` of one pair with its `options`, read from its file if no input has changed."""
    embeddings, rows = Path(f"{stem}.npz"), Path(f"{stem}.json")
    if embeddings.exists() and NOTE not in read_stored(embeddings).words.get("note", ""):
        raise ValueError(f"out: {str(embeddings)!r} was not made by `clipnull paper`; expected another folder")
    store(clip, images, embeddings, prototypes=options["prototypes"], note=NOTE)
    settings = options | {"inputs": [__version__, content(embeddings), *methods, *paradigms]}
    with contextlib.suppress(OSError, ValueError):  # missing or damaged
        entry = json.loads(rows.read_text(encoding="utf-8"))
        if entry | settings == entry:
            print(f"paper: reuse {rows}", file=sys.stderr)
            return entry
    stored, pictures = load(str(embeddings)), load_images(embeddings)
    entry = sweep.to_json(stored, pictures, options["name"], methods, paradigms) | settings
    write_text(rows, json.dumps(entry, indent=1, allow_nan=False) + "\n")
    return entry


def page(entries: Sequence[dict]) -> str:
    """Return PAPER.md, with a row per pair, paradigm and method of `entries`."""
    rows = [["the paper", "average", "its edit", "", *PUBLISHED.values()]]
    for entry in entries:
        for row in (row for row in entry["summary"] if row["prompts"] == "free"):
            counts = f"{row['measured']} of {row['requests']}"
            figures = sweep.format_figures(row, PUBLISHED)
            rows.append([entry["name"], row["paradigm"], f"`{row['method']}`", counts, *figures])
    table = markdown(rows, ["measured", "paradigm", "method", "requests", *(sweep.COLUMNS[name] for name in PUBLISHED)])
    sources = "\n".join(map(_source, entries))
    parts = ["# The paper's two figures, and ours", ABOUT.format(version=__version__), HOW, table, sources]
    return "\n\n".join(parts) + "\n"


def _source(entry: dict) -> str:
    """Return a line about the pictures of an entry and the inputs of its edits."""
    inputs = "texts and one synthesized picture per cell" if entry["prototypes"] else "texts alone"
    sample = f" (a random sample of at most {entry['most']} per cell)" if entry["most"] else ""
    pictures, shape = counted(entry["pictures"], "picture"), f"{entry['classes']} classes × {entry['domains']} domains"
    return f"- {entry['name']}: {pictures}{sample}, {shape}; edits made from {inputs}."
