"""The paper's models and data, as far as they can be had, under our methods: a page beside the paper's two figures.

`clipnull paper FOLDER ...` embeds each folder of pictures with each model (`clipnull.datasets.storing`), forgets every
request by every method (`clipnull.bench.sweep`), and writes PAPER.md. What is done stays: the same command goes on
where it stopped.
"""

import hashlib
import json
import sys
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from .. import __version__
from ..datasets.layouts import below
from ..datasets.loading import find_dataset, load_images, name_of, parse_place
from ..datasets.storing import store
from ..errors import at_least, distinct, names, one_line, one_of, shorten
from ..files import write_text
from ..images import Images
from ..methods import METHODS
from ..methods.nullspace import PUBLISHED
from ..models import Clip, load, open_clip, source_of
from ..prototypes import ALGORITHM
from ..stored import read_stored
from ..vocabulary import DOMAIN_PHRASES, DOMAIN_PROMPTS, TEMPLATES
from . import sweep

PAGE = "PAPER.md"
UNTRAINED = (
    "**Nothing was learned here.** Weights are random, so that such a model cannot tell one picture from another. Its "
    "figures show that the commands run from end to end, and nothing else: do not quote them."
)
ABOUT = (
    "[arXiv 2512.14113](https://arxiv.org/abs/2512.14113) is said to report that 92.3 % is forgotten and 0.76 points "
    "are lost on what is kept, on average; its abstract has no figures. These two are the paper's; all others on this "
    "page are ours, measured by `clipnull paper`, version {version}. The paper's templates, its rank rule and its "
    "weights of texts against pictures are not known to us: `nullspace` is a reconstruction of its edit, and no row "
    "below is known to average over what the paper's figures do. `ridge` is CCUP's edit; `residual`, `oblique`, "
    "`neuron` and `gated` are ours."
)
HOW = (
    "Every class (global), every cell that holds pictures (selective) and every domain (complete) is forgotten alone; "
    "prompts that name no domain, held-out wording; means over requests, with 95 % intervals (requests and pictures "
    "resampled). The retain drop is in "
    "percentage points, negative: a gain. Requests with nothing to lose are left out."
)


@dataclass(frozen=True, eq=False)
class Pair:
    """A model and a folder of pictures, at most so many a cell. tag: of weights, None if it brings its own or none."""

    model: str
    tag: str | None
    root: Path
    name: str
    images: Images
    most: int | None

    @property
    def untrained(self) -> bool:
        return self.tag is None and ":" not in source_of(self.model)

    @property
    def title(self) -> str:
        """What results call it; they make a file name of it."""
        weights = self.tag or ("random weights" if self.untrained else "")
        return f"{_plain(self.name)} {_plain(self.model)} {weights}".rstrip()

    @property
    def stem(self) -> str:
        return f"{_plain(self.model)}-{_plain(self.name)}".replace(" ", "-")


