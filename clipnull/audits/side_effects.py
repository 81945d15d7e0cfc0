"""What an edit leaves to be seen: where pictures go, what is damaged, a signature, and which class was forgotten."""

import torch
from torch import Tensor

from ..errors import import_extra
from ..evaluate import accuracy_matrix, compare, is_measurable, macro, others_of
from ..subspace import captured_energy
from .context import Context
from .findings import Count, Finding, finding
from .probes import weight_difference

SORTED, NAMED = 0.1, 0.25
"""Limits: how far a score may sort other than the retrained model's; how far above chance the class may be named."""

LOSS, WORST, CHANGED = 0.5, 5.0, 3.0
"""Limits: points that kept classes lose on average, that one of them loses, percent of unrelated answers changed."""


def destinations(context: Context) -> list[Finding]:
    """Where the forgotten pictures go: the share of the name given most often, the entropy of the names in bits."""
    classes = context.images.vocabulary.classes
    most, bits, names = {}, {}, {}
    for model in context.models:
        given = torch.bincount(context.answers(model)[context.inside], minlength=len(classes)).double()
        share = given / given.sum()
        most[model] = 100 * float(share.max())
        bits[model] = float(-(share * share.clamp(min=1e-300).log2()).sum())
        names[model] = classes[int(share.argmax())]
    return [
        finding("answers", "the name given most to the forgotten", "%", most, details={"name": names}),
        finding("answers", "entropy of the names given to the forgotten", "bits", bits),
        finding("answers", "confidence minus accuracy, kept pictures", "points", _overconfidence(context)),
    ]


def _overconfidence(context: Context) -> dict[str, float]:
    """Expected calibration error of kept pictures in ten bins of confidence (Guo et al. 2017), in points."""
    kept, errors = ~context.inside, {}
    for model in context.models:
        confidence, answer = _scores(context, model)[kept].softmax(1).max(1)
        right = (answer == context.images.classes[kept]).double()
        bins = (confidence * 10).long().clamp(max=9)
        gaps = [((confidence - right)[bins == b].sum()).abs() for b in range(10)]
        errors[model] = 100 * float(torch.stack(gaps).sum() / len(right))
    return errors


def _scores(context: Context, model: str) -> Tensor:
    """Scores of all classes at the model's own temperature, (n, C)."""
    return context.models[model].logit_scale * context.unit(model).float() @ context.texts[model].T


def damage(context: Context) -> list[Finding]:
    """What is lost of what was to be kept: classes on average and at worst, siblings, and unrelated answers."""
    answers = {model: context.answers(model) for model in context.models}
    matrices = {model: accuracy_matrix(given, context.images) for model, given in answers.items()}
    mask, by_domain = context.mask, bool(context.mask.all(0).any())
    forgotten = mask.any(1)[:, None]
    rest = ~mask if by_domain else ~mask & ~forgotten

    def right(where: Tensor) -> dict[str, float]:
        return {model: 100 * macro(matrix, where) for model, matrix in matrices.items()}

    findings, labels = [], context.images.classes
    if rest.any():
        findings.append(_loss("kept domains" if by_domain else "kept classes", right(rest), LOSS))
        rows = torch.arange(len(mask))[:, None]
        by_class = {c: right(rest & (rows == c)) for c in range(len(mask))}
        lost = {c: x["unedited"] - x["edited"] for c, x in by_class.items() if x["unedited"] == x["unedited"]}
        worst = max(lost, key=lost.__getitem__)
        where = rest[labels, context.images.domains] & (labels == worst)
        wrong = [int((answers[model] != worst)[where].sum()) for model in ("unedited", "edited")]
        details = {"class": context.images.vocabulary.classes[worst], "pictures": int(where.sum())}
        details["lost"] = wrong[1] - wrong[0]
        findings.append(_loss("the kept class that loses most", by_class[worst], WORST, details))
    siblings = ~mask & forgotten
    if siblings.any() and not by_domain:
        findings.append(_loss("the forgotten classes in kept domains", right(siblings), LOSS))
    return [*findings, *_renamed(context), *_unmentioned(context)]


