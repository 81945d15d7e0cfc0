"""Publish an edit: the patch, and a card that says what it does, what it costs, and what it leaves."""

import json
import re
from pathlib import Path

from torch import Tensor

from ..audits.probes import features_before_projection, linear_probe
from ..edit import Edit
from ..embedding import embed, readable
from ..errors import brief
from ..evaluate import Comparison, compare, macro, wilson
from ..files import alone, write_text
from ..forecasting.choosing import simulator_of
from ..forecasting.outlook import Forecast
from ..images import Images
from ..interop.transformers import recipe
from ..models import Clip
from ..prompts import kept_names, near, prompt_sets
from ..prototypes import are_made
from ..unlearning import embed_vocabulary, prototypes_of
from ..vocabulary import Forget, Vocabulary
from . import sweep

# --- Names of others in Markdown: shown as they are, and never markup of their own.


def as_text(name: object) -> str:
    """A name as Markdown that shows it as it is: nothing in it is markup, HTML, or the end of a table's cell."""
    line = " ".join(str(name).split())
    line = line.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return re.sub(r"([\\`*_{}\[\]()#+!|~$@:])", r"\\\1", line)


def as_code(name: object) -> str:
    """A name as code in a line of Markdown, whatever quotes of its own it brings."""
    line = " ".join(str(name).split()).replace("<", "‹").replace(">", "›")
    quotes = "`" * (1 + max(map(len, re.findall("`+", line)), default=0))
    blank = " " if line.startswith("`") or line.endswith("`") else ""
    return f"{quotes}{blank}{line}{blank}{quotes}"


def as_json(value: object) -> str:
    """JSON in one line, as YAML and Python read it too, without what Markdown or HTML would take for its own."""
    text = json.dumps(value, ensure_ascii=False)
    return re.sub("[<>&`\x7f-\x9f\u2028\u2029]", lambda found: f"\\u{ord(found.group()):04x}", text)


def public_name(name: str) -> str:
    """A name, tag or hub address as it is; of a path on this machine only the last part."""
    local = name.removeprefix("local-dir:")
    return Path(local).name if local != name or Path(local).exists() else name


# --- cards

PATCH, CARD = "edit.safetensors", "README.md"
ASKED = {
    "free": "the class alone, held-out wording",
    "domain": "class and domain, held-out wording",
    "build": "the wording that built the edit",
}


def card(edit: Edit, clip: Clip, images: Images, licence: str = "") -> str:
    """A model card (Markdown with a YAML head, as the Hugging Face hub reads it) of what `edit` does to `clip`.

    Everything in it is measured here, on `images`: these should be pictures that no choice of yours was made on.
    licence: of the patch, such as "mit"; its identifier goes to the head.
    Two runs give the same text. Raises ValueError if the edit has no request, or was made for other weights.
    """
    try:
        request = edit.request if isinstance(edit.request, Forget) else Forget.from_dict(edit.request)
    except ValueError as error:
        raise ValueError(
            f"edit: its request is {brief(edit.request)}; expected a Forget, as `unlearn` stores it"
        ) from error
    edit.validate_for(clip)
    counts, mask = images.counts(), request.mask(images.vocabulary)
    if not counts[mask].sum():
        raise ValueError(
            f"images: none of its {len(images)} pictures is in a forgotten cell ({request}); expected "
            "pictures on which forgetting can be measured"
        )
    after = edit.apply(clip)
    images, (z,) = readable(images, embed(clip, images))  # broken pictures are told, and count for nothing
    counts, features = images.counts(), (z, embed(after, images))
    results = {prompts: compare(clip, after, images, request, prompts, features) for prompts in prompt_sets(clip)}
    head = {
        "base_model": public_name(clip.name),
        "library_name": "clipnull",
        "tags": ["clip", "machine-unlearning"],
        **({"license": licence} if licence else {}),
    }
    parts = [
        "---\n" + "\n".join(f"{key}: {as_json(value)}" for key, value in head.items()) + "\n---",
        f"# Forget {as_text(str(request))}",
        _about(edit, clip),
        "## Use",
        _use(edit, clip),
        "## Measured",
        _measured(results, images, expected_of(edit, clip, request, images.vocabulary)),
        "## Whom it hurts",
        _worst(results["free"], counts) + _beside(clip, request, images.vocabulary),
        "## What remains",
        _remains(after, images, mask, features),
        "## Made by",
        _made(edit, request),
    ]
    return "\n\n".join(parts) + "\n"


