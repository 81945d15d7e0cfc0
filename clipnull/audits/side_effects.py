"""Side effects of an edit: new answers for forgotten pictures, damage, a signature, and membership inference."""

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
"""Limits: the distance of an AUC from the retrained model's, and the success of an attacker above chance."""

LOSS, WORST, CHANGED = 0.5, 5.0, 3.0
"""Limits: the mean loss of kept classes and the loss of one, in points; the percent of unrelated answers changed."""


def destinations(context: Context) -> list[Finding]:
    """Report the share of the most frequent answer to forgotten pictures, and the entropy of the answers in bits.

    Also report the expected calibration error on kept pictures, in ten bins (Guo et al. 2017).
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
    """Report losses of kept classes on average and at worst, of siblings, and of unrelated pictures."""
    matrices = {m: accuracy_matrix(context.answers(m), context.images) for m in context.models}
    mask, by_domain = context.mask, bool(context.mask.all(0).any())
    forgotten = mask.any(1)[:, None]
    rest = ~mask if by_domain else ~mask & ~forgotten

    def accuracy(where: Tensor) -> dict[str, float]:
        return {model: 100 * macro(matrix, where) for model, matrix in matrices.items()}

    findings = []
    if rest.any():
        findings.append(_loss("kept domains" if by_domain else "kept classes", accuracy(rest), LOSS))
        rows = torch.arange(len(mask))[:, None]
        by_class = {c: accuracy(rest & (rows == c)) for c in range(len(mask))}
        lost = {c: x["unedited"] - x["edited"] for c, x in by_class.items() if x["unedited"] == x["unedited"]}
        worst = max(lost, key=lost.__getitem__)
        details = {"class": context.images.vocabulary.classes[worst]}
        findings.append(_loss("the kept class that loses most", by_class[worst], WORST, details))
    siblings = ~mask & forgotten
    if siblings.any() and not by_domain:
        findings.append(_loss("the forgotten classes in kept domains", accuracy(siblings), LOSS))
    return [*findings, *_unrelated(context)]


def _unrelated(context: Context) -> list[Finding]:
    """Report how many pictures unrelated to the request keep their answer, among the names of unrelated classes.

    If they have labels, also report the loss by class, on average and at worst. The worst class is judged only if one
    of its pictures counts at most WORST points. With the four pictures a class of miniclip's set, one counts 25.
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
        totals = others.shows.bincount(minlength=len(others.names))
        hits = {m: others.shows[x == others.shows].bincount(minlength=len(totals)) for m, x in answers.items()}
        present = totals > 0
        names, totals = [*compress(others.names, present)], totals[present]
        shares = {m: 100 * (x[present] / totals).double() for m, x in hits.items()}
        worst = int((shares["unedited"] - shares["edited"]).argmax())
        mean = {m: float(x.mean()) for m, x in shares.items()}
        at_worst = {m: float(x[worst]) for m, x in shares.items()}
        limit = WORST if 100 / totals[worst] <= WORST else None
        findings.append(_loss("unmentioned classes", mean, LOSS, {"classes": len(names)}))
        findings.append(_loss("the unmentioned class that loses most", at_worst, limit, {"class": names[worst]}))
    return findings


def _loss(asked: str, shares: dict[str, float], limit: float | None, details: dict | None = None) -> Finding:
    return finding("damage", asked, "%", shares, (shares["unedited"] - shares["edited"], limit, "points lost"), details)


def counts(context: Context) -> tuple[Count, ...]:
    """Count correct answers before and after the edit by class: the forgotten first, then the kept, worst first.

    Forgotten domains are counted together, with chance 1/C, because their pictures must still get one of the classes.
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
            correct = int(before[where].sum()), int(after[where].sum())
            results.append(Count(name, gone, int(where.sum()), *correct, chance if gone else 0.0))
    results.sort(key=lambda x: (not x.forgotten, (-x.after if x.forgotten else x.after - x.before) / x.pictures))
    return tuple(results)


def signature(context: Context) -> list[Finding]:
    """Report how well the score of a forgotten class separates its pictures from others: AUC and pairwise accuracy.

    An AUC of .5 means ignorance; 0 and 1 mean perfect knowledge. The pairwise test offers the forgotten class and one
    other name, so chance is 50 %. The reference is the retrained model. For forgotten domains it is ignorance, because
    a model retrained without a domain still knows the classes.
    """
    metrics = import_extra("sklearn.metrics", "course")
    areas: dict[str, list[float]] = {model: [] for model in context.models}
    pairs: dict[str, list[float]] = {model: [] for model in context.models}
    for c in context.forgotten:
        positive, negative = context.positives_and_negatives(c)
        if not positive.any() or not negative.any():
            continue
        where = positive | negative
        for model in context.models:
            scores = context.scores(model)
            areas[model].append(float(metrics.roc_auc_score(positive[where].numpy(), scores[where, c].numpy())))
            others = torch.arange(scores.shape[1]) != c
            wins = scores[positive, c, None] > scores[positive][:, others]
            pairs[model].append(100 * float(wins.double().mean()))
    if not areas["edited"]:
        return []
    area, pair = ({m: float(np.mean(v)) for m, v in values.items()} for values in (areas, pairs))
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
    """Report how well an attacker finds the forgotten classes: the AUC of a suspicion score, chance .5.

    From answers, a class is suspicious if the model rarely gives it. From the patch or two weight files, it is
    suspicious if its centred text embedding has much energy in the subspace that the edit subtracts. Requests for
    domains, or for all classes, are skipped.
    """
    forgotten = context.mask.any(1)
    if context.mask.all(0).any() or forgotten.all():
        return []

    def result(source: str, suspicions: dict[str, Tensor]) -> Finding:
        areas = {model: _auc(forgotten, suspicion) for model, suspicion in suspicions.items()}
        kind = "above retrained" if "retrained" in areas else "above chance"
        judged = areas["edited"] - areas.get("retrained", 0.5), NAMED, kind
        return finding("membership", f"the forgotten class is named from {source}", "share", areas, judged)

    rates = {m: (clip.logit_scale * context.scores(m)).softmax(1).mean(0) for m, clip in context.models.items()}
    findings = [result("answers to unlabelled pictures", {m: -x for m, x in rates.items()})]
    edited, base, texts = context.models["edited"], context.models["unedited"], context.texts["unedited"].double()
    sources = {}
    if edited.edits:
        sources["the patch"] = torch.linalg.qr(torch.cat([e.right for e in edited.edits], 1).double())[0]
        if not base.stored and all(edit.linear for edit in edited.edits):
            sources["two files of weights"] = weight_difference(base, edited)
    for source, u in sources.items():
        if u.shape[1]:
            findings.append(result(source, {"edited": captured_energy(texts - texts.mean(0), u)}))
    return findings


def _auc(forgotten: Tensor, suspicion: Tensor) -> float:
    """Return the probability that a forgotten class is more suspicious than a kept one (ties count half); both (C,)."""
    gap = suspicion[forgotten][:, None] - suspicion[~forgotten]
    return float(((gap > 0).double() + 0.5 * (gap == 0).double()).mean())
