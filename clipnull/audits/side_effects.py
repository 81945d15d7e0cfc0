"""What an edit leaves to be seen: where pictures go, what is damaged, a mark, and who was forgotten."""

from functools import reduce

import torch
from torch import Tensor

from ..errors import import_extra
from ..evaluate import accuracy_matrix, compare, is_measurable, macro, others_of
from ..subspace import captured_energy
from .context import Case
from .findings import MODELS, Finding, finding
from .probes import weight_difference

MARK, NAMED = 0.1, 0.25
"""Limits: how far a score may sort other than the clean model's; how far above chance the class may be named."""

LOSS, WORST, CHANGED = 0.5, 5.0, 3.0
"""Limits: points that kept classes lose on average, that one of them loses, percent of unrelated answers changed."""


def destinations(case: Case) -> list[Finding]:
    """Where the forgotten pictures go: the share of the name given most often, the entropy of the names in bits."""
    c = len(case.images.vocabulary.classes)
    most, bits, names = {}, {}, {}
    for model in case.models:
        given = torch.bincount(case.answers(model)[case.inside], minlength=c).double()
        share = given / given.sum()
        most[model] = 100 * float(share.max())
        bits[model] = float(-(share * share.clamp(min=1e-300).log2()).sum())
        names[model] = case.images.vocabulary.classes[int(share.argmax())]
    return [
        finding("answers", "the name given most to the forgotten", "%", most, details={"name": names}),
        finding("answers", "entropy of the names given to the forgotten", "bits", bits),
        finding("answers", "confidence minus accuracy, kept pictures", "points", _overconfidence(case)),
    ]


def _overconfidence(case: Case) -> dict[str, float]:
    """Expected calibration error of kept pictures in ten bins of confidence (Guo et al. 2017), in points."""
    found = {}
    for model, clip in case.models.items():
        scores = clip.logit_scale * case.unit(model)[~case.inside].float() @ case.texts[model].T
        confidence, answer = scores.softmax(1).max(1)
        right = (answer == case.images.classes[~case.inside]).double()
        bins = (confidence * 10).long().clamp(max=9)
        gaps = [((confidence - right)[bins == b].sum()).abs() for b in range(10)]
        found[model] = 100 * float(torch.stack(gaps).sum() / len(right))
    return found


def damage(case: Case) -> list[Finding]:
    """What is lost of what was to be kept: classes on average and at worst, siblings, and unrelated answers."""
    before, after = (accuracy_matrix(case.answers(model), case.images) for model in ("unedited", "edited"))
    clean = accuracy_matrix(case.answers("clean"), case.images) if "clean" in case.models else None
    mask, classes = case.mask, case.images.vocabulary.classes
    named, found = mask.any(1), []

    def right(where: Tensor) -> dict[str, float]:
        known = {"unedited": before, "edited": after} | ({} if clean is None else {"clean": clean})
        return {model: 100 * macro(matrix, where) for model, matrix in known.items()}

    whole = mask.all(0)
    rest = ~mask & ~named[:, None] if not whole.any() else ~mask
    if rest.any():
        all_rest = right(rest)
        found.append(_loss("kept classes" if not whole.any() else "kept domains", all_rest, LOSS))
        rows = [c for c in range(len(classes)) if rest[c].any() and not before[c][rest[c]].isnan().all()]
        each = {c: right(rest & (torch.arange(len(classes)) == c)[:, None]) for c in rows}
        worst = max(rows, key=lambda c: each[c]["unedited"] - each[c]["edited"])
        pictures = rest[case.images.classes, case.images.domains] & (case.images.classes == worst)
        wrong = [int((case.answers(m) != worst)[pictures].sum()) for m in ("unedited", "edited")]
        told = {"class": classes[worst], "pictures": int(pictures.sum()), "lost": wrong[1] - wrong[0]}
        found.append(_loss("the kept class that loses most", each[worst], WORST, told))
    siblings = ~mask & named[:, None]
    if siblings.any() and not whole.any():
        found.append(_loss("the forgotten classes in kept domains", right(siblings), LOSS))
    result = compare(
        case.models["unedited"],
        case.models["edited"],
        case.images,
        case.request,
        features=(case.features["unedited"], case.features["edited"]),
    )
    if result.renamed is not None:
        same = {"unedited": 100.0, "edited": 100 * (1 - float(result.renamed.double().mean()))}
        changed = 100 - same["edited"]
        asked = "unrelated pictures that keep their name"
        found.append(finding("damage", asked, "%", same, excess=changed, limit=CHANGED, judged="changed"))
    return [*found, *_unmentioned(case)]