def release(folder: str | Path, edit: Edit, clip: Clip, images: Images, licence: str = "") -> Path:
    """Write the patch and a card of what it does into a folder to hand on, or to push to a hub.

    Nothing is written if the card cannot be made.

    Parameters
    ----------
    folder : str or Path
        Made if need be. It gets `edit.safetensors` and `README.md`, a model card as the Hugging Face hub reads it.
    edit : Edit
        With a request, as `unlearn` gives it.
    clip : Clip
        The model it was made for, unedited.
    images : Images
        What the card is measured on: pictures that no choice of yours was made on.
    licence : str
        Of the patch, such as "mit"; its identifier goes to the head of the card.

    Returns
    -------
    Path
        `folder`.

    Raises
    ------
    ValueError
        If the edit has no request, or was made for other weights, and if no picture is in a forgotten cell.
    ImportError
        Without scikit-learn, which the extra "course" brings: the card tells what a linear probe still finds.

    Examples
    --------
    >>> import clipnull as cn, tempfile
    >>> clip, images = cn.load(device="cpu"), cn.load_images().select(["car", "dog"], ["line"])
    >>> edit = cn.unlearn(clip, cn.Forget(["car"]), images.vocabulary, "oblique", prototypes=False)
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     sorted(file.name for file in cn.release(folder, edit, clip, images, "mit").iterdir())
    ['README.md', 'edit.safetensors']
    """
    text, folder = card(edit, clip, images, licence), Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    with alone(folder):  # a patch and the card of another would both be whole
        edit.save(folder / PATCH)
        write_text(folder / CARD, text)
    return folder


# --- sections ----------------------------------------------------------------------------------------------------


def _about(edit: Edit, clip: Clip) -> str:
    kind = (
        "a matrix, multiplied into the weights of the image projection: it costs nothing at inference, and "
        "`cn.fuse` writes an ordinary checkpoint"
        if edit.linear
        else "a hidden layer after the image projection; where the tower comes from timm, `cn.fuse` writes it into an "
        "ordinary checkpoint, else `cn.export` a program"
        if edit.form == "layer"
        else "a gate after the image tower, which cannot be multiplied into weights; `cn.export` writes a program"
    )
    weights = f" ({as_code(public_name(clip.pretrained))})" if clip.pretrained else ""
    return (
        f"A patch for {as_code(public_name(clip.name))}{weights}, made in closed form "
        f"from names alone, without training and without pictures. It is {kind}. It changes image embeddings only; "
        f"texts are embedded as before. Rank {edit.rank} in a space {clip.width} wide."
        + " The names of the domains do not put zero between them: the middle is a mean picture."
        * bool(edit.settings.get("origin"))
    )


def _use(edit: Edit, clip: Clip) -> str:
    arguments = ", ".join(as_json(public_name(a)) for a in (clip.name, clip.pretrained) if a)
    return (
        "```python\nimport clipnull as cn\n\n"
        f"clip = {recipe(clip, arguments)}\n"
        + (
            "# then, in their order, the edits that this one was made after: clip = other.apply(clip)\n"
            * bool(edit.after)
        )
        + f'edit = cn.Edit.load("{PATCH}", clip)    # {_refuses(edit)}\n'
        "after = edit.apply(clip)                         # edit.remove(after) gives clip back\n```\n\n"
        f"Fingerprint of the base weights: `{edit.fingerprint or 'none'}`."
    )


def _refuses(edit: Edit) -> str:
    known = "refuses any weights but those it was made for"
    return known if edit.fingerprint else "names no weights: see to it that clip has those it was made for"


def expected_of(edit: Edit, clip: Clip, request: Forget, vocabulary: Vocabulary) -> Forecast:
    """What was to be expected of `edit` before a picture was seen, by prototypes where they come with the model."""
    known = are_made(clip.base or clip, vocabulary) if clip.encoder else prototypes_of(clip, vocabulary) is not None
    cells = embed_vocabulary(clip, vocabulary, known)
    return simulator_of(clip, vocabulary, cells, known).forecast(edit, request.mask(vocabulary), request)


