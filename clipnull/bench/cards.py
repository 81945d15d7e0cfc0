"""Publish an edit as a patch and a model card with its effect, its costs and what remains of the class."""

import json
import re
from pathlib import Path

from huggingface_hub import ModelCardData
from torch import Tensor

from ..audits.probes import features_before_projection, linear_probe
from ..edit import Edit
from ..embedding import embed, readable
from ..errors import brief, expect_types
from ..evaluate import Comparison, compare, macro
from ..files import alone, as_text, counted, markdown, write_text
from ..images import Images
from ..interop.transformers import recipe
from ..models import Clip
from ..prompts import prompt_sets
from ..vocabulary import Forget
from . import sweep

PATCH, CARD = "edit.safetensors", "README.md"
PROMPT_SETS = {
    "free": "the class alone, held-out wording",
    "domain": "class and domain, held-out wording",
    "build": "the wording that built the edit",
}
FORMS = {
    "linear": "a matrix, multiplied into the weights of the image projection: it costs nothing at inference, and "
    "`cn.fuse` writes an ordinary checkpoint",
    "layer": "a hidden layer after the image projection; `cn.fuse` writes it into an ordinary checkpoint where the "
    "tower comes from timm, else `cn.export` writes a program",
    "module": "a gate after the image tower, which cannot be multiplied into weights; `cn.export` writes a program",
}
BODY = """---
{head}
---

# Forget {request}

A patch for {model}, made in closed form from names alone, without training and without pictures. It is {form}. It
changes image embeddings only; texts are embedded as before. Its rank is {rank}, in {width} dimensions.

## Use

```python
import clipnull as cn

clip = {loaded}
{earlier}edit = cn.Edit.load("{patch}", clip)    # {weights}
after = edit.apply(clip)                         # edit.remove(after) gives clip back
```

Fingerprint of the base weights: `{fingerprint}`.

## Measured

On {shown}, with all classes as candidates. Figures are means over (class, domain) cells with 95 % intervals (pictures
resampled). Drops are in percentage points; a negative drop is a gain. For whole domains, a forgetting rate of 1 means
chance. Collateral is the percentage of unrelated pictures that change their name among words that no request mentions.

{figures}

## Whom it hurts

{worst}

## What remains

{remains}

The edit suppresses behaviour; what the model learned is still there. Anyone with the weights can undo the edit. It
does not prove that data were deleted.

## Made by

Method {method} of clipnull ({settings}), after [arXiv 2512.14113](https://arxiv.org/abs/2512.14113). The patch stores
this request:

```json
{stored}
```
"""
WEIGHTS = {True: "raises ValueError for other weights", False: "cannot check the weights: make sure they are the same"}
EARLIER = "# first apply, in order, the edits that this one was made after: clip = other.apply(clip)\n"


def card(edit: Edit, clip: Clip, images: Images, licence: str = "") -> str:
    """Return a model card (Markdown with a YAML head) of `edit`, measured on `images`; arguments as for `release`."""
    try:
        request = edit.request if isinstance(edit.request, Forget) else Forget.from_dict(edit.request)
    except ValueError as error:
        message = f"edit: its request is {brief(edit.request)}; expected a Forget, as `unlearn` stores it"
        raise ValueError(message) from error
    edit.validate_for(clip)
    mask, (c, k) = request.mask(images.vocabulary), images.vocabulary.shape
    if not images.counts()[mask].sum():
        message = f"images: none of its {len(images)} pictures is in a forgotten cell ({request})"
        raise ValueError(f"{message}; expected at least one")
    after = edit.apply(clip)
    images, (z,) = readable(images, embed(clip, images))  # warns about broken pictures and skips them
    features = z, embed(after, images)
    results = {prompts: compare(clip, after, images, request, prompts, features) for prompts in prompt_sets(clip)}
    kind = "picture" if images.has_pixels else "stored embedding"
    names = [public_name(name) for name in (clip.name, clip.pretrained) if name]
    head = {"base_model": names[0], "library_name": "clipnull", "tags": ["clip", "machine-unlearning"]}
    return BODY.format(
        head=ModelCardData(**head, license=licence or None).to_yaml(),
        request=as_text(request),
        model=as_text(names[0]) + "".join(f" ({as_text(name)})" for name in names[1:]),
        form=FORMS[edit.form],
        rank=edit.rank,
        width=clip.width,
        loaded=recipe(clip, ", ".join(map(as_json, names))),
        earlier=EARLIER if edit.after else "",
        patch=PATCH,
        weights=WEIGHTS[bool(edit.fingerprint)],
        fingerprint=edit.fingerprint or "none",
        shown=f"{counted(len(images), kind)}, {c} classes × {k} domains",
        figures=_figures(results),
        worst=_worst(results["free"]),
        remains=_remains(after, images, mask, features),
        method=as_text(edit.method),
        settings=", ".join(f"{as_text(name)} = {as_text(value)}" for name, value in edit.settings.items()) or "none",
        stored=as_json(request.as_dict()),
    )


