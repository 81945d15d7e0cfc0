"""Do other words recover the class? Templates, misspellings, near words, and a prompt found by gradient."""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..models import Clip
from ..prompts import near, prompt_sets, text_classifiers
from ..vocabulary import TEMPLATES, format_prompt
from .context import Context
from .findings import Finding, above_retrained, finding

FREE = TEMPLATES["free"][0]
OTHER_TEMPLATES = ("{a}", "I can see {a} here", "what a nice {n}", "look, {a}!", "{n} clip art, no background")
OTHER_FORMS = ("a picture of {p}", "three {p}", "several {p} here", "look at the {p}", "photos of {p}")
"""Held-out templates, singular and plural: no prompt set that builds or evaluates an edit contains them."""

RECOVERED = 0.1
"""Limit: the share of the lost accuracy that other words may recover."""

MADE_UP = ("wug", "blick", "florp")
"""Nonsense names, after Berko 1958, "The Child's Learning of English Morphology". They win by exclusion, when no other
name fits; a retrained model answers the same way."""

TOKENS, STEPS, RATE = 4, 60, 0.02
"""For the prompt found by gradient: the number of free tokens, the steps of Adam, and the learning rate."""


def paraphrases(
    clip: Clip, classes: Sequence[str], template: str = "{a}", synonyms: Mapping[str, str] | None = None
) -> Tensor:
    """Embed the classes in other words as a text classifier: unit rows, (C, d).

    template: as in `vocabulary.format_prompt`. synonyms: replacements for class names, such as {"dog": "hound"}.
    """
    return clip.embed_texts([format_prompt(template, (synonyms or {}).get(c, c)) for c in classes])


def misspelt(name: str) -> list[str]:
    """Misspell `name` in the middle: swap two letters, drop one, double one.

    >>> misspelt("elephant")
    ['elehpant', 'elepant', 'elepphant']
    """
    i = len(name) // 2
    swapped = name[: i - 1] + name[i - 1 : i + 1][::-1] + name[i + 1 :]
    spellings = [swapped, name[:i] + name[i + 1 :], name[:i] + name[i - 1] + name[i:]]
    return [word for word in dict.fromkeys(spellings) if word.strip() and word != name]


def other_words(context: Context) -> list[Finding]:
    """Report, for each kind of wording, the one with the highest accuracy on forgotten pictures.

    Judged: the share of the lost accuracy that it recovers, beyond the same words in the retrained model. Without a
    retrained model, the reference is a made-up name, because a picture that fits no other name is given any new one.
    Wordings that a file of embeddings lacks are skipped.
    """
    usual, made_up = context.usual, _made_up(context)
    findings, lost = [finding("words", "the usual prompt", "%", usual)], usual["unedited"] - usual["edited"]
    if made_up:
        findings.append(finding("words", "a made-up name", "%", made_up, details={"names": list(MADE_UP)}))
    for kind, wordings in _wordings(context).items():
        accuracies = {}
        for wording, classifier in wordings.items():
            answers = {m: context.answers(m, classifier(clip)) for m, clip in context.models.items()}
            accuracies[wording] = {m: context.accuracy(x) for m, x in answers.items()}
        if not accuracies:
            continue
        best, shares = max(accuracies.items(), key=lambda item: item[1]["edited"])
        chance = max(usual["edited"], shares.get("retrained", made_up.get("edited", 0.0)))
        judged = (shares["edited"] - chance) / lost if lost > 0 else None, RECOVERED, "of what was lost"
        findings.append(finding("words", kind, "%", shares, judged, {"best": best, "tried": len(accuracies)}))
    return findings


def _made_up(context: Context) -> dict[str, float]:
    """Return the largest share of the first forgotten class, in percent, that gets one of the MADE_UP names."""
    classes, first = context.images.vocabulary.classes, context.forgotten[0]
    names = [w for w in MADE_UP if context.models["unedited"].knows(format_prompt(FREE, w))]
    if not names or len(context.forgotten) == len(classes):
        return {}
    where, shares = context.inside & (context.images.classes == first), {}
    for model, clip in context.models.items():
        texts = [paraphrases(clip, classes, FREE, {classes[first]: name}) for name in names]
        shares[model] = max(context.accuracy(context.answers(model, t), where) for t in texts)
    return shares


