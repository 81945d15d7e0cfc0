"""What an edit leaves to be seen: where pictures go, what is damaged, a signature, and which class was forgotten."""

from itertools import compress

import numpy as np
import torch
from torch import Tensor

from ..errors import import_extra
from ..evaluate import accuracy_matrix, is_measurable, macro, others_of
from ..subspace import captured_energy
from .context import Context
from .findings import Count, Finding, finding
from .probes import weight_difference

SORTED, NAMED = 0.1, 0.25
"""Limits: how far a score may sort other than the retrained model's; how far above chance the class may be named."""

LOSS, WORST, CHANGED = 0.5, 5.0, 3.0
"""Limits: points that kept classes lose on average, that one of them loses, percent of unrelated answers changed."""


def destinations(context: Context) -> list[Finding]:
    """Where the forgotten pictures go: the share of the name given most often, the entropy of the names in bits.

    And how far the confidence of kept pictures is from their accuracy: expected calibration error in ten bins
    (Guo et al. 2017).
    """
    classes, kept = context.images.vocabulary.classes, ~context.inside
    most, bits, names, errors = {}, {}, {}, {}
    for model, clip in context.models.items():
        share = context.answers(model)[context.inside].bincount(minlength=len(classes)).double()
        share /= share.sum()
        most[model], names[model] = 100 * float(share.max()), classes[int(share.argmax())]
        bits[model] = float(-(share * share.clamp(min=1e-300).log2()).sum())
        confidence, answer = (clip.logit_scale * context.scores(model))[kept].softmax(1).max(1)
        gap = confidence - (answer == context.images.classes[kept]).double()
        bins = torch.zeros(10, dtype=gap.dtype).index_add_(0, (confidence * 10).long().clamp(max=9), gap)
        errors[model] = 100 * float(bins.abs().sum() / len(gap))
    return [
        finding("answers", "the name given most to the forgotten", "%", most, details={"name": names}),
        finding("answers", "entropy of the names given to the forgotten", "bits", bits),
        finding("answers", "confidence minus accuracy, kept pictures", "points", errors),
    ]


def damage(context: Context) -> list[Finding]:
    """What is lost of what was to be kept: classes on average and at worst, siblings, and unrelated answers."""
    matrices = {m: accuracy_matrix(context.answers(m), context.images) for m in context.models}
    mask, by_domain = context.mask, bool(context.mask.all(0).any())
    forgotten = mask.any(1)[:, None]
    rest = ~mask if by_domain else ~mask & ~forgotten

    def right(where: Tensor) -> dict[str, float]:
        return {model: 100 * macro(matrix, where) for model, matrix in matrices.items()}

    findings = []
    if rest.any():
        findings.append(_loss("kept domains" if by_domain else "kept classes", right(rest), LOSS))
        rows = torch.arange(len(mask))[:, None]
        by_class = {c: right(rest & (rows == c)) for c in range(len(mask))}
        lost = {c: x["unedited"] - x["edited"] for c, x in by_class.items() if x["unedited"] == x["unedited"]}
        worst = max(lost, key=lost.__getitem__)
        details = {"class": context.images.vocabulary.classes[worst]}
        findings.append(_loss("the kept class that loses most", by_class[worst], WORST, details))
    siblings = ~mask & forgotten
    if siblings.any() and not by_domain:
        findings.append(_loss("the forgotten classes in kept domains", right(siblings), LOSS))
    return [*findings, *_unrelated(context)]


def _unrelated(context: Context) -> list[Finding]:
    """Pictures of what the request never mentions, among names of such things: those that keep their name.

    Where they have labels, also points lost by class, on average and at worst. The worst is judged only if one of its
    pictures is no more than WORST points: with four pictures a class, as come with miniclip, a single answer is 25.
    """
    clip, edited = context.models["unedited"], context.models["edited"]
    base = clip.base or clip
    comparable = (edited.base or edited) is base and is_measurable(context.request)
    others = others_of(base, context.images.vocabulary) if comparable else None
    if others is None:
        return []
    answers = {"unedited": others.answers(clip.edited), "edited": others.answers(edited.edited)}
    changed = 100 * float((answers["edited"] != answers["unedited"]).double().mean())
    same, judged = {"unedited": 100.0, "edited": 100 - changed}, (changed, CHANGED, "changed")
    findings = [finding("damage", "unrelated pictures that keep their name", "%", same, judged)]
    if others.shows is not None:
        counts = others.shows.bincount(minlength=len(others.names))
        hits = {m: others.shows[x == others.shows].bincount(minlength=len(counts)) for m, x in answers.items()}
        there = counts > 0
        shares = {m: 100 * (x[there] / counts[there]).double() for m, x in hits.items()}
        worst = int((shares["unedited"] - shares["edited"]).argmax())
        mean, at_worst = ({m: float(of(x)) for m, x in shares.items()} for of in (torch.mean, lambda x: x[worst]))
        limit, name = WORST if 100 / counts[there][worst] <= WORST else None, [*compress(others.names, there)][worst]
        findings.append(_loss("unmentioned classes", mean, LOSS, {"classes": int(there.sum())}))
        findings.append(_loss("the unmentioned class that loses most", at_worst, limit, {"class": name}))
    return findings