def release(folder: str | Path, edit: Edit, clip: Clip, images: Images, licence: str = "") -> Path:
    """Write an edit and its model card into a folder that you can share or push to a hub; return `folder`.

    The folder gets `edit.safetensors` and `README.md`, a card for the Hugging Face hub. Nothing is written if the card
    cannot be made. edit: an edit with a request, as `unlearn` returns it. clip: the unedited model of the edit. images:
    pictures to measure on, which you did not use to make choices; at least one must be in a forgotten (class, domain)
    cell. licence: an identifier such as "mit"; by default none.

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
    with alone(folder):  # two releases into one folder must not mix patch and card
        edit.save(folder / PATCH)
        write_text(folder / CARD, text)
    return folder


def as_json(value: object) -> str:
    """Return one line of JSON, also valid Python, with the characters of Markdown and HTML escaped."""
    text = json.dumps(value, ensure_ascii=False)
    return re.sub("[<>&`\x7f-\x9f\u2028\u2029]", lambda match: f"\\u{ord(match.group()):04x}", text)


def public_name(name: str) -> str:
    """Return a name, tag or hub address unchanged, and only the last part of a local path."""
    local = name.removeprefix("local-dir:")
    return Path(local).name if local != name or Path(local).exists() else name


def _figures(results: dict[str, Comparison]) -> str:
    """Return the table of figures, one row per prompt set."""
    request, images, measured, rows = results["free"].request, results["free"].images, [], []
    for prompts, r in results.items():
        row = sweep.row_of(request, r.answers[0], r.answers[1], images, r.renamed)
        measured.append(row | {"method": "", "prompts": prompts})
    for entry, r in zip(sweep.summary(measured, images, [request]), results.values(), strict=True):
        right = " → ".join(f"{100 * macro(x, r.mask):.1f} %" for x in (r.before, r.after))
        counts = sweep.format_counts(entry)[:3]
        rows.append([PROMPT_SETS[entry["prompts"]], right, *sweep.format_figures(entry), *counts])
    columns = ["prompts", "right on forgotten cells", *sweep.COLUMNS.values(), *sweep.COUNTED[:3]]
    return markdown(rows, columns)


def _worst(result: Comparison, most: int = 5) -> str:
    """Return a table of the kept cells with the largest drops."""
    vocabulary, counts = result.images.vocabulary, result.images.counts()
    drop = (result.before - result.after).masked_fill(result.mask, float("nan"))
    lost, rows = int((drop > 0).sum()), []
    if not lost:
        return "No kept cell lost a picture."
    for cell in drop.nan_to_num(-2.0).flatten().argsort(descending=True, stable=True)[: min(most, lost)].tolist():
        c, k = divmod(cell, drop.shape[1])
        right = [f"{counts[c, k] * matrix[c, k]:.0f}" for matrix in (result.before, result.after)]
        rows.append([as_text(vocabulary.classes[c]), as_text(vocabulary.domains[k]), int(counts[c, k]), *right])
    table = markdown(rows, ["class", "domain", "pictures", "right before", "right after"])
    return f"{lost} of {int((~drop.isnan()).sum())} kept cells with pictures lost some. The worst:\n\n{table}"


def _remains(after: Clip, images: Images, mask: Tensor, features: tuple[Tensor, Tensor]) -> str:
    """Report how well linear probes find forgotten pictures before the projection, and before and after the edit."""
    labels = mask[images.classes, images.domains]
    if min(int(labels.sum()), int((~labels).sum())) < 2:
        return "No probe could be trained here: it needs two forgotten and two kept pictures."
    inner = None if after.stored else features_before_projection(after, images)  # a file holds only embeddings
    first, before, last = (
        "not measured" if x is None else f"{100 * linear_probe(x, labels).accuracy:.0f} %" for x in (inner, *features)
    )
    return (
        "A linear probe is trained with labels to separate forgotten pictures from all others. Its cross-validated "
        f"balanced accuracy (chance: 50 %) is {first} on features before the projection, which the edit does not "
        f"change. On embeddings it is {before} before the edit and {last} after."
    )