def _unmentioned(case: Case) -> list[Finding]:
    """Classes that the request never mentions, where their pictures have labels: points lost, on average and at worst.

    Among the names of all unmentioned classes. The worst is judged only if one of its pictures is no more than WORST
    points: with four pictures a class, as come with miniclip, a single answer is 25.
    """
    clip, edited = case.models["unedited"], case.models["edited"]
    base = clip.base or clip
    others = others_of(base, case.images.vocabulary)
    known = (edited.base or edited) is base and is_measurable(case.request)
    if not known or others is None or others.shows is None:
        return []
    shows = others.shows
    answers = [
        others.answers(lambda z, m=m: reduce(lambda x, edit: edit.images(x), m.edits, z)) for m in (clip, edited)
    ]
    counts = shows.bincount(minlength=len(others.names))
    right = [torch.bincount(shows[given == shows], minlength=len(counts)) for given in answers]
    there = counts > 0
    mean = [100 * float((hits[there] / counts[there]).double().mean()) for hits in right]
    lost = (right[0] - right[1]) / counts.clamp(min=1)
    worst = int(lost.argmax())
    told = {
        "class": others.names[worst],
        "pictures": int(counts[worst]),
        "lost": int(right[0][worst] - right[1][worst]),
        "classes": int(there.sum()),
        "classes that lose": int((lost > 0).sum()),
        "classes that gain": int((lost < 0).sum()),
    }
    own = [100 * float(hits[worst] / counts[worst]) for hits in right]
    judged = (WORST, "points lost") if 100 / told["pictures"] <= WORST else (None, "")
    return [
        _loss("unmentioned classes", dict(zip(MODELS, mean, strict=False)), LOSS, told),
        finding(
            "damage",
            "the unmentioned class that loses most",
            "%",
            dict(zip(MODELS, own, strict=False)),
            own[0] - own[1],
            *judged,
            told,
        ),
    ]


def _loss(asked: str, right: dict[str, float], limit: float, details: dict | None = None) -> Finding:
    excess = right["unedited"] - right["edited"]
    return finding("damage", asked, "%", right, excess, limit, "points lost", details)


def mark(case: Case) -> list[Finding]:
    """Ignorance or a mark? The AUC with which the score of a forgotten class finds its pictures, and pairs of names.

    AUC: among all pictures of its domains; .5 is ignorance, 0 and 1 are perfect knowledge. Pairs: only the forgotten
    and one other name may be given; the share of forgotten pictures named right, mean over the others; chance is 50 %.
    Held against the clean model; where whole domains go against ignorance, since a model that never saw the domain
    still knows the classes.
    """
    metrics = import_extra("sklearn.metrics", "course")
    areas: dict[str, list[float]] = {model: [] for model in case.models}
    pairs: dict[str, list[float]] = {model: [] for model in case.models}
    for c in case.forgotten:
        own = case.inside & (case.images.classes == c)
        rest = torch.isin(case.images.domains, case.images.domains[own]) & (case.images.classes != c)
        if not own.any() or not rest.any():
            continue
        for model in case.models:
            scores = case.unit(model).float() @ case.texts[model].T
            asked = own | rest
            areas[model].append(float(metrics.roc_auc_score(own[asked].numpy(), scores[asked, c].numpy())))
            others = [i for i in range(scores.shape[1]) if i != c]
            pairs[model].append(100 * float((scores[own, c, None] > scores[own][:, others]).double().mean()))
    if not areas["edited"]:
        return []
    area, pair = ({m: sum(v) / len(v) for m, v in both.items()} for both in (areas, pairs))
    held = "clean" in area and case.request.paradigm != "complete"
    wanted, kind = ((area["clean"], pair["clean"]), "from clean") if held else ((0.5, 50.0), "from ignorance")
    return [
        finding(
            "mark",
            "the score of the forgotten class finds its pictures",
            "AUC",
            area,
            excess=abs(area["edited"] - wanted[0]),
            limit=MARK,
            judged=kind,
            details={"sorted either way": {m: round(max(a, 1 - a), 6) for m, a in area.items()}},
        ),
        finding(
            "mark",
            "named right among two names",
            "%",
            pair,
            excess=abs(pair["edited"] - wanted[1]),
            limit=100 * MARK,
            judged="points " + kind,
        ),
    ]


def membership(case: Case) -> list[Finding]:
    """Can one tell which class was forgotten? The share of other classes that an attacker suspects less; .5 is chance.

    From outputs: suspicious is what is answered least, in probability, over all pictures without labels. From the patch
    or two weight files: of what sets a class apart from the mean of all, the energy in what the edit subtracts.
    Only where some classes are forgotten and others are not.
    """
    if case.mask.all(0).any() or len(case.forgotten) == len(case.images.vocabulary.classes):
        return []
    found = []
    suspected = {}
    for model, clip in case.models.items():
        scores = clip.logit_scale * case.unit(model).float() @ case.texts[model].T
        suspected[model] = _placed(-scores.softmax(1).mean(0), case.forgotten)
    found.append(_named("from answers to unlabelled pictures", suspected))
    edited, base = case.models["edited"], case.models["unedited"]
    apart = case.texts["unedited"].double() - case.texts["unedited"].double().mean(0)
    if edited.edits:
        u = torch.linalg.qr(torch.cat([edit.right for edit in edited.edits], 1).double())[0]
        found.append(_named("from the patch", {"edited": _placed(captured_energy(apart, u), case.forgotten)}))
    if base.encoder and all(edit.linear for edit in edited.edits) and edited.edits:
        u = weight_difference(base, edited)
        if u.shape[1]:
            placed = _placed(captured_energy(apart, u), case.forgotten)
            found.append(_named("from two files of weights", {"edited": placed}))
    return found


def _placed(suspicion: Tensor, forgotten: list[int]) -> float:
    """The share of pairs (forgotten, other) in which the forgotten one is more suspicious; a tie is half."""
    others = [i for i in range(len(suspicion)) if i not in forgotten]
    gap = suspicion[forgotten][:, None] - suspicion[others]
    return float(((gap > 0).double() + 0.5 * (gap == 0).double()).mean())


def _named(asked: str, found: dict[str, float]) -> Finding:
    reference = found.get("clean", 0.5)
    return finding(
        "membership",
        f"the forgotten class is named {asked}",
        "share",
        found,
        excess=found["edited"] - reference,
        limit=NAMED,
        judged="above clean" if "clean" in found else "above chance",
    )