def _loss(asked: str, right: dict[str, float], limit: float | None, details: dict | None = None) -> Finding:
    return finding("damage", asked, "%", right, (right["unedited"] - right["edited"], limit, "points lost"), details)


def counts(context: Context) -> tuple[Count, ...]:
    """Pictures named right before and after: of the forgotten classes, then of each kept one, the worst first.

    Where whole domains go, their pictures count together, and chance is 1/C: some class is what they are named now.
    """
    labels, inside, classes = context.images.classes, context.inside, context.images.vocabulary.classes
    by_domain = bool(context.mask.all(0).any())
    rows = [(str(context.request), True, inside)] if by_domain else []
    for c, name in enumerate(classes):
        sibling = not by_domain and bool(context.mask[c].any())
        if sibling:
            rows.append((name, True, inside & (labels == c)))
        rows.append((f"{name} elsewhere" if sibling else name, False, ~inside & (labels == c)))
    before, after = (context.answers(model) == labels for model in ("unedited", "edited"))
    chance, results = 100 / len(classes) if by_domain else 0.0, []
    for name, gone, where in rows:
        if where.any():
            right = int(before[where].sum()), int(after[where].sum())
            results.append(Count(name, gone, int(where.sum()), *right, chance if gone else 0.0))

    def order(x: Count) -> tuple[bool, float]:
        return not x.forgotten, (-x.after if x.forgotten else x.after - x.before) / x.pictures

    return tuple(sorted(results, key=order))


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
            scores = context.scores(model)
            areas[model].append(float(metrics.roc_auc_score(positive[shown].numpy(), scores[shown, c].numpy())))
            others = torch.arange(scores.shape[1]) != c
            wins = scores[positive, c, None] > scores[positive][:, others]
            pairs[model].append(100 * float(wins.double().mean()))
    if not areas["edited"]:
        return []
    area, pair = ({m: float(np.mean(v)) for m, v in both.items()} for both in (areas, pairs))
    comparable = "retrained" in area and context.request.paradigm != "complete"
    expected = (area["retrained"], pair["retrained"]) if comparable else (0.5, 50.0)
    kind = "from retrained" if comparable else "from ignorance"
    judged = abs(area["edited"] - expected[0]), SORTED, kind
    judged_pair = abs(pair["edited"] - expected[1]), 100 * SORTED, f"points {kind}"
    return [
        finding("mark", "the score of the forgotten class finds its pictures", "AUC", area, judged),
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

    def found(source: str, suspicions: dict[str, Tensor]) -> Finding:
        shares = {model: _placed(forgotten, suspicion) for model, suspicion in suspicions.items()}
        kind = "above retrained" if "retrained" in shares else "above chance"
        judged = shares["edited"] - shares.get("retrained", 0.5), NAMED, kind
        return finding("membership", f"the forgotten class is named from {source}", "share", shares, judged)

    answered = {m: (clip.logit_scale * context.scores(m)).softmax(1).mean(0) for m, clip in context.models.items()}
    findings = [found("answers to unlabelled pictures", {m: -x for m, x in answered.items()})]
    edited, base, texts = context.models["edited"], context.models["unedited"], context.texts["unedited"].double()
    sources = {}
    if edited.edits:
        sources["the patch"] = torch.linalg.qr(torch.cat([e.right for e in edited.edits], 1).double())[0]
        if not base.stored and all(edit.linear for edit in edited.edits):
            sources["two files of weights"] = weight_difference(base, edited)
    for source, u in sources.items():
        if u.shape[1]:
            findings.append(found(source, {"edited": captured_energy(texts - texts.mean(0), u)}))
    return findings


def _placed(forgotten: Tensor, suspicion: Tensor) -> float:
    """The share of pairs (forgotten, other class), (C,) both, in which the first is more suspicious; a tie is half."""
    gap = suspicion[forgotten][:, None] - suspicion[~forgotten]
    return float(((gap > 0).double() + 0.5 * (gap == 0).double()).mean())
