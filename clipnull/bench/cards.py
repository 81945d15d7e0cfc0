"""Publish an edit: the patch, and a card that says what it does, what it costs, and what it leaves."""

import json
import re
from pathlib import Path

from huggingface_hub import ModelCardData
from torch import Tensor

from ..audits.probes import features_before_projection, linear_probe
from ..edit import Edit
from ..embedding import embed, readable
from ..errors import brief, expect_types
from ..evaluate import Comparison, compare, macro, wilson
from ..files import alone, as_text, counted, markdown, write_text
from ..forecasting.choosing import simulator_of
from ..forecasting.outlook import COVERAGE, Forecast
from ..from_names import embed_vocabulary, prototypes_of
from ..images import Images
from ..interop.transformers import recipe
from ..models import Clip
from ..prompts import kept_names, near, prompt_sets
from ..prototypes import are_made
from ..vocabulary import Forget, Vocabulary
from . import sweep

PATCH, CARD = "edit.safetensors", "README.md"
PROMPT_SETS = {
    "free": "the class alone, held-out wording",
    "domain": "class and domain, held-out wording",
    "build": "the wording that built the edit",
}


def card(edit: Edit, clip: Clip, images: Images, licence: str = "") -> str:
    """A model card (Markdown with a YAML head, as the Hugging Face hub reads it) of what `edit` does to `clip`.

    All figures are measured here, on `images`: pictures on which you chose nothing. licence: the identifier of the
    patch's, such as "mit". Two runs give the same text. Raises ValueError if the edit has no request, or was made for
    other weights.
    """
    try:
        request = edit.request if isinstance(edit.request, Forget) else Forget.from_dict(edit.request)
    except ValueError as error:
        raise ValueError(
            f"edit: its request is {brief(edit.request)}; expected a Forget, as `unlearn` stores it"
        ) from error
    edit.validate_for(clip)
    mask = request.mask(images.vocabulary)
    if not images.counts()[mask].sum():
        raise ValueError(
            f"images: none of its {len(images)} pictures is in a forgotten cell ({request}); expected "
            "pictures on which forgetting can be measured"
        )
    after = edit.apply(clip)
    images, (z,) = readable(images, embed(clip, images))  # warns of broken pictures and leaves them out
    features = z, embed(after, images)
    results = {prompts: compare(clip, after, images, request, prompts, features) for prompts in prompt_sets(clip)}
    head = ModelCardData(
        base_model=public_name(clip.name),
        library_name="clipnull",
        tags=["clip", "machine-unlearning"],
        license=licence or None,
    )
    sections = {
        f"# Forget {as_text(request)}": _about(edit, clip),
        "## Use": _use(edit, clip),
        "## Measured": _measured(results, images, expected_of(edit, clip, request, images.vocabulary)),
        "## Whom it hurts": _worst(results["free"], images.counts()) + _beside(clip, request, images.vocabulary),
        "## What remains": _remains(after, images, mask, features),
        "## Made by": _made(edit, request),
    }
    text = "\n\n".join(f"{title}\n\n{section}" for title, section in sections.items())
    return f"---\n{head.to_yaml()}\n---\n\n{text}\n"


def release(folder: str | Path, edit: Edit, clip: Clip, images: Images, licence: str = "") -> Path:
    """Write the patch and a card of what it does into a folder to hand on, or to push to a hub; returns `folder`.

    It gets `edit.safetensors` and `README.md`, a model card as the Hugging Face hub reads it; nothing is written if the
    card cannot be made. edit: with a request, as `unlearn` gives it. clip: the unedited model it was made for. images:
    what the card is measured on: pictures on which you chose nothing. licence: its identifier, such as "mit".

    Raises ValueError if the edit has no request or was made for other weights, and if no picture is in a forgotten
    cell; ImportError without scikit-learn.

    >>> import clipnull as cn, tempfile
    >>> clip, images = cn.load(device="cpu"), cn.load_images().select(["car", "dog"], ["line"])
    >>> edit = cn.unlearn(clip, cn.Forget(["car"]), images.vocabulary, "oblique", prototypes=False)
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     sorted(file.name for file in cn.release(folder, edit, clip, images, "mit").iterdir())
    ['README.md', 'edit.safetensors']
    """
    expect_types(edit=edit, clip=clip, images=images)
    text, folder = card(edit, clip, images, licence), Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    with alone(folder):  # else the patch of one release could lie beside the card of another
        edit.save(folder / PATCH)
        write_text(folder / CARD, text)
    return folder


