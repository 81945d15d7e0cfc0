"""What remains of the forgotten, and what is damaged: every question at once, beside a retrained model."""

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import compress

import torch
import torch.nn.functional as F
from torch import Tensor

from ..edit import Edit
from ..embedding import embed
from ..errors import at_least, brief, expect_types
from ..images import Images, families
from ..models import EMBEDDED, RETRAINED, Clip, load
from ..vocabulary import Forget
from . import probes, retrieval, robustness, side_effects, words
from .context import Context
from .findings import Audit, Finding

__all__ = ["Audit", "Finding", "audit", "audit_each"]

MIN_PICTURES = 4
"""A probe needs as many forgotten pictures, and as many kept ones."""

STORED = "stages of the tower, a prompt found by gradient, rounded weights: only embeddings are stored"
NO_RETRAINED = "a retrained model: what only it can judge is reported without a judgement"

QUESTIONS = (
    *(probes.by_stage, probes.relearning, words.found_prompt, retrieval.retrieval, retrieval.neighbours),
    *(side_effects.destinations, side_effects.damage, side_effects.signature, side_effects.membership),
    *(robustness.survival, robustness.reversal, words.other_words),
)


def audit(
    clip: Clip,
    after: Clip | Edit,
    images: Images,
    request: Forget,
    retrained: Clip | bool = True,
    words: Mapping[str, Sequence[str]] | None = None,
    train: Images | None = None,
    seed: int = 0,
) -> Audit:
    """Ask everything of an edited model that could contradict the claim "it has forgotten", the worst answer first.

    Every question is asked of three models: unedited, edited, and one retrained without what is forgotten, because a
    probe finds dogs in the features of a model that never met one, too. after: an edited model, or an edit. images:
    labelled pictures, used neither to train nor to edit. retrained: a model; True: the one that comes with miniclip;
    False: none. words: other names of forgotten classes. train: pictures for fine-tuning (minutes). seed: of folds and
    draws. The result prints as a table. Raises ValueError for fewer than MIN_PICTURES forgotten or kept pictures.

    >>> import clipnull as cn
    >>> clip, images = cn.load(device="cpu"), cn.load_images().select(["dog", "car"], ["line", "flat"])
    >>> request = cn.Forget(["dog"])
    >>> edit = cn.unlearn(clip, request, images.vocabulary, "oblique")
    >>> report = cn.audit(clip, edit, images, request, retrained=False)
    >>> len(report.findings) > 20, report.findings[0].within
    (True, False)
    """
    return audit_each(clip, [after], images, request, retrained, words, train, seed)[0]


def audit_each(
    clip: Clip,
    afters: Sequence[Clip | Edit],
    images: Images,
    request: Forget,
    retrained: Clip | bool = True,
    words: Mapping[str, Sequence[str]] | None = None,
    train: Images | None = None,
    seed: int = 0,
) -> list[Audit]:
    """`audit` of several edits for one request; the unedited and the retrained model are asked once."""
    expect_types(clip=clip, images=images, request=request)
    at_least("seed", seed, 0)
    for after in afters:
        if not isinstance(after, Clip | Edit):
            raise ValueError(f"after: {brief(after)} is not valid; expected a model or an edit")
        if isinstance(after, Clip) and after.width != clip.width:
            raise ValueError(f"after: {after.name} is {after.width} wide; expected {clip.width}, as {clip.name} is")
    other = retrained_for(clip, request, images) if retrained is True else retrained or None
    if other and other.fingerprint == clip.fingerprint:
        raise ValueError(f"retrained: {other.name} has the weights of clip; expected a model that was retrained")
    if other and (other.stored is None) != (clip.stored is None):
        raise ValueError(f"retrained: {other.name} and {clip.name}; expected two models, or two files of embeddings")
    context, reports = _context(clip, other, images, request, words or {}, seed), []
    about = {"request": str(request), "paradigm": request.paradigm, "model": clip.name, "methods": []}
    about |= {"clean": other and other.name, "pictures": len(context.images)}
    about |= {"forgotten": int(context.inside.sum()), "seed": seed}
    left_out = (STORED,) * bool(clip.stored) + (NO_RETRAINED,) * (other is None)
    for after in afters:
        edited = after.apply(clip) if isinstance(after, Edit) else after
        z = context.features["unedited"]
        x = edited.edited(z) if edited.base is clip else embed(edited, context.images)
        models, features = context.models | {"edited": edited}, context.features | {"edited": x}
        context = replace(context, models=models, features=features)
        findings = [finding for question in QUESTIONS for finding in question(context)]
        findings += robustness.fine_tuning(context, train) if train is not None else []
        findings.sort(key=lambda finding: -finding.times)
        methods = {"methods": [edit.method for edit in edited.edits]}
        reports.append(Audit(tuple(findings), about | methods, left_out, side_effects.counts(context)))
    return reports


def _context(
    clip: Clip, other: Clip | None, images: Images, request: Forget, words: Mapping[str, Sequence[str]], seed: int
) -> Context:
    """The pictures that can be read, and the unedited and the retrained model; `clip` in the place of the edited."""
    forgotten = [*compress(images.vocabulary.classes, request.mask(images.vocabulary).any(1))]
    for name, others in words.items():
        if name not in forgotten or isinstance(others, str):
            raise ValueError(f"words: {name!r}: {others!r}; expected for forgotten classes a list of words each")
    _validate_counts(images, request)  # else a request without pictures would cost all of them first
    z, layers = probes.through(clip, images)
    readable = ~z.isnan().any(1)
    images, z, layers = images.where(readable), z[readable], {name: x[readable] for name, x in layers.items()}
    models, features, stages = {"unedited": clip, "edited": clip}, {"unedited": z, "edited": z}, {"unedited": layers}
    _validate_counts(images, request)
    if other:
        models["retrained"], (features["retrained"], stages["retrained"]) = other, probes.through(other, images)
    return Context(models, images, request, features, _relatives(images, z), seed, stages, words)


def _validate_counts(images: Images, request: Forget) -> None:
    """Raises ValueError for fewer than MIN_PICTURES to forget, or to keep."""
    forgotten = int(request.mask(images.vocabulary)[images.classes, images.domains].sum())
    if min(forgotten, len(images) - forgotten) < MIN_PICTURES:
        counts = f"{forgotten} to forget and {len(images) - forgotten} to keep can be read"
        raise ValueError(f"images: {counts}; expected at least {MIN_PICTURES} of each")


def retrained_for(clip: Clip, request: Forget, images: Images) -> Clip | None:
    """The model that comes with miniclip, retrained without the only class or domain of `request`; None without one."""
    argument = "domains" if request.classes is None else "classes"
    names = getattr(request, argument)
    if clip.base is not None or clip.name != EMBEDDED or request.also or not names or len(names) != 1:
        return None
    (place,) = images.vocabulary.places(argument, names)
    wanted = f"{EMBEDDED}-no-{getattr(images.vocabulary, argument)[place]}"
    if wanted not in RETRAINED:
        return None
    try:
        return load(wanted, device=str(clip.device))
    except FileNotFoundError as error:
        warnings.warn(f"no retrained model to compare with: {error}", stacklevel=3)
        return None


def _relatives(images: Images, z: Tensor) -> list[str]:
    """The family of each picture; pictures of one embedding, such as copies of a file, are of one family."""
    first: dict[bytes, str] = {}
    keys = (1e4 * F.normalize(z, dim=-1)).round().to(torch.int16)
    return [first.setdefault(key.numpy().tobytes(), name) for key, name in zip(keys, families(images), strict=True)]
