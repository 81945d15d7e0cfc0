"""What remains of the forgotten, and what is damaged: every question at once, beside a model that never knew."""

from collections.abc import Mapping, Sequence
from functools import reduce

from .. import clean as clean_models
from ..bootstrap import families
from ..data import Images
from ..edit import Edit
from ..embedding import embed, readable
from ..models import Clip, load
from ..requests import Forget
from . import probing, retrieving, surviving, traces, wordings
from .case import Case
from .findings import Audit, Finding, ordered

__all__ = ["Audit", "Finding", "audit"]

FEW = 4
"""Fewer forgotten pictures than this, or kept ones, are too few for a probe."""


def audit(
    clip: Clip,
    after: Clip | Edit,
    images: Images,
    request: Forget,
    clean: Clip | bool = True,
    words: Mapping[str, Sequence[str]] | None = None,
    train: Images | None = None,
    seed: int = 0,
) -> Audit:
    """Ask everything of an edited model that could contradict the claim "it has forgotten", the worst answer first.

    Every question is asked of three models: unedited, edited, and one that was never taught the request (`clean`). A
    number says little alone: a probe finds dogs in the features of a model that never met one, too.

    Parameters
    ----------
    clip : Clip
        The unedited model; a file of embeddings will do, for what needs neither pixels nor a text tower.
    after : Clip or Edit
        What to audit: an edited model, or an edit of `clip`.
    images : Images
        n labelled pictures, neither used to train nor to edit.
    request : Forget
    clean : Clip or bool
        A model that never knew. True: the one that comes with miniclip for this request, if there is one. False: none;
        then what only it can judge is told without a judgement.
    words : mapping of str to sequence of str, optional
        What else forgotten classes are called: synonyms, hyponyms, descriptions, other languages.
    train : Images, optional
        Pictures for fine-tuning (minutes): what comes back after 10 and 100 steps on the kept ones.
    seed : int
        Of folds, draws and the prompt that is found by gradient.

    Returns
    -------
    Audit
        Printed, a table; `as_dict` and `to_json` give all of it.

    Raises
    ------
    ValueError
        For names that the vocabulary lacks, fewer than FEW forgotten or kept pictures, a clean model that is this one
        or embeds in another width, `after` of another model, and words for classes that are not forgotten.
    ImportError
        Without scikit-learn.

    Examples
    --------
    >>> import clipnull as cn
    >>> clip, images = cn.load(device="cpu"), cn.load_images().select(["dog", "car"], ["line", "flat"])
    >>> request = cn.Forget(["dog"])
    >>> edit = cn.unlearn(clip, request, images.vocabulary, "oblique")
    >>> report = cn.audit(clip, edit, images, request, clean=False)
    >>> len(report.findings) > 20, report.worst[0].within
    (True, False)
    """
    mask = request.mask(images.vocabulary)
    edited = after.apply(clip) if isinstance(after, Edit) else after
    if (edited.base or edited) is not (clip.base or clip) and edited.width != clip.width:
        raise ValueError(f"after: {edited.name} is {edited.width} wide; expected an edit of {clip.name}, {clip.width}")
    named = {images.vocabulary.classes[c] for c in mask.any(1).nonzero()[:, 0].tolist()}
    for name, others in (words or {}).items():
        if name not in named or isinstance(others, str):
            raise ValueError(f"words: {name!r}: {others!r}; expected for forgotten classes a list of words each")
    models = {"unedited": clip, "edited": edited}
    never = clean_for(clip, request, images) if clean is True else clean or None
    if never is not None:
        if never.fingerprint == clip.fingerprint:
            raise ValueError(f"clean: {never.name} has the weights of clip; expected a model that never knew")
        if never.encoder != clip.encoder:
            raise ValueError(f"clean: {never.name} is {'' if never.encoder else 'no '}encoder; expected one as clip is")
        models["clean"] = never
    found = {name: embed(model, images) for name, model in models.items() if name != "edited"}
    if edited.base is clip and clip.base is None:
        found["edited"] = reduce(lambda z, edit: edit.images(z), edited.edits, found["unedited"])
    else:
        found["edited"] = embed(edited, images)
    images, rows = readable(images, *found.values())
    inside = int(mask[images.classes, images.domains].sum())
    if min(inside, len(images) - inside) < FEW:
        raise ValueError(f"images: {inside} of {len(images)} are forgotten; expected at least {FEW}, and {FEW} kept")
    case = Case.of(models, images, request, dict(zip(found, rows, strict=True)), families(images), seed)
    findings = [*probing.probes(case), *probing.relearning(case), *wordings.other_words(case, words or {})]
    left_out = []
    if clip.encoder:
        findings += wordings.found_prompt(case)
    else:
        left_out.append("stages of the tower, a prompt found by gradient, rounded weights: only embeddings are stored")
    findings += [*retrieving.retrieval(case), *retrieving.neighbours(case), *traces.destinations(case)]
    findings += [*traces.damage(case), *traces.mark(case), *traces.membership(case)]
    findings += [*surviving.survival(case), *surviving.reversal(case)]
    if train is not None:
        findings += surviving.fine_tuning(case, train)
    if never is None:
        left_out.append("a model that never knew: what only it can judge is told without a judgement")
    about = {
        "request": str(request),
        "paradigm": request.paradigm,
        "model": clip.name,
        "clean": never.name if never else None,
        "methods": [edit.method for edit in edited.edits],
        "pictures": len(images),
        "forgotten": inside,
        "seed": seed,
    }
    return Audit(ordered(findings), about, tuple(left_out))


def clean_for(clip: Clip, request: Forget, images: Images) -> Clip | None:
    """The model that comes with miniclip and never knew the only class or domain of `request`; None without one."""
    name = request.classes if request.classes is not None else request.domains
    if clip.base is not None or clip.name != clean_models.BASE or request.also or not name or len(name) != 1:
        return None
    wanted = f"{clean_models.BASE}-no-{name[0]}"
    return load(wanted, device=str(clip.device)) if wanted in clean_models.NAMES else None