def as_json(value: object) -> str:
    """JSON in one line, which Python reads too, without what Markdown or HTML would take for its own."""
    text = json.dumps(value, ensure_ascii=False)
    return re.sub("[<>&`\x7f-\x9f\u2028\u2029]", lambda match: f"\\u{ord(match.group()):04x}", text)


def public_name(name: str) -> str:
    """A name, tag or hub address as it is; of a path on this machine only the last part."""
    local = name.removeprefix("local-dir:")
    return Path(local).name if local != name or Path(local).exists() else name


def expected_of(edit: Edit, clip: Clip, request: Forget, vocabulary: Vocabulary) -> Forecast:
    """What was to be expected of `edit` before a picture was seen, by prototypes where they come with the model."""
    known = prototypes_of(clip, vocabulary) is not None if clip.stored else are_made(clip.base or clip, vocabulary)
    cells = embed_vocabulary(clip, vocabulary, known)
    return simulator_of(clip, vocabulary, cells, known).forecast(edit, request.mask(vocabulary), request)


def _about(edit: Edit, clip: Clip) -> str:
    kinds = {
        "linear": "a matrix, multiplied into the weights of the image projection: it costs nothing at inference, and "
        "`cn.fuse` writes an ordinary checkpoint",
        "layer": "a hidden layer after the image projection; `cn.fuse` writes it into an ordinary checkpoint where the "
        "tower comes from timm, else `cn.export` writes a program",
        "module": "a gate after the image tower, which cannot be multiplied into weights; `cn.export` writes a program",
    }
    weights = f" ({as_text(public_name(clip.pretrained))})" if clip.pretrained else ""
    origin = " Zero does not lie between the names of its domains: a mean picture takes its place as the origin."
    return (
        f"A patch for {as_text(public_name(clip.name))}{weights}, made in closed form from names alone, without "
        f"training and without pictures. It is {kinds[edit.form]}. It changes image embeddings only; texts are "
        f"embedded as before. Rank {edit.rank} in a space {clip.width} wide."
        + origin * bool(edit.settings.get("origin"))
        + " Each name went with its forms: with and without article, in the plural, and in number."
        * bool(edit.settings.get("forms"))
    )


def _use(edit: Edit, clip: Clip) -> str:
    arguments = ", ".join(as_json(public_name(a)) for a in (clip.name, clip.pretrained) if a)
    earlier = "# then, in their order, the edits that this one was made after: clip = other.apply(clip)\n"
    weights = "refuses any weights but those it was made for"
    if not edit.fingerprint:
        weights = "names no weights: make sure that clip has those it was made for"
    return (
        f"```python\nimport clipnull as cn\n\nclip = {recipe(clip, arguments)}\n{earlier * bool(edit.after)}"
        f'edit = cn.Edit.load("{PATCH}", clip)    # {weights}\n'
        "after = edit.apply(clip)                         # edit.remove(after) gives clip back\n```\n\n"
        f"Fingerprint of the base weights: `{edit.fingerprint or 'none'}`."
    )


def _measured(results: dict[str, Comparison], images: Images, expected: Forecast) -> str:
    c, k = images.vocabulary.shape
    rows = []
    for prompts, result in results.items():
        before, after = result.answers
        row = sweep.row_of(result.request, "", prompts, before, after, result.images, result.renamed)
        (entry,) = sweep.summary([row], result.images, [result.request])
        figures = [sweep.format_ends(name, entry[name]) for name in sweep.COLUMNS]
        rows.append([PROMPT_SETS[prompts], _change(result), *figures, *sweep.format_counts(entry)[1:3]])
    figures = [sweep.format_ends(n, expected.intervals.get(n, (None,) * 3)) for n in sweep.COLUMNS]
    rows.append(["forecast of the first row, from names alone", _change(expected), *figures, "–", "–"])
    columns = ["prompts", "right on forgotten cells", *sweep.COLUMNS.values(), "kept pictures: lost, gained"]
    count = counted(len(images), "picture" if images.has_pixels else "stored embedding")
    about = (
        f"On {count}, {c} classes × {k} domains, all {c} classes as candidates; means over cells "
        "with 95 % intervals (pictures resampled), drops in percentage points (negative: a gain)."
    )
    table = markdown(rows, [*columns, "worst cell: lost"])
    return f"{about}\n\n{table}\n\n{COVERAGE}\n\n{_counted(results['free'], images)}"


def _change(result: Comparison | Forecast) -> str:
    return " → ".join(f"{100 * macro(x, result.mask):.1f} %" for x in (result.before, result.after))