def measure(
    folders: Sequence[str | Path],
    models: Sequence[str],
    pretrained: str | None,
    out: str | Path,
    methods: Sequence[str] | None = None,
    paradigms: Sequence[str] | None = None,
    most: int | None = None,
    prototypes: bool = True,
    progress: bool = True,
) -> Path:
    """Embed and bench every folder with every model into `out`, and write the page: its path.

    For each pair `<model>-<folder>.npz`, as `clipnull embed` writes it, and `<model>-<folder>.json`, as
    `clipnull bench --json` does. Both are taken where they are there and were made of the same model, pictures and
    options. The page is written anew after each pair, and says which ones are missing.

    Parameters
    ----------
    folders : sequence of str or Path
        In a layout that `load_images` knows.
    models : sequence of str
        See `load`.
    pretrained : str, optional
        The tag of their weights. None: random weights, to try the commands. Models that bring their own, such as
        "miniclip", do not ask for it.
    out : str or Path
        A folder, made if need be.
    methods, paradigms : sequence of str
        By default all.
    most : int, optional
        Only so many pictures of each cell, drawn at random, the same each time.
    prototypes : bool
        See `store`.
    progress : bool
        Standard error tells what is done.

    Raises
    ------
    ValueError
        Before anything is made: for folders that are not there or hold no pictures, unknown names, and two pairs of one
        name. Later: where a file in `out` was made of something else.
    OSError
        If weights cannot be downloaded, or `out` cannot be written.
    """
    out, methods = Path(out), names("methods", METHODS if methods is None else methods, tuple(METHODS))
    paradigms = names("paradigms", sweep.PARADIGMS if paradigms is None else paradigms, sweep.PARADIGMS)
    pairs = list(_pairs(folders, {name: _tag(name, pretrained) for name in distinct("models", models)}, most))
    stems = [pair.stem for pair in pairs]
    if twice := sorted({stem for stem in stems if stems.count(stem) > 1}):
        raise ValueError(f"folders: two results would be called {shorten(twice)}; expected folders of different names")
    out.mkdir(parents=True, exist_ok=True)
    found: list[dict] = []
    clip = None
    for place, pair in enumerate(pairs):
        try:
            if clip is None or pair.model != pairs[place - 1].model:
                clip = _load(pair)
            found.append(_measured(clip, pair, out, methods, paradigms, prototypes, progress))
        except (OSError, ValueError) as error:
            missing = ", ".join(pair.title for pair in pairs[place:])
            kind = OSError if isinstance(error, OSError) else ValueError
            told = one_line(error, 600).rstrip(".")
            raise kind(
                f"{told}. Not measured: {missing}. What was done stays in {str(out)!r}: run again, and it goes on"
            ) from error
        write_text(out / PAGE, page(found, [pair.title for pair in pairs[place + 1 :]]))
    return out / PAGE


# --- what is to be measured --------------------------------------------------------------------------------------


def _pairs(folders: Sequence[str | Path], models: dict[str, str | None], most: int | None) -> Iterator[Pair]:
    """Each model with each folder; ValueError for folders that cannot be used."""
    if most is not None:
        at_least("most", most, 1)
    named = distinct("folders", [str(folder) for folder in folders])
    if gone := [folder for folder in named if not parse_place(folder)[0].exists()]:
        raise ValueError(f"folders: {shorten(gone)} not there; expected folders laid out <domain>/<class>/<picture>")
    known = [(name_of(folder), find_dataset(folder)) for folder in named]
    for told in filter(None, (dataset.format_left_out() for _, dataset in known)):
        warnings.warn(told, stacklevel=2)
    for model, tag in models.items():
        for name, dataset in known:
            images = dataset.images if most is None else at_most(dataset.images, most)
            yield Pair(model, tag, dataset.root, name, images, most)


def _tag(model: str, pretrained: str | None) -> str | None:
    """The tag that `load` is asked for; ValueError, with near ones, if `model` has no such weights."""
    if ":" in source_of(model) or pretrained is None:
        return None
    tags = open_clip.list_pretrained_tags_by_model(model)
    return one_of("pretrained", pretrained, tags or [f"none, {model} has no published weights: --untrained"])


def at_most(images: Images, most: int) -> Images:
    """At most so many pictures of each cell, drawn at random, the same ones each time."""
    cells = images.classes * images.vocabulary.shape[1] + images.domains
    shuffled = torch.randperm(len(images), generator=torch.Generator().manual_seed(0))
    shuffled = shuffled[cells[shuffled].argsort(stable=True)]  # by cell, in random order within each
    counts = images.counts().flatten()
    rank = torch.arange(len(images)) - (counts.cumsum(0) - counts)[cells[shuffled]]
    kept = torch.zeros(len(images), dtype=torch.bool)
    kept[shuffled[rank < most]] = True
    return images.where(kept)


def _plain(name: str) -> str:
    """A name that can be part of a file's name, and is no markup."""
    name = Path(name).name if name.startswith("local-dir:") else name
    kept = "".join(c if c.isalnum() or c in " .-+_" else "-" for c in name)
    return kept.strip("-. ") or "x"


# --- one pair ----------------------------------------------------------------------------------------------------


def _load(pair: Pair) -> Clip:
    """The model; random weights are the same ones each time, so that what was made with them is found again."""
    with torch.random.fork_rng(devices=range(torch.cuda.device_count())):
        torch.manual_seed(0)
        return load(pair.model, pair.tag)


