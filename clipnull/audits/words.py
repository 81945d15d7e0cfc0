"""Does another word bring it back? Other templates, misspellings, near words, and a prompt found by gradient."""

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
"""Templates that neither build nor evaluate anything else, and those of plurals."""

RECOVERED = 0.1
"""Limit: the share of what was lost that other words bring back."""

MADE_UP = ("wug", "blick", "florp")
"""Names of nothing (Berko 1958, "The Child's Learning of English Morphology", and like them): what a name gets by
exclusion, because no other fits. A retrained model answers so, too."""

TOKENS, STEPS, RATE = 4, 60, 0.02
"""Of the prompt that is found by gradient: how many free tokens, steps of Adam, and their size."""


def paraphrases(
    clip: Clip, classes: Sequence[str], template: str = "{a}", synonyms: Mapping[str, str] | None = None
) -> Tensor:
    """A text classifier in other words: unit rows, (C, d).

    template: as in `vocabulary.format_prompt`. synonyms: what to call a class in place of its name, {"dog": "hound"}.
    """
    return clip.embed_texts([format_prompt(template, (synonyms or {}).get(c, c)) for c in classes])


def misspelt(name: str) -> list[str]:
    """The name with two letters exchanged, with one left out, and with one doubled, in its middle.

    >>> misspelt("elephant")
    ['elehpant', 'elepant', 'elepphant']
    """
    i = len(name) // 2
    swapped = name[: i - 1] + name[i - 1 : i + 1][::-1] + name[i + 1 :]
    spellings = [swapped, name[:i] + name[i + 1 :], name[:i] + name[i - 1] + name[i:]]
    return [word for word in dict.fromkeys(spellings) if word.strip() and word != name]


def other_words(context: Context) -> list[Finding]:
    """For each kind of wording the one that finds most: percent of the forgotten pictures classified right.

    Judged: how much of what the usual prompt lost it brings back, beyond what the same words get from the retrained
    model or, without one, a made-up name from the edited model: where no other name fits, any name will do.
    A wording that a file of embeddings lacks is passed over.
    """
    usual, made_up = context.usual, _made_up(context)
    findings, lost = [finding("words", "the usual prompt", "%", usual)], usual["unedited"] - usual["edited"]
    if made_up:
        findings.append(finding("words", "a made-up name", "%", made_up, details={"names": list(MADE_UP)}))
    for kind, wordings in _wordings(context).items():
        tried = {}
        for wording, classifier in wordings.items():
            answers = {m: context.answers(m, classifier(clip)) for m, clip in context.models.items()}
            tried[wording] = {m: context.right(x) for m, x in answers.items()}
        if not tried:
            continue
        best, shares = max(tried.items(), key=lambda item: item[1]["edited"])
        chance = max(usual["edited"], shares.get("retrained", made_up.get("edited", 0.0)))
        judged = (shares["edited"] - chance) / lost if lost > 0 else None, RECOVERED, "of what was lost"
        findings.append(finding("words", kind, "%", shares, judged, {"best": best, "tried": len(tried)}))
    return findings


def _made_up(context: Context) -> dict[str, float]:
    """Percent of the pictures of the first forgotten class that get a made-up name, the most of MADE_UP."""
    classes, first = context.images.vocabulary.classes, context.forgotten[0]
    names = [w for w in MADE_UP if context.models["unedited"].knows(format_prompt(FREE, w))]
    if not names or len(context.forgotten) == len(classes):
        return {}
    where, shares = context.inside & (context.images.classes == first), {}
    for model, clip in context.models.items():
        texts = [paraphrases(clip, classes, FREE, {classes[first]: name}) for name in names]
        shares[model] = max(context.right(context.answers(model, t), where) for t in texts)
    return shares