def _measured(results: dict[str, Comparison], images: Images, expected: Forecast) -> str:
    c, k = images.vocabulary.shape
    titles = " | ".join(sweep.COLUMNS.values())
    what = "pictures" if images.has_pixels else "stored embeddings of pictures"
    lines = [
        f"On {len(images)} {what}, {c} classes × {k} domains, all {c} classes as candidates; means over cells with "
        "95 % intervals (pictures resampled), drops in percentage points (negative: a gain).",
        "",
        f"| asked with | right on forgotten cells | {titles} | kept pictures: lost, gained | worst cell: lost |",
        "|---" * (4 + len(sweep.COLUMNS)) + "|",
    ]
    for prompts, result in results.items():
        before, after = result.answers
        row = sweep.row_of(result.request, "", prompts, before, after, result.images, result.renamed)
        (found,) = sweep.summary([row], result.images, [result.request])
        figures = " | ".join(sweep.told(name, found[name], "–") for name in sweep.COLUMNS)
        _, kept, worst, *_ = sweep.counted(found)
        lines.append(
            f"| {ASKED[prompts]} | {100 * macro(result.before, result.mask):.1f} % → "
            f"{100 * macro(result.after, result.mask):.1f} % | {figures} | {kept} | {worst} |"
        )
    figures = " | ".join(sweep.told(n, expected.intervals.get(n, (None,) * 3), "–") for n in sweep.COLUMNS)
    first, last = (f"{100 * macro(x, expected.mask):.1f} %" for x in (expected.before, expected.after))
    lines.append(f"| forecast of the first row, from names alone | {first} → {last} | {figures} | – | – |")
    free = results["free"]
    n, mask = images.counts()[free.mask], free.mask
    right = [int((matrix[mask].nan_to_num() * n).sum().round()) for matrix in (free.before, free.after)]
    spans = [
        f"{r} right (95 % interval {100 * low:.0f} to {100 * high:.0f} %)"
        for r in right
        for low, high in [wilson(r, int(n.sum()))]
    ]
    lines += [
        "",
        f"Counted by pictures rather than cells: of {int(n.sum())} forgotten ones {spans[0]} before, "
        f"{spans[1]} after, the class alone being named.",
    ]
    if free.renamed is not None:
        lines[-1] += (
            f" Collateral: of {len(free.renamed)} unrelated pictures, {int(free.renamed.sum())} got another name "
            "among words that no request mentions."
        )
    if mask.all(0).any():
        lines[-1] += f" Whole domains are forgotten: the rate is the way gone to chance, {100 / c:.1f} %."
    return "\n".join(lines)


def _worst(result: Comparison, counts: Tensor, most: int = 5) -> str:
    drop = (result.before - result.after).masked_fill(result.mask, float("nan"))
    vocabulary, lines = result.images.vocabulary, []
    order = drop.nan_to_num(-2.0).flatten().argsort(descending=True, stable=True)[:most]
    for c, k in ((int(i) // drop.shape[1], int(i) % drop.shape[1]) for i in order):
        if drop[c, k] > 0:
            n, before, after = int(counts[c, k]), float(result.before[c, k]), float(result.after[c, k])
            names = f"{as_text(vocabulary.classes[c])}, {as_text(vocabulary.domains[k])}"
            lines.append(f"| {names} | {n} | {n * before:.0f} | {n * after:.0f} |")
    if not lines:
        return "No kept cell lost a picture."
    hurt = int((drop > 0).sum())
    return (
        f"{hurt} of {int((~drop.isnan()).sum())} kept cells that hold pictures lost some; the worst:\n\n"
        "| kept cell | pictures | right before | right after |\n|---|---|---|---|\n" + "\n".join(lines)
    )


def _beside(clip: Clip, request: Forget, vocabulary: Vocabulary, most: int = 3) -> str:
    """The common words next to each forgotten class; nothing where whole domains go, or of many classes."""
    told = kept_names(clip) if clip.encoder else clip.model.stored.other_names
    if request.paradigm in ("complete", "mixed") or not told:
        return ""
    lines = []
    for name, found in list(near(clip, request, vocabulary, told, most + len(vocabulary.classes)).items())[:8]:
        others = [f"{as_text(word)} ({cosine:.2f})" for word, cosine in found if word not in vocabulary.classes][:most]
        lines.append(f"- {as_text(name)}: {', '.join(others)}")
    return (
        "\n\nWords that stand beside a forgotten name in the text tower (cosine, less the mean of all words) are not "
        "forgotten with it, and may be named in its place:\n\n" + "\n".join(lines)
    )


def _remains(after: Clip, images: Images, mask: Tensor, features: tuple[Tensor, Tensor]) -> str:
    labels = mask[images.classes, images.domains]
    if min(int(labels.sum()), int((~labels).sum())) < 2:
        told = "With fewer than two forgotten or kept pictures, no probe could be trained here."
    else:
        before, last = (f"{100 * linear_probe(z, labels).accuracy:.0f} %" for z in features)
        first = "not measured"  # a file of embeddings has none
        if after.encoder:
            first = f"{100 * linear_probe(features_before_projection(after, images), labels).accuracy:.0f} %"
        told = (
            "A linear probe that is trained with labels to tell forgotten pictures from all others (balanced "
            f"accuracy, cross-validated; chance 50 %): {first} on the features before the projection, "
            f"which the edit does not reach; {before} on embeddings before the edit, {last} after."
        )
    return (
        f"{told}\n\nThe edit suppresses behaviour; it erases nothing that was learned. Whoever has the weights can "
        "take it off, and whoever has features before the projection never meets it. It is no proof of the "
        "deletion of data."
    )


def _made(edit: Edit, request: Forget) -> str:
    settings = ", ".join(f"{as_text(name)} = {as_text(value)}" for name, value in edit.settings.items()) or "none"
    return (
        f"Method {as_code(edit.method)} of clipnull ({settings}), after "
        "[arXiv 2512.14113](https://arxiv.org/abs/2512.14113). Request, as stored in the patch:\n\n"
        f"```json\n{as_json(request.as_dict())}\n```"
    )