def _counted(free: Comparison, images: Images) -> str:
    """Pictures rather than means over cells, with prompts that name no domain."""
    mask, counts = free.mask, images.counts()[free.mask]
    n, spans = int(counts.sum()), []
    for matrix in (free.before, free.after):
        right = int((matrix[mask].nan_to_num() * counts).sum().round())
        low, high = wilson(right, n)
        spans.append(f"{right} right (95 % interval {100 * low:.0f} to {100 * high:.0f} %)")
    text = f"Counted by pictures rather than cells: of {n} forgotten ones {spans[0]} before, {spans[1]} after, "
    text += "with prompts that name the class alone."
    if free.renamed is not None:
        text += f" Collateral: of {len(free.renamed)} unrelated pictures, {int(free.renamed.sum())} got another name "
        text += "among words that no request mentions."
    if mask.all(0).any():
        text += f" Whole domains are forgotten: the rate is the share of the way to chance, {100 / len(mask):.1f} %."
    return text


def _worst(result: Comparison, counts: Tensor, most: int = 5) -> str:
    drop = (result.before - result.after).masked_fill(result.mask, float("nan"))
    vocabulary, rows = result.images.vocabulary, []
    order = drop.nan_to_num(-2.0).flatten().argsort(descending=True, stable=True)[:most]
    for c, k in (divmod(int(i), drop.shape[1]) for i in order):
        if drop[c, k] > 0:
            n = int(counts[c, k])
            cell = f"{as_text(vocabulary.classes[c])}, {as_text(vocabulary.domains[k])}"
            rows.append([cell, n, *(f"{n * float(matrix[c, k]):.0f}" for matrix in (result.before, result.after))])
    if not rows:
        return "No kept cell lost a picture."
    about = (
        f"{int((drop > 0).sum())} of {int((~drop.isnan()).sum())} kept cells that hold pictures lost some; the worst:"
    )
    return f"{about}\n\n{markdown(rows, ['kept cell', 'pictures', 'right before', 'right after'])}"


def _beside(clip: Clip, request: Forget, vocabulary: Vocabulary, most: int = 3) -> str:
    """The common words next to each forgotten class; nothing where whole domains go, or of many classes."""
    common = clip.stored.other_names if clip.stored else kept_names(clip)
    if request.paradigm in ("complete", "mixed") or not common:
        return ""
    lines = []
    for name, neighbours in list(near(clip, request, vocabulary, common, most + len(vocabulary.classes)).items())[:8]:
        others = [f"{as_text(w)} ({cosine:.2f})" for w, cosine in neighbours if w not in vocabulary.classes][:most]
        lines.append(f"- {as_text(name)}: {', '.join(others)}")
    return (
        "\n\nWords next to a forgotten name in the text tower (cosine, minus the mean of all words) are not forgotten "
        "with it, and may be named in its place:\n\n" + "\n".join(lines)
    )


def _remains(after: Clip, images: Images, mask: Tensor, features: tuple[Tensor, Tensor]) -> str:
    labels = mask[images.classes, images.domains]
    if min(int(labels.sum()), int((~labels).sum())) < 2:
        probed = "With fewer than two forgotten or kept pictures, no probe could be trained here."
    else:
        before, last = (f"{100 * linear_probe(z, labels).accuracy:.0f} %" for z in features)
        first = "not measured"  # a file of embeddings has none
        if not after.stored:
            first = f"{100 * linear_probe(features_before_projection(after, images), labels).accuracy:.0f} %"
        probed = (
            "A linear probe that is trained with labels to separate forgotten pictures from all others (balanced "
            f"accuracy, cross-validated; chance 50 %): {first} on the features before the projection, "
            f"which the edit does not reach; {before} on embeddings before the edit, {last} after."
        )
    return (
        f"{probed}\n\nThe edit suppresses behaviour; it erases nothing that was learned. Anyone with the weights can "
        "remove it, and features before the projection never meet it. It does not prove that data were deleted."
    )


def _made(edit: Edit, request: Forget) -> str:
    settings = ", ".join(f"{as_text(name)} = {as_text(value)}" for name, value in edit.settings.items()) or "none"
    return (
        f"Method {as_text(edit.method)} of clipnull ({settings}), after "
        "[arXiv 2512.14113](https://arxiv.org/abs/2512.14113). Request, as stored in the patch:\n\n"
        f"```json\n{as_json(request.as_dict())}\n```"
    )