def _wordings(context: Context) -> dict[str, dict[str, Callable[[Clip], Tensor]]]:
    """By kind and wording, the text classifier of a model in it."""
    v, base, kinds = context.images.vocabulary, context.models["unedited"], {}
    prompts = (p for p in prompt_sets(base) if p != "free")
    kinds["prompts that name the domain"] = {p: partial(text_classifiers, vocabulary=v, prompts=p) for p in prompts}
    for kind, wordings in (("other templates", OTHER_TEMPLATES), ("plurals", OTHER_FORMS)):
        known = [t for t in wordings if all(base.knows(format_prompt(t, c)) for c in v.classes)]
        kinds[kind] = {t: partial(paraphrases, classes=v.classes, template=t) for t in known}
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
        pairs = ((name, word) for name, words in by_class.items() for word in words if word not in v.classes)
        kinds[kind] = {
            f"{name}: {word}": partial(paraphrases, classes=v.classes, template=FREE, synonyms={name: word})
            for name, word in pairs
            if base.knows(format_prompt(FREE, word))
        }
    return kinds


def found_prompt(context: Context) -> list[Finding]:
    """The share of forgotten pictures that a prompt finds whose tokens were fitted to half of the labelled pictures.

    For the first forgotten class: TOKENS free token embeddings in "a picture of a ...", through the text tower, against
    the texts of all other classes; trained on half of the families, tested on the other half.
    """
    names, generator = np.unique(context.families), torch.Generator().manual_seed(context.seed)
    chosen = names[torch.randperm(len(names), generator=generator)[: len(names) // 2].numpy()]
    half, c = torch.from_numpy(np.isin(context.families, chosen)), context.forgotten[0]
    positive = context.inside & (context.images.classes == c)
    if context.models["unedited"].stored or not (positive & half).any() or not (positive & ~half).any():
        return []
    use = half & (context.inside | (context.images.classes != c))

    def share(model: str) -> float:
        z, texts = context.unit(model).float(), context.texts[model].clone()
        others = torch.cat([texts[:c], texts[c + 1 :]])
        texts[c] = fitted_prompt(context.models[model], z[use], context.inside[use], others, context.seed)
        return context.right((z @ texts.T).argmax(1), positive & ~half)

    shares = context.each("found prompt", share)
    details = {"tokens": TOKENS, "steps": STEPS, "labelled pictures": int((positive & half).sum())}
    judged = above_retrained(shares, 100 * RECOVERED)
    return [finding("words", "a prompt found by gradient", "%", shares, judged, details)]


@torch.enable_grad()
def fitted_prompt(clip: Clip, z: Tensor, wanted: Tensor, others: Tensor, seed: int) -> Tensor:
    """The text embedding (d,) of a prompt whose free tokens tell the `wanted` (n,) bool of the pictures z (n, d) apart.

    others: (C - 1, d), the classes it competes with. Unit rows; cross-entropy at the model's own temperature.
    """
    table, device = _token_table(clip.model), clip.device
    tokens = clip.tokenizer(["a picture of a " + " ".join(["x"] * TOKENS)]).to(device)
    places = (tokens[0] == clip.tokenizer(["x"])[0, 1].to(device)).nonzero()[:, 0]
    start = table.weight[tokens[0, places]].detach().float()
    free = start + 0.01 * torch.randn(start.shape, generator=torch.Generator().manual_seed(seed)).to(device)
    free.requires_grad_(True)

    def put_in(_: nn.Module, inputs: tuple, output: Tensor) -> Tensor:
        return output.index_copy(1, places, free.to(output.dtype)[None].expand(len(output), -1, -1))

    z, target = z.to(device), wanted.float().to(device)
    rival = (clip.logit_scale * z @ others.T.to(device)).logsumexp(1)
    weight = torch.where(target > 0, 0.5 / target.sum(), 0.5 / (1 - target).sum())
    optimizer = torch.optim.Adam([free], lr=RATE)
    handle = table.register_forward_hook(put_in)
    try:
        for _ in range(STEPS):
            score = clip.logit_scale * z @ clip.model.encode_text(tokens, normalize=True)[0].float() - rival
            loss = F.binary_cross_entropy_with_logits(score, target, weight, reduction="sum")
            (free.grad,) = torch.autograd.grad(loss, [free])
            optimizer.step()
        return clip.model.encode_text(tokens, normalize=True)[0].detach().float().cpu()
    finally:
        handle.remove()


def _token_table(model: Any) -> nn.Embedding:
    """The table of token embeddings: the largest of the text side."""
    tables = [m for name, m in model.named_modules() if isinstance(m, nn.Embedding) and not name.startswith("visual.")]
    return max(tables, key=lambda table: table.num_embeddings)
