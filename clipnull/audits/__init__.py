"""Audits of an edited model: traces of the forgotten, and damage to the rest, compared with a retrained model."""

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
"""An audit needs at least this many forgotten pictures, and this many kept ones."""

STORED = "stages of the tower, a prompt found by gradient and rounded weights, because only embeddings are stored"
NO_RETRAINED = "a retrained model, so findings that need this reference are not judged"

QUESTIONS = (
    *(probes.by_stage, probes.relearning, words.gradient_prompt, retrieval.retrieval, retrieval.neighbours),
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
    """Test an edited model for traces of the forgotten and for damage; return an `Audit`, the worst finding first.

    Every test compares three models: `clip`, the edited model, and one retrained without the forgotten pictures. A
    probe finds dogs even in the features of a model that never saw one, so the retrained model is the reference.

    after: an edited model, or an edit. images: labelled pictures that neither training nor the edit used. retrained: a
    model; True loads the one for miniclip, False skips it. words: other names of forgotten classes, by class. train:
    pictures for a fine-tuning test, which takes minutes. seed: for folds and draws. Raise ValueError for fewer than
    MIN_PICTURES forgotten or kept pictures.

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
    """Audit several edits for one request; test the unedited and the retrained model only once."""
    expect_types(clip=clip, images=images, request=request)
    at_least("seed", seed, 0)
    for after in afters:
        if not isinstance(after, Clip | Edit):
            raise ValueError(f"after: {brief(after)} is not valid; expected a model or an edit")
        if isinstance(after, Clip) and after.width != clip.width:
            raise ValueError(f"after: {after.name} has width {after.width}; expected {clip.width}, like {clip.name}")
    reference = retrained_for(clip, request, images) if retrained is True else retrained or None
    if reference and reference.fingerprint == clip.fingerprint:
        raise ValueError(f"retrained: {reference.name} has the same weights as clip; expected a retrained model")
    if reference and (reference.stored is None) != (clip.stored is None):
        raise ValueError(
            f"retrained: {reference.name} and clip differ in kind; expected two models or two embedding files"
        )
    context, reports = _context(clip, reference, images, request, words or {}, seed), []
    about = {"request": str(request), "paradigm": request.paradigm, "model": clip.name, "methods": []}
    about |= {"clean": reference and reference.name, "pictures": len(context.images)}
    about |= {"forgotten": int(context.inside.sum()), "seed": seed}
    left_out = (STORED,) * bool(clip.stored) + (NO_RETRAINED,) * (reference is None)
    for after in afters:
        edited = after.apply(clip) if isinstance(after, Edit) else after
        x = edited.edited(context.features["unedited"]) if edited.base is clip else embed(edited, context.images)
        models, features = context.models | {"edited": edited}, context.features | {"edited": x}
        context = replace(context, models=models, features=features)
        findings = [finding for question in QUESTIONS for finding in question(context)]
        findings += robustness.fine_tuning(context, train) if train is not None else []
        findings.sort(key=lambda finding: -finding.times)
        methods = {"methods": [edit.method for edit in edited.edits]}
        reports.append(Audit(tuple(findings), about | methods, left_out, side_effects.counts(context)))
    return reports


def _context(
    clip: Clip, reference: Clip | None, images: Images, request: Forget, words: Mapping[str, Sequence[str]], seed: int
) -> Context:
    """Return the Context of the readable pictures, with `clip` as a placeholder for the edited model."""
    forgotten = [*compress(images.vocabulary.classes, request.mask(images.vocabulary).any(1))]
    for name, synonyms in words.items():
        if name not in forgotten or isinstance(synonyms, str):
            raise ValueError(f"words: {name!r}: {synonyms!r}; expected a list of words for each forgotten class")
    _validate_counts(images, request)  # before embedding, so that a request without pictures fails fast
    z, layers = probes.through(clip, images)
    readable = ~z.isnan().any(1)
    images, z, layers = images.where(readable), z[readable], {name: x[readable] for name, x in layers.items()}
    models, features, stages = {"unedited": clip, "edited": clip}, {"unedited": z, "edited": z}, {"unedited": layers}
    _validate_counts(images, request)
    if reference:
        models["retrained"], (features["retrained"], stages["retrained"]) = reference, probes.through(reference, images)
    return Context(models, images, request, features, _relatives(images, z), seed, stages, words)


def _validate_counts(images: Images, request: Forget) -> None:
    """Raise ValueError for fewer than MIN_PICTURES forgotten or kept pictures."""
    forgotten = int(request.mask(images.vocabulary)[images.classes, images.domains].sum())
    if min(forgotten, len(images) - forgotten) < MIN_PICTURES:
        counts = f"{forgotten} readable pictures to forget and {len(images) - forgotten} to keep"
        raise ValueError(f"images: {counts}; expected at least {MIN_PICTURES} of each")


def retrained_for(clip: Clip, request: Forget, images: Images) -> Clip | None:
    """Return the miniclip that was retrained without the one class or domain of `request`, or None."""
    argument = "domains" if request.classes is None else "classes"
    names = getattr(request, argument)
    if clip.base is not None or clip.name != EMBEDDED or request.also or not names or len(names) != 1:
        return None
    (index,) = images.vocabulary.places(argument, names)
    tag = f"{EMBEDDED}-no-{getattr(images.vocabulary, argument)[index]}"
    if tag not in RETRAINED:
        return None
    try:
        return load(tag, device=str(clip.device))
    except FileNotFoundError as error:
        warnings.warn(f"no retrained model to compare with: {error}", stacklevel=3)
        return None


def _relatives(images: Images, z: Tensor) -> list[str]:
    """Return the family of each picture; pictures with equal embeddings, such as copies of a file, share one."""
    family: dict[bytes, str] = {}
    keys = (1e4 * F.normalize(z, dim=-1)).round().to(torch.int16)
    return [family.setdefault(key.numpy().tobytes(), name) for key, name in zip(keys, families(images), strict=True)]
