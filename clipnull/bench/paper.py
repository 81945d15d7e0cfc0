"""The paper's models and data, as far as they can be had, under our methods: a page beside the paper's two figures.

`clipnull paper FOLDER ...` embeds each folder of pictures with each model (`clipnull.datasets.storing`), forgets every
request by every method (`clipnull.bench.sweep`), and writes PAPER.md. The same command continues where it stopped.
"""

import hashlib
import json
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

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
from ..models import NO_WEIGHTS, Clip, load, open_clip, source_of
from ..prototypes import ALGORITHM
from ..stored import read_stored
from ..vocabulary import DOMAIN_PHRASES, DOMAIN_PROMPTS, TEMPLATES
from . import sweep

PAGE, RANDOM, MARK = "PAPER.md", "random weights", "inputs: "
UNTRAINED = (
    "**These models have learned nothing.** Their weights are random, so that they cannot tell one picture from "
    "another. The figures show that the commands run from end to end, and nothing else: do not quote them."
)
ABOUT = (
    "[arXiv 2512.14113](https://arxiv.org/abs/2512.14113) is said to report that 92.3 % is forgotten and 0.76 points "
    "are lost on what is kept, on average; its abstract has no figures. These two are the paper's. All others on this "
    "page are ours, measured by `clipnull paper`, version {version}. We do not know the paper's templates, its rank "
    "rule and its weights of texts against pictures: `nullspace` is a reconstruction of its edit, and no row below is "
    "known to average over what the paper's figures do. `ridge` is CCUP's edit; `residual`, `oblique`, `neuron` and "
    "`gated` are ours."
)
HOW = (
    "Every class (global), every cell that holds pictures (selective) and every domain (complete) is forgotten alone. "
    "Prompts name no domain and are worded otherwise than those that build edits. Means over requests with 95 % "
    "intervals (requests and pictures resampled). The retain drop is in percentage points; a negative one is a gain. "
    "Requests with nothing to lose are left out."
)


def measure(
    folders: Sequence[str | Path],
    models: Sequence[str],
    pretrained: str | None,
    out: str | Path,
    methods: Sequence[str] | None = None,
    paradigms: Sequence[str] | None = None,
    most: int | None = None,
    prototypes: bool = True,
) -> Path:
    """Embed and sweep every folder with every model into the folder `out`, and write the page: its path.

    Each pair gets `<model>-<folder>.npz`, as `clipnull embed` writes it, and `<model>-<folder>.json`, as
    `clipnull bench --json` does. Both are reused where they were made of the same: model, bytes and labels of the
    pictures, options and version; else they are made anew. The page is written anew after each pair.

    pretrained: the tag of the models' weights; None: random weights, to try the commands. Models that bring their own,
    such as "miniclip", need none. methods, paradigms: by default all. most: only so many pictures of each cell.

    Raises ValueError, before anything is made, for folders without pictures, unknown names, two results of one name,
    and a file in `out` that this command did not write. OSError: weights cannot be downloaded.
    """
    out, methods = Path(out), names("methods", METHODS if methods is None else methods, tuple(METHODS))
    paradigms = names("paradigms", sweep.PARADIGMS if paradigms is None else paradigms, sweep.PARADIGMS)
    shorts, stems = distinct("models", map(_plain, models)), [_plain(name_of(folder)) for folder in folders]
    tags = dict(zip(shorts, [_tag(model, pretrained) for model in models], strict=True))
    data = dict(zip(distinct("folders", stems), map(load_images, folders), strict=True))
    if most is not None:
        data = {name: at_most(images, at_least("most", most, 1)) for name, images in data.items()}
    titles = {(m, name): f"{name} {m} {tag or ''}".rstrip() for m, tag in tags.items() for name in data}
    for short, name in titles:
        _validate_ours(out / f"{short}-{name}.npz")
    out.mkdir(parents=True, exist_ok=True)
    entries: list[dict] = []
    for (short, tag), model in zip(tags.items(), models, strict=True):
        untrained = tag == RANDOM
        clip = _load(model, NO_WEIGHTS if untrained else tag)
        for name, images in data.items():
            about = {"name": titles[short, name], "untrained": untrained, "most": most, "prototypes": prototypes}
            entries.append(_measured(clip, images, out / f"{short}-{name}", about, methods, paradigms))
            write_text(out / PAGE, page(entries, list(titles.values())[len(entries) :]))
    return out / PAGE


def _tag(model: str, pretrained: str | None) -> str | None:
    """The tag of the weights of `model`, RANDOM, or None if it brings its own; ValueError if it has no such weights."""
    if ":" in source_of(model):
        return None
    tags = open_clip.list_pretrained_tags_by_model(model)
    options = tags or [f"none, {model} has no published weights: --untrained"]
    return RANDOM if pretrained is None else one_of("pretrained", pretrained, options)


