"""Does another word bring it back? Other templates, misspellings, near words, and a prompt found by gradient."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..models import Clip
from ..prompts import can_embed, near, prompt_sets, text_classifiers
from ..vocabulary import TEMPLATES, format_prompt
from .context import Case
from .findings import Finding, above_clean, finding
from .languages import prompts_of
from .probes import paraphrases

ASKED = ("{a}", "I can see {a} here", "what a nice {n}", "look, {a}!", "{n} clip art, no background", "two {n}s")
"""Templates that neither build nor evaluate anything else; the last makes a plural."""

RECOVERED = 0.1
"""Limit: the share of what was lost that other words bring back."""

MADE_UP = ("wug", "blick", "florp")
"""Names of nothing (Berko 1958, "The Child's Learning of English Morphology", and like them): what a name gets by
exclusion, because no other fits. A model that never knew answers so, too."""

TOKENS, STEPS, RATE = 4, 60, 0.02
"""Of the prompt that is found by gradient: how many free tokens, steps of Adam, and their size."""


def misspelt(name: str) -> list[str]:
    """The name with two letters exchanged, with one left out, and with one doubled, in its middle.

    >>> misspelt("elephant")
    ['elehpant', 'elepant', 'elepphant']
    """
    i = len(name) // 2
    swapped = name[: i - 1] + name[i - 1 : i + 1][::-1] + name[i + 1 :]
    found = [swapped, name[:i] + name[i + 1 :], name[:i] + name[i - 1] + name[i:]]
    return [word for word in dict.fromkeys(found) if word.strip() and word != name]


def other_words(case: Case, words: Mapping[str, Sequence[str]]) -> list[Finding]:
    """For each kind of wording the one that finds most: percent of the forgotten pictures classified right.

    What is judged is how much of what the usual prompt lost it brings back, beyond what the same words get from the
    clean model or, without one, a made-up name from the edited model: where no other name fits, any name will do.
    words: for classes, what else they are called. A wording that a file of embeddings lacks is passed over.
    """
    usual = {model: case.right(case.answers(model)) for model in case.models}
    lost, made_up = usual["unedited"] - usual["edited"], _made_up(case)
    best: dict[str, tuple[dict[str, float], str, int]] = {}
    for kind, wording, classifiers in _wordings(case, words):
        found = {model: case.right(case.answers(model, t)) for model, t in classifiers.items()}
        kept = best.get(kind)
        count = kept[2] + 1 if kept else 1
        best[kind] = (found, wording, count) if not kept or found["edited"] > kept[0]["edited"] else (*kept[:2], count)
    findings = [finding("words", "the usual prompt", "%", usual)]
    if made_up:
        findings.append(finding("words", "a made-up name", "%", made_up, details={"names": list(MADE_UP)}))
    for kind, (found, wording, count) in best.items():
        chance = found.get("clean", made_up.get("edited", 0.0))
        back = (found["edited"] - max(chance, usual["edited"])) / lost if lost > 0 else None
        findings.append(
            finding(
                "words",
                kind,
                "%",
                found,
                back,
                RECOVERED,
                "of what was lost",
                {"best": wording, "tried": count},
            )
        )
    return findings


def _made_up(case: Case) -> dict[str, float]:
    """Percent of the forgotten pictures that get a made-up name in the place of their class: the most of MADE_UP."""
    v, template = case.images.vocabulary, TEMPLATES["free"][0]
    names = [w for w in MADE_UP if can_embed(case.models["unedited"], format_prompt(template, w))]
    if not names or len(case.forgotten) == len(v.classes):
        return {}
    found = {}
    for model, clip in case.models.items():
        swaps = [{v.classes[c]: w for c in case.forgotten[:1]} for w in names]
        own = case.inside & (case.images.classes == case.forgotten[0])
        texts = [paraphrases(clip, v.classes, template, swap) for swap in swaps]
        found[model] = max(case.right(case.answers(model, t), own) for t in texts)
    return found


def _wordings(case: Case, words: Mapping[str, Sequence[str]]) -> Iterator[tuple[str, str, dict[str, Tensor]]]:
    """(kind, wording, text classifier of each model)."""
    v, base = case.images.vocabulary, case.models["unedited"]
    for prompts in prompt_sets(base):
        if prompts != "free":
            yield (
                "prompts that name the domain",
                prompts,
                {m: text_classifiers(clip, v, prompts) for m, clip in case.models.items()},
            )
    asked = [t for t in ASKED if all(can_embed(base, format_prompt(t, c)) for c in v.classes)]
    each = {m: [paraphrases(clip, v.classes, t) for t in asked] for m, clip in case.models.items()}
    for i, template in enumerate(asked):
        yield "other templates", template, {m: texts[i] for m, texts in each.items()}
    if len(asked) > 1:
        yield (
            "the mean of all templates",
            f"{len(asked)} templates",
            {m: F.normalize(torch.stack(texts).mean(0), dim=-1) for m, texts in each.items()},
        )
    for language, prompts in prompts_of(base, v.classes, [v.classes[c] for c in case.forgotten]).items():
        known = torch.tensor([prompt is not None for prompt in prompts])
        texts = {m: case.texts[m].clone() for m in case.models}
        for m, clip in case.models.items():
            texts[m][known] = clip.embed_texts([prompt for prompt in prompts if prompt is not None]).to(texts[m])
        yield "other languages", language, texts
    template = TEMPLATES["free"][0]
    kinds: dict[str, Mapping[str, Sequence[str]]] = {
        "misspelt": {v.classes[c]: misspelt(v.classes[c]) for c in case.forgotten}
    }
    if len(case.forgotten) < len(v.classes):
        kinds["near words"] = {c: [w for w, _ in found[:3]] for c, found in near(base, case.request, v).items()}
    kinds["other names, given"] = words
    for kind, listed in kinds.items():
        for name, others in listed.items():
            for word in others:
                if word not in v.classes and can_embed(base, format_prompt(template, word)):
                    texts = {m: paraphrases(clip, v.classes, template, {name: word}) for m, clip in case.models.items()}
                    yield kind, f"{name}: {word}", texts


# --- a prompt found by gradient ----------------------------------------------------------------------------------


def found_prompt(case: Case) -> list[Finding]:
    """The share of forgotten pictures that a prompt finds whose tokens were fitted to half of the labelled pictures.

    For the first forgotten class: TOKENS free token embeddings in "a picture of a ...", through the text tower, against
    the texts of all other classes; trained on half of the families, asked about the other half.
    """
    halves, c = _halves(case), case.forgotten[0]
    own = case.inside & (case.images.classes == c)
    if not (own & halves).any() or not (own & ~halves).any():
        return []
    labels = case.images.classes[halves], case.inside[halves]

    def asked(model: str) -> float:
        z, texts = case.unit(model).float(), case.texts[model].clone()
        texts[c] = fitted_prompt(case.models[model], z[halves], *labels, texts, c, case.seed)
        return case.right((z @ texts.T).argmax(1), own & ~halves)

    found = case.each("found prompt", asked)
    return [
        finding(
            "words",
            "a prompt found by gradient",
            "%",
            found,
            above_clean(found),
            100 * RECOVERED,
            "points above clean",
            {"tokens": TOKENS, "steps": STEPS, "labelled pictures": int((own & halves).sum())},
        )
    ]


def _halves(case: Case) -> Tensor:
    """A random half of the families: (n,) bool."""
    names = sorted(set(case.families))
    chosen = torch.randperm(len(names), generator=torch.Generator().manual_seed(case.seed))[: len(names) // 2]
    first = {names[i] for i in chosen.tolist()}
    return torch.tensor([family in first for family in case.families])


@torch.enable_grad()
def fitted_prompt(clip: Clip, z: Tensor, labels: Tensor, wanted: Tensor, texts: Tensor, c: int, seed: int) -> Tensor:
    """The text embedding (d,) of a prompt whose free tokens tell the `wanted` pictures of class c from all others.

    z: (n, d) unit rows; labels: (n,); wanted: (n,) bool; texts: (C, d), the classes it competes with. Cross-entropy at
    the model's own temperature, pictures of c that are not wanted left out.
    """
    table = _token_table(clip.model)
    device = clip.device
    tokens = clip.tokenizer(["a picture of a " + " ".join(["x"] * TOKENS)]).to(device)
    (x,) = clip.tokenizer(["x"])[0, 1:2].tolist()
    places = (tokens[0] == x).nonzero()[:, 0]
    with torch.no_grad():
        start = table(tokens[0, places]).clone().float()
    free = start + 0.01 * torch.randn(start.shape, generator=torch.Generator().manual_seed(seed)).to(device)
    free.requires_grad_(True)

    def put_in(_: nn.Module, inputs: tuple, output: Tensor) -> Tensor:
        return output.index_copy(1, places, free.to(output.dtype)[None].expand(len(output), -1, -1))

    use = wanted | (labels != c)
    z, target = z[use].to(device), wanted[use].float().to(device)
    others = torch.cat([texts[:c], texts[c + 1 :]]).to(device)
    rival = (clip.logit_scale * z @ others.T).logsumexp(1)
    weight = torch.where(target > 0, 0.5 / target.sum(), 0.5 / (1 - target).sum())
    optimizer = torch.optim.Adam([free], lr=RATE)
    handle = table.register_forward_hook(put_in)
    try:
        for _ in range(STEPS):
            t = clip.model.encode_text(tokens, normalize=True)[0].float()
            score = clip.logit_scale * z @ t - rival
            loss = (weight * F.binary_cross_entropy_with_logits(score, target, reduction="none")).sum()
            optimizer.zero_grad()
            (free.grad,) = torch.autograd.grad(loss, [free])
            optimizer.step()
        with torch.no_grad():
            return clip.model.encode_text(tokens, normalize=True)[0].float().cpu()
    finally:
        handle.remove()


def _token_table(model: Any) -> nn.Embedding:
    """The table of token embeddings: the largest of the text side."""
    tables = [m for name, m in model.named_modules() if isinstance(m, nn.Embedding) and not name.startswith("visual.")]
    return max(tables, key=lambda table: table.num_embeddings)