def counts(context: Context) -> tuple[Count, ...]:
    """Pictures named right before and after: of the forgotten classes, then of each kept one, the worst first.

    Where whole domains go, their pictures count together, and chance is 1/C: some class is what they are named now.
    """
    labels, inside, classes = context.images.classes, context.inside, context.images.vocabulary.classes
    before, after = (context.answers(model) == labels for model in ("unedited", "edited"))

    def count(name: str, forgotten: bool, where: Tensor, chance: float = 0.0) -> Count:
        return Count(name, forgotten, int(where.sum()), int(before[where].sum()), int(after[where].sum()), chance)

    if by_domain := bool(context.mask.all(0).any()):
        gone = [count(str(context.request), True, inside, 100 / len(classes))]
    else:
        gone = [count(classes[c], True, inside & (labels == c)) for c in context.forgotten]
    kept = []
    for c, name in enumerate(classes):
        title = f"{name} elsewhere" if c in context.forgotten and not by_domain else name
        kept.append(count(title, False, ~inside & (labels == c)))
    gone.sort(key=lambda x: -x.after / max(1, x.pictures))
    kept.sort(key=lambda x: (x.after - x.before) / max(1, x.pictures))
    return tuple(x for x in (*gone, *kept) if x.pictures)


def _renamed(context: Context) -> list[Finding]:
    """Unrelated pictures that keep their name, where they are known."""
    features = context.features["unedited"], context.features["edited"]
    clip, edited = context.models["unedited"], context.models["edited"]
    renamed = compare(clip, edited, context.images, context.request, features=features).renamed
    if renamed is None:
        return []
    changed = 100 * float(renamed.double().mean())
    same = {"unedited": 100.0, "edited": 100 - changed}
    return [finding("damage", "unrelated pictures that keep their name", "%", same, (changed, CHANGED, "changed"))]


def _unmentioned(context: Context) -> list[Finding]:
    """Classes that the request never mentions, where their pictures have labels: points lost, on average and at worst.

    Among the names of all unmentioned classes. The worst is judged only if one of its pictures is no more than WORST
    points: with four pictures a class, as come with miniclip, a single answer is 25.
    """
    clip, edited = context.models["unedited"], context.models["edited"]
    base = clip.base or clip
    others = others_of(base, context.images.vocabulary)
    comparable = (edited.base or edited) is base and is_measurable(context.request)
    if not comparable or others is None or others.shows is None:
        return []
    shows, counts = others.shows, others.shows.bincount(minlength=len(others.names))
    answers = {"unedited": others.answers(clip.edited), "edited": others.answers(edited.edited)}
    hits = {m: torch.bincount(shows[given == shows], minlength=len(counts)) for m, given in answers.items()}
    lost, there = hits["unedited"] - hits["edited"], counts > 0
    worst = int((lost / counts.clamp(min=1)).argmax())
    mean = {model: 100 * float((x[there] / counts[there]).double().mean()) for model, x in hits.items()}
    at_worst = {model: 100 * float(x[worst] / counts[worst]) for model, x in hits.items()}
    n = int(counts[worst])
    details = {"class": others.names[worst], "pictures": n, "lost": int(lost[worst]), "classes": int(there.sum())}
    details |= {"classes that lose": int((lost > 0).sum()), "classes that gain": int((lost < 0).sum())}
    limit = WORST if 100 / n <= WORST else None
    return [
        _loss("unmentioned classes", mean, LOSS, details),
        _loss("the unmentioned class that loses most", at_worst, limit, details),
    ]


def _loss(asked: str, right: dict[str, float], limit: float | None, details: dict | None = None) -> Finding:
    return finding("damage", asked, "%", right, (right["unedited"] - right["edited"], limit, "points lost"), details)