def _plain(name: str) -> str:
    """A name that can be part of a file's name, and holds no markup."""
    name = Path(name).name if name.startswith("local-dir:") else name
    return "".join(c if c.isalnum() or c in ".-+_" else "-" for c in name).strip("-.") or "x"


def at_most(images: Images, most: int) -> Images:
    """At most so many pictures of each cell, drawn at random, the same ones each time."""
    cells = list(zip(images.classes.tolist(), images.domains.tolist(), strict=True))
    chosen, counts = torch.zeros(len(images), dtype=torch.bool), Counter()
    for i in torch.randperm(len(images), generator=torch.Generator().manual_seed(0)).tolist():
        chosen[i] = counts[cells[i]] < most
        counts[cells[i]] += 1
    return images.where(chosen)


def _load(model: str, tag: str | None) -> Clip:
    """The model; random weights are the same ones each time, so that what was made with them can be reused."""
    with torch.random.fork_rng(devices=range(torch.cuda.device_count())):
        torch.manual_seed(0)
        return load(model, tag)


def _validate_ours(path: Path) -> None:
    if path.exists() and MARK not in read_stored(path).words.get("note", ""):
        raise ValueError(f"out: {str(path)!r} was not made by `clipnull paper`; expected another folder")


def _measured(
    clip: Clip, images: Images, stem: Path, about: dict, methods: Sequence[str], paradigms: Sequence[str]
) -> dict:
    """`sweep.to_json` of one pair with `about`, from its two files where these were made of the same."""
    embeddings, rows = Path(f"{stem}.npz"), Path(f"{stem}.json")
    inputs = _hash(clip, images, about["prototypes"])
    if not embeddings.exists() or f"{MARK}{inputs}" not in read_stored(embeddings).words.get("note", ""):
        store(clip, images, embeddings, prototypes=about["prototypes"], note=f"{MARK}{inputs}")
    settings = about | {"inputs": [inputs, *methods, *paradigms]}
    if rows.exists():
        entry = json.loads(rows.read_text(encoding="utf-8"))
        if entry | settings == entry:
            print(f"paper: {rows} is reused", file=sys.stderr)
            return entry
    entry = sweep.to_json(load(str(embeddings)), load_images(embeddings), about["name"], methods, paradigms) | settings
    write_text(rows, json.dumps(entry, indent=1, allow_nan=False) + "\n")
    return entry


def _hash(clip: Clip, images: Images, prototypes: bool) -> str:
    """Of all that a file of embeddings depends on."""
    pictures = [[content(file) for file in images.files], images.classes.tolist(), images.domains.tolist()]
    names = [images.vocabulary.names, images.vocabulary.domains, TEMPLATES, DOMAIN_PROMPTS, DOMAIN_PHRASES]
    inputs = [__version__, clip.fingerprint, ALGORITHM if prototypes else None, pictures, names]
    return hashlib.sha256(json.dumps(inputs).encode()).hexdigest()[:16]


def page(entries: Sequence[dict], missing: Sequence[str] = ()) -> str:
    """PAPER.md: a row for each pair, paradigm and method of `entries`; `missing`: titles of pairs."""
    rows = [["the paper", "average", "its edit", "", *PUBLISHED.values()]]
    for entry in entries:
        for row in (row for row in entry["summary"] if row["prompts"] == "free"):
            counts = f"{row['measured']} of {row['requests']}"
            figures = [sweep.format_ends(figure, row[figure]) for figure in PUBLISHED]
            rows.append([entry["name"], row["paradigm"], f"`{row['method']}`", counts, *figures])
    columns = ["measured", "paradigm", "method", "requests", *(sweep.COLUMNS[name] for name in PUBLISHED)]
    parts = ["# The paper's two figures, and ours"]
    parts += [UNTRAINED] if any(entry["untrained"] for entry in entries) else []
    parts += [ABOUT.format(version=__version__), HOW, markdown(rows, columns), "\n".join(map(_about, entries))]
    parts += [f"**Not measured yet:** {', '.join(missing)}. The same command continues with them."] if missing else []
    return "\n\n".join(parts) + "\n"


def _about(entry: dict) -> str:
    texts = "texts and one synthesized picture a cell" if entry["prototypes"] else "texts alone"
    drawn = f" (at most {entry['most']} a cell, drawn at random)" if entry["most"] else ""
    shape = f"{entry['classes']} classes × {entry['domains']} domains"
    learned = "; random weights, nothing learned" if entry["untrained"] else ""
    return (
        f"- {entry['name']}: {counted(entry['pictures'], 'picture')}{drawn}, {shape}; edits made from {texts}{learned}."
    )
