"""What remains of the forgotten, and what is damaged: every question at once, beside a retrained model."""

import warnings
from collections.abc import Mapping, Sequence
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
    edited, names = [_edited(clip, after) for after in afters], words or {}
    _validate_words(names, request, images)
    other = retrained_for(clip, request, images) if retrained is True else retrained or None
    if other and other.fingerprint == clip.fingerprint:
        raise ValueError(f"retrained: {other.name} has the weights of clip; expected a model that was retrained")
    models = {"unedited": clip} | ({"retrained": other} if other else {})
    passes = {name: probes.through(model, images) for name, model in models.items()}
    z = passes["unedited"][0]
    rows = [one.edited(z) if one.base is clip else embed(one, images) for one in edited]
    whole = torch.stack([~x.norm(dim=1).isnan() for x in (*rows, *(x for x, _ in passes.values()))]).all(0)
    images = images.where(whole)
    features = {name: x[whole] for name, (x, _) in passes.items()}
    stages = {name: {stage: x[whole] for stage, x in layers.items()} for name, (_, layers) in passes.items()}
    about = {"request": str(request), "paradigm": request.paradigm, "model": clip.name, "methods": []}
    about |= {"clean": other.name if other else None, "pictures": len(images)}
    about |= {"forgotten": _count_forgotten(images, request), "seed": seed}
    known, relatives, reports = {}, _relatives(images, features["unedited"]), []
    for one, x in zip(edited, rows, strict=True):
        named = {"unedited": clip, "edited": one, **models}
        of = {"unedited": features["unedited"], "edited": x[whole], **features}
        context = Context(named, images, request, of, relatives, seed, stages, names, known)
        findings = [finding for question in QUESTIONS for finding in question(context)]
        findings += robustness.fine_tuning(context, train) if train is not None else []
        findings.sort(key=lambda finding: -finding.times)
        methods = {"methods": [edit.method for edit in one.edits]}
        reports.append(Audit(tuple(findings), about | methods, _left_out(models), side_effects.counts(context)))
    return reports


def _edited(clip: Clip, after: Clip | Edit) -> Clip:
    if not isinstance(after, Clip | Edit):
        raise ValueError(f"after: {brief(after)} is not valid; expected a model or an edit")
    return after.apply(clip) if isinstance(after, Edit) else after


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


def _validate_words(words: Mapping[str, Sequence[str]], request: Forget, images: Images) -> None:
    forgotten = request.mask(images.vocabulary).any(1).tolist()
    for name, others in words.items():
        if name not in compress(images.vocabulary.classes, forgotten) or isinstance(others, str):
            raise ValueError(f"words: {name!r}: {others!r}; expected for forgotten classes a list of words each")


def _count_forgotten(images: Images, request: Forget) -> int:
    """How many pictures are to be forgotten. Raises ValueError for fewer than MIN_PICTURES of them, or to keep."""
    forgotten = int(request.mask(images.vocabulary)[images.classes, images.domains].sum())
    kept = len(images) - forgotten
    if min(forgotten, kept) < MIN_PICTURES:
        raise ValueError(
            f"images: {forgotten} to forget and {kept} to keep can be read; expected at least {MIN_PICTURES} of each"
        )
    return forgotten


def _relatives(images: Images, z: Tensor) -> list[str]:
    """The family of each picture; pictures of one embedding, such as copies of a file, are of one family."""
    first: dict[bytes, str] = {}
    keys = (1e4 * F.normalize(z, dim=-1)).round().to(torch.int16)
    return [first.setdefault(key.numpy().tobytes(), name) for key, name in zip(keys, families(images), strict=True)]


def _left_out(models: dict[str, Clip]) -> tuple[str, ...]:
    stored = "stages of the tower, a prompt found by gradient, rounded weights: only embeddings are stored"
    retrained = "a retrained model: what only it can judge is reported without a judgement"
    return (stored,) * bool(models["unedited"].stored) + (retrained,) * ("retrained" not in models)
