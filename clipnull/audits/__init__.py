"""What remains of the forgotten, and what is damaged: every question at once, beside a model that never knew."""

from collections.abc import Mapping, Sequence
from functools import reduce

from torch import Tensor

from ..edit import Edit
from ..embedding import embed, readable
from ..images import Images, families
from ..models import EMBEDDED, RETRAINED, Clip, load
from ..vocabulary import Forget
from . import languages, retrieval, robustness, side_effects
from .context import Case
from .findings import Audit, Finding, ordered
from .probes import by_stage, relearning, through
from .words import found_prompt, other_words

__all__ = ["Audit", "Finding", "audit", "audit_each"]

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
        What else forgotten classes are called: synonyms, hyponyms, descriptions, other languages. A text tower that is
        known to read other languages is asked in some, for common things (`audits.languages`).
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
    return audit_each(clip, [after], images, request, clean, words, train, seed)[0]


def audit_each(
    clip: Clip,
    afters: Sequence[Clip | Edit],
    images: Images,
    request: Forget,
    clean: Clip | bool = True,
    words: Mapping[str, Sequence[str]] | None = None,
    train: Images | None = None,
    seed: int = 0,
) -> list[Audit]:
    """`audit` of several edits for one request; what is asked of the unedited and the clean model is asked once.

    Raises what `audit` raises, before anything is asked.
    """
    mask = request.mask(images.vocabulary)
    edited = [after.apply(clip) if isinstance(after, Edit) else after for after in afters]
    for one in edited:
        if (one.base or one) is not (clip.base or clip) and one.width != clip.width:
            raise ValueError(f"after: {one.name} is {one.width} wide; expected an edit of {clip.name}, {clip.width}")
    named = {images.vocabulary.classes[c]: None for c in mask.any(1).nonzero()[:, 0].tolist()}
    for name, others in (words or {}).items():
        if name not in named or isinstance(others, str):
            raise ValueError(f"words: {name!r}: {others!r}; expected for forgotten classes a list of words each")
    models = {"unedited": clip}
    never = clean_for(clip, request, images) if clean is True else clean or None
    if never is not None:
        if never.fingerprint == clip.fingerprint:
            raise ValueError(f"clean: {never.name} has the weights of clip; expected a model that never knew")
        if never.encoder != clip.encoder:
            raise ValueError(f"clean: {never.name} is {'' if never.encoder else 'no '}encoder; expected one as clip is")
        models["clean"] = never
    passed = {name: through(model, images) for name, model in models.items()}
    rows = [z for z, _ in passed.values()]
    rows += [_embedded(clip, one, images, rows[0]) for one in edited]
    images, rows = readable(images, *rows)
    inside = int(mask[images.classes, images.domains].sum())
    if min(inside, len(images) - inside) < FEW:
        raise ValueError(f"images: {inside} of {len(images)} are forgotten; expected at least {FEW}, and {FEW} kept")
    left_out = []
    if not clip.encoder:
        left_out.append(
            "stages of the tower, a prompt found by gradient, other languages, rounded weights: only embeddings are "
            "stored"
        )
    elif told := languages.left_out(clip, list(named)):
        left_out.append(told)
    if never is None:
        left_out.append("a model that never knew: what only it can judge is told without a judgement")
    known = {("stages", name): stages for name, (_, stages) in passed.items() if stages is not None}
    reports, relatives = [], families(images)
    for i, one in enumerate(edited, len(models)):
        of = {"unedited": (clip, rows[0]), "edited": (one, rows[i])}
        of |= {"clean": (never, rows[1])} if never else {}
        features = {name: z for name, (_, z) in of.items()}
        case = Case.of({n: m for n, (m, _) in of.items()}, images, request, features, relatives, seed, known)
        about = {
            "request": str(request),
            "paradigm": request.paradigm,
            "model": clip.name,
            "clean": never.name if never else None,
            "methods": [edit.method for edit in one.edits],
            "pictures": len(images),
            "forgotten": inside,
            "seed": seed,
        }
        reports.append(Audit(ordered(_asked(case, words or {}, train)), about, tuple(left_out)))
    return reports


def _embedded(clip: Clip, edited: Clip, images: Images, z: Tensor) -> Tensor:
    """Embeddings of an edited model: of one of `clip`, made from those of `clip`, z."""
    if edited.base is clip and clip.base is None:
        return reduce(lambda x, edit: edit.images(x), edited.edits, z)
    return embed(edited, images)


def _asked(case: Case, words: Mapping[str, Sequence[str]], train: Images | None) -> list[Finding]:
    findings = [*by_stage(case), *relearning(case), *other_words(case, words)]
    if case.models["unedited"].encoder:
        findings += found_prompt(case)
    findings += [*retrieval.retrieval(case), *retrieval.neighbours(case), *side_effects.destinations(case)]
    findings += [*side_effects.damage(case), *side_effects.mark(case), *side_effects.membership(case)]
    findings += [*robustness.survival(case), *robustness.reversal(case)]
    return findings + (robustness.fine_tuning(case, train) if train is not None else [])


def clean_for(clip: Clip, request: Forget, images: Images) -> Clip | None:
    """The model that comes with miniclip and never knew the only class or domain of `request`; None without one."""
    name = request.classes if request.classes is not None else request.domains
    if clip.base is not None or clip.name != EMBEDDED or request.also or not name or len(name) != 1:
        return None
    wanted = f"{EMBEDDED}-no-{name[0]}"
    return load(wanted, device=str(clip.device)) if wanted in RETRAINED else None