def signature(context: Context) -> list[Finding]:
    """Ignorance or a signature? The AUC with which the score of a forgotten class finds its pictures, and pairs.

    AUC: .5 is ignorance, 0 and 1 are perfect knowledge. Pairs: only the forgotten and one other name may be given;
    chance is 50 %. Compared with the retrained model; where whole domains go, with ignorance, since a model that never
    saw the domain still knows the classes.
    """
    metrics = import_extra("sklearn.metrics", "course")
    areas: dict[str, list[float]] = {model: [] for model in context.models}
    pairs: dict[str, list[float]] = {model: [] for model in context.models}
    for c in context.forgotten:
        positive, negative = context.beside(c)
        if not positive.any() or not negative.any():
            continue
        shown = positive | negative
        for model in context.models:
            scores = context.unit(model).float() @ context.texts[model].T
            areas[model].append(float(metrics.roc_auc_score(positive[shown].numpy(), scores[shown, c].numpy())))
            others = torch.arange(scores.shape[1]) != c
            wins = scores[positive, c, None] > scores[positive][:, others]
            pairs[model].append(100 * float(wins.double().mean()))
    if not areas["edited"]:
        return []
    area, pair = ({m: sum(v) / len(v) for m, v in both.items()} for both in (areas, pairs))
    comparable = "retrained" in area and context.request.paradigm != "complete"
    expected = (area["retrained"], pair["retrained"]) if comparable else (0.5, 50.0)
    kind = "from retrained" if comparable else "from ignorance"
    judged = abs(area["edited"] - expected[0]), SORTED, kind
    judged_pair = abs(pair["edited"] - expected[1]), 100 * SORTED, f"points {kind}"
    either = {"sorted either way": {m: round(max(a, 1 - a), 6) for m, a in area.items()}}
    return [
        finding("mark", "the score of the forgotten class finds its pictures", "AUC", area, judged, either),
        finding("mark", "named right among two names", "%", pair, judged_pair),
    ]


def membership(context: Context) -> list[Finding]:
    """Can one tell which class was forgotten? The share of other classes that an attacker suspects less; .5 is chance.

    From outputs: suspicious is what is answered least. From the patch or two weight files: of what sets a class apart
    from the mean of all, the energy in what the edit subtracts. Only where some classes are forgotten, others not.
    """
    forgotten = context.mask.any(1)
    if context.mask.all(0).any() or forgotten.all():
        return []
    shares = {m: _placed(forgotten, -_scores(context, m).softmax(1).mean(0)) for m in context.models}
    findings = [_named("from answers to unlabelled pictures", shares)]
    edited, base, texts = context.models["edited"], context.models["unedited"], context.texts["unedited"].double()
    sources = {}
    if edited.edits:
        sources["from the patch"] = torch.linalg.qr(torch.cat([e.right for e in edited.edits], 1).double())[0]
        if not base.stored and all(edit.linear for edit in edited.edits):
            sources["from two files of weights"] = weight_difference(base, edited)
    for source, u in sources.items():
        if u.shape[1]:
            energy = captured_energy(texts - texts.mean(0), u)
            findings.append(_named(source, {"edited": _placed(forgotten, energy)}))
    return findings


def _placed(forgotten: Tensor, suspicion: Tensor) -> float:
    """The share of pairs (forgotten, other class), (C,) both, in which the first is more suspicious; a tie is half."""
    gap = suspicion[forgotten][:, None] - suspicion[~forgotten]
    return float(((gap > 0).double() + 0.5 * (gap == 0).double()).mean())


def _named(source: str, shares: dict[str, float]) -> Finding:
    judged = shares["edited"] - shares.get("retrained", 0.5), NAMED
    kind = "above retrained" if "retrained" in shares else "above chance"
    return finding("membership", f"the forgotten class is named {source}", "share", shares, (*judged, kind))