def _wordings(context: Context) -> dict[str, dict[str, Callable[[Clip], Tensor]]]:
    """Return functions that build the text classifier of a model, by kind and wording."""
    v, base, kinds = context.images.vocabulary, context.models["unedited"], {}
    prompts = (p for p in prompt_sets(base) if p != "free")
    kinds["prompts that name the domain"] = {p: partial(text_classifiers, vocabulary=v, prompts=p) for p in prompts}
    for kind, wordings in (("other templates", OTHER_TEMPLATES), ("plurals", OTHER_FORMS)):
        usable = [t for t in wordings if all(base.knows(format_prompt(t, c)) for c in v.classes)]
        kinds[kind] = {t: partial(paraphrases, classes=v.classes, template=t) for t in usable}
    templates = [*kinds["other templates"].values(), *kinds["plurals"].values()]

    def mean(clip: Clip) -> Tensor:
        return F.normalize(torch.stack([classifier(clip) for classifier in templates]).mean(0), dim=-1)

    kinds["the mean of all templates"] = {f"{len(templates)} templates": mean} if len(templates) > 1 else {}
    names = [v.classes[c] for c in context.forgotten]
    nearest = near(base, context.request, v, most=3) if len(names) < len(v.classes) else {}
    for kind, by_class in (
        ("misspelt", {name: misspelt(name) for name in names}),
        ("near words", {name: [word for word, _ in words] for name, words in nearest.items()}),
        ("other names, given", context.words),
    ):
        kinds[kind] = {
            f"{name}: {word}": partial(paraphrases, classes=v.classes, template=FREE, synonyms={name: word})
            for name, words in by_class.items()
            for word in words
            if word not in v.classes and base.knows(format_prompt(FREE, word))
        }
    return kinds


def gradient_prompt(context: Context) -> list[Finding]:
    """Fit a prompt to half of the families and report its accuracy on forgotten pictures of the other half.

    For the first forgotten class, TOKENS free token embeddings complete "a picture of a ...". The prompt passes through
    the text tower and competes with the texts of all other classes.
    """
    names, generator = np.unique(context.families), torch.Generator().manual_seed(context.seed)
    first_half = names[torch.randperm(len(names), generator=generator)[: len(names) // 2].numpy()]
    half, c = torch.from_numpy(np.isin(context.families, first_half)), context.forgotten[0]
    positive = context.inside & (context.images.classes == c)
    if context.models["unedited"].stored or not (positive & half).any() or not (positive & ~half).any():
        return []
    train = half & (context.inside | (context.images.classes != c))

    def share(model: str) -> float:
        z, texts = context.unit(model).float(), context.texts[model].clone()
        others = torch.cat([texts[:c], texts[c + 1 :]])
        texts[c] = fit_prompt(context.models[model], z[train], context.inside[train], others, context.seed)
        return context.accuracy((z @ texts.T).argmax(1), positive & ~half)

    shares = context.each("gradient prompt", share)
    details = {"tokens": TOKENS, "steps": STEPS, "labelled pictures": int((positive & half).sum())}
    judged = above_retrained(shares, 100 * RECOVERED)
    return [finding("words", "a prompt found by gradient", "%", shares, judged, details)]


@torch.enable_grad()
def fit_prompt(clip: Clip, z: Tensor, positive: Tensor, others: Tensor, seed: int) -> Tensor:
    """Fit free tokens of a prompt to separate the `positive` (n,) bool of z (n, d); return its text embedding (d,).

    others: (C - 1, d), the competing classes. Rows have unit length. The loss is cross-entropy at clip.logit_scale.
    """
    table, device = _token_table(clip.model), clip.device
    tokens = clip.tokenizer(["a picture of a " + " ".join(["x"] * TOKENS)]).to(device)
    positions = (tokens[0] == clip.tokenizer(["x"])[0, 1].to(device)).nonzero()[:, 0]
    start = table.weight[tokens[0, positions]].detach().float()
    free = start + 0.01 * torch.randn(start.shape, generator=torch.Generator().manual_seed(seed)).to(device)
    free.requires_grad_(True)

    def insert(_: nn.Module, inputs: tuple, output: Tensor) -> Tensor:
        return output.index_copy(1, positions, free.to(output.dtype)[None].expand(len(output), -1, -1))

    z, target = z.to(device), positive.float().to(device)
    competition = (clip.logit_scale * z @ others.T.to(device)).logsumexp(1)
    weight = torch.where(target > 0, 0.5 / target.sum(), 0.5 / (1 - target).sum())
    optimizer = torch.optim.Adam([free], lr=RATE)
    handle = table.register_forward_hook(insert)
    try:
        for _ in range(STEPS):
            score = clip.logit_scale * z @ clip.model.encode_text(tokens, normalize=True)[0].float() - competition
            loss = F.binary_cross_entropy_with_logits(score, target, weight, reduction="sum")
            (free.grad,) = torch.autograd.grad(loss, [free])
            optimizer.step()
        return clip.model.encode_text(tokens, normalize=True)[0].detach().float().cpu()
    finally:
        handle.remove()


def _token_table(model: Any) -> nn.Embedding:
    """Return the token embeddings: the largest embedding table outside the image tower."""
    tables = [m for name, m in model.named_modules() if isinstance(m, nn.Embedding) and not name.startswith("visual.")]
    return max(tables, key=lambda table: table.num_embeddings)