def _measured(
    clip: Clip,
    pair: Pair,
    out: Path,
    methods: Sequence[str],
    paradigms: Sequence[str],
    prototypes: bool,
    progress: bool,
) -> dict:
    """What `bench` finds of one pair, from its two files where they are there."""
    embeddings, rows = (out / f"{pair.stem}{ending}" for ending in (".npz", ".json"))
    made_of = _made_of(clip, pair, prototypes)
    if embeddings.exists():
        if f"inputs: {made_of}" not in read_stored(embeddings).words.get("note", ""):
            raise ValueError(
                f"out: {str(embeddings)!r} was made by another model, of other pictures or with other options; "
                "expected another folder for what is new, or the file to be deleted"
            )
        _tell(progress, f"{embeddings} is there, and is taken")
    else:
        store(clip, pair.images, embeddings, prototypes=prototypes, progress=progress, note=f"inputs: {made_of}")
    asked = [__version__, made_of, *methods, *paradigms]
    if rows.exists():
        try:
            found = json.loads(rows.read_text(encoding="utf-8"))
            if found["inputs"] == asked and "summary" in found:
                _tell(progress, f"{rows} is there, and is taken")
                return found
        except (ValueError, TypeError, KeyError):
            _tell(progress, f"{rows} cannot be read, and is made again")
    _tell(progress, f"forgetting: {pair.title}")
    images, stored = load_images(embeddings), load(str(embeddings))
    swept = sweep.sweep(stored, images, methods, paradigms)
    found = sweep.document(stored, images, pair.title, swept, paradigms)
    found |= {"untrained": pair.untrained, "most": pair.most, "prototypes": prototypes, "inputs": asked}
    write_text(rows, json.dumps(found, indent=1, allow_nan=False) + "\n")
    return found


def _made_of(clip: Clip, pair: Pair, prototypes: bool) -> str:
    """A hash of all that a file of embeddings depends on; of pictures, their names and sizes."""
    files = [[below(file, pair.root), file.stat().st_size] for file in pair.images.files]
    said = [TEMPLATES, DOMAIN_PROMPTS, DOMAIN_PHRASES]
    told = [clip.fingerprint, ALGORITHM if prototypes else None, said, files, pair.images.vocabulary.classes]
    return hashlib.sha256(json.dumps(told).encode()).hexdigest()[:16]


def _tell(progress: bool, text: str) -> None:
    if progress:
        print(f"paper: {text}", file=sys.stderr, flush=True)


# --- the page ----------------------------------------------------------------------------------------------------


def page(found: Sequence[dict], missing: Sequence[str] = ()) -> str:
    """PAPER.md: a row for each pair, paradigm and method of `found`, as `bench` documents it; `missing`: titles."""
    columns = [sweep.COLUMNS[name] for name in PUBLISHED]
    lines = [f"| measured | paradigm | method | requests | {' | '.join(columns)} |", "|---" * (4 + len(columns)) + "|"]
    lines.append(f"| the paper | average | its edit | | {' | '.join(PUBLISHED.values())} |")
    for entry in found:
        for row in (row for row in entry["summary"] if row["prompts"] == "free"):
            figures = " | ".join(sweep.told(figure, row[figure]) for figure in PUBLISHED)
            counts = f"{row['measured']} of {row['requests']}"
            lines.append(f"| {entry['name']} | {row['paradigm']} | `{row['method']}` | {counts} | {figures} |")
    parts = ["# The paper's two figures, and ours"]
    if any(entry["untrained"] for entry in found):
        parts.append(UNTRAINED)
    parts += [ABOUT.format(version=__version__), HOW, "\n".join(lines), "\n".join(_about(entry) for entry in found)]
    if missing:
        parts.append(f"**Not measured yet:** {', '.join(missing)}. The same command goes on with them.")
    return "\n\n".join(parts) + "\n"


def _about(entry: dict) -> str:
    texts = "texts and one synthesized picture a cell" if entry["prototypes"] else "texts alone"
    drawn = f" (at most {entry['most']} a cell, drawn at random)" if entry["most"] else ""
    shape = f"{entry['classes']} classes × {entry['domains']} domains"
    learned = "; random weights, nothing learned" if entry["untrained"] else ""
    return f"- {entry['name']}: {entry['pictures']} pictures{drawn}, {shape}; edits made from {texts}{learned}."
