"""Measure the embedded model: python measure.py [--pacs DIR] [--rendered DIR] [--json FILE] [--card].

Prints accuracy (macro over cells, held-out prompts) and speed. PACS comes from --pacs or the variable CLIPNULL_DATA (a
folder <domain>/<class>/*, nothing of it used in training; a folder `train` beside it teaches the probe). The 200-class
figure needs what render.py wrote. What edits do is measured by `clipnull bench`. --json: the table of RESULTS.md, for
`python data/results/write.py FILE`. --card: the scores in the model card, data/miniclip/README.md, are written anew; it
needs all three.
"""

import argparse
import json
import os
import time
from collections import Counter
from pathlib import Path

import captions
import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

import clipnull as cn
from clipnull.evaluate import accuracy_matrix, domain_accuracy, macro
from clipnull.files import data_folder, write_text
from clipnull.images import Images
from clipnull.models import Clip

BEGIN, END = "<!-- scores: written by data/build/measure.py --card -->", "<!-- end of scores -->"


def percent(x: float) -> str:
    return f"{100 * x:.1f} %"


def with_templates(clip: Clip, images: Images, z: torch.Tensor, templates: list[str]) -> float:
    """Macro accuracy with the mean of some templates. z: embeddings of the images, (n, d)."""
    texts = torch.stack(
        [clip.embed_texts([captions.fill(t, c) for t in templates]).mean(0) for c in images.vocabulary.classes]
    )
    scores = F.normalize(z, dim=-1) @ F.normalize(texts, dim=-1).T
    return macro(accuracy_matrix(scores.argmax(1), images))


def probed(clip: Clip, train: Images, images: Images, z: torch.Tensor) -> str:
    """Accuracy of a linear classifier on z taught by `train`, means over cells: about what texts can reach."""
    x, shares = cn.embed(clip, train), []
    for known, labels in ((train.classes, images.classes), (train.domains, images.domains)):
        probe = make_pipeline(StandardScaler(), LogisticRegression(C=0.01, class_weight="balanced", max_iter=500))
        right = torch.from_numpy(probe.fit(x, known).predict(z)) == labels
        cells = [right[(images.classes == c) & (images.domains == k)] for c, k in images.counts().nonzero().tolist()]
        shares.append(percent(np.mean([cell.double().mean() for cell in cells])))
    return " and ".join(shares)


def model_scores(clip: Clip, name: str, images: Images, train: Images | None = None) -> dict:
    """What there is to say of `images`, printed too: a text a line of the card, synonyms, and two accuracies."""
    classes, domains = images.vocabulary.classes, images.vocabulary.domains
    z = cn.embed(clip, images)
    matrix, named = cn.zero_shot(clip, images, features=z), domain_accuracy(clip, images, z)
    by_domain = ", ".join(f"{d.replace('_', ' ')} {100 * macro(matrix[:, i]):.1f}" for i, d in enumerate(domains))
    lines = {
        "“a picture of a …”": percent(macro(matrix)),
        "mean of four held-out templates": percent(with_templates(clip, images, z, captions.HELD_OUT_FREE)),
        "held-out templates that name the domain": percent(macro(cn.zero_shot(clip, images, "domain", z))),
        "naming the domain": percent(macro(named)),
        "by domain": f"{by_domain} %",
    }
    if train is not None:
        lines["a linear probe on z, taught by labels: class and domain"] = probed(clip, train, images, z)
    print(f"{name}: {len(images)} pictures, {len(classes)} classes x {len(domains)} domains, means over cells")
    print("\n".join(f"  {what}: {text}" for what, text in lines.items()))
    words = {}
    for row, label in enumerate(classes):
        for synonym in captions.HELD_OUT_SYNONYMS.get(label, []):
            t = clip.embed_texts(
                [
                    captions.fill("a picture of {a}", synonym if x == label else captions.SPOKEN.get(x, x))
                    for x in classes
                ]
            )
            hit = accuracy_matrix((F.normalize(z, dim=-1) @ t.T).argmax(1), images)[row]
            words[label, synonym] = f"{100 * macro(hit):.0f} ({100 * macro(matrix[row]):.0f}) %"
            print(f"    {label} called {synonym!r}: {words[label, synonym]}")
    return {"lines": lines, "words": words, "right": macro(matrix), "domains": macro(named)}


def many_classes(clip: Clip, rendered: str, n: int = 200) -> tuple[float, str]:
    """The accuracy among the n classes with most pictures, macro over cells of held-out families, and what to say."""
    from render import read_index
    from split import splits

    rows = read_index()
    keep = [i for i, s in enumerate(splits(rows)) if s == "test" and rows[i]["class"]]
    classes = [c for c, _ in Counter(rows[i]["class"] for i in keep).most_common(n)]  # those with most pictures
    keep = [i for i in keep if rows[i]["class"] in classes]
    art = np.load(f"{rendered}/pictures.npy", mmap_mode="r")

    def picture(i: int) -> Image.Image:
        rgba = Image.fromarray(art[i])
        white = Image.new("RGBA", rgba.size, "white")
        return Image.alpha_composite(white, rgba).convert("RGB")

    z = torch.cat(
        [
            clip.embed_pixels(torch.stack([clip.preprocess(picture(i)) for i in keep[a : a + 256]]))
            for a in range(0, len(keep), 256)
        ]
    )
    t = clip.embed_texts([captions.fill("a picture of {a}", captions.SPOKEN.get(c, c)) for c in classes])
    guess = (F.normalize(z, dim=-1) @ t.T).argmax(1).tolist()
    cells: dict[tuple[str, str], list[bool]] = {}
    for i, g in zip(keep, guess, strict=True):
        cells.setdefault((rows[i]["class"], rows[i]["domain"]), []).append(classes[g] == rows[i]["class"])
    mean, micro = np.mean([np.mean(v) for v in cells.values()]), np.mean([x for v in cells.values() for x in v])
    sentence = (
        f"Held-out design families, the {len(classes)} classes with most pictures: {percent(mean)} (macro over "
        f"{len(cells):,} cells; {percent(micro)} of {len(keep):,} pictures)."
    )
    print(sentence)
    return float(mean), sentence


def speed(clip: Clip) -> tuple[float, float]:
    """Print and return pictures and prompts embedded a second."""
    x = torch.randn(256, 3, clip.image_size, clip.image_size)
    texts = [f"a picture of thing number {i}" for i in range(512)]
    rates = []
    for label, call, n in (
        ("pictures", lambda: clip.embed_pixels(x), 256),
        ("prompts", lambda: clip.embed_texts(texts), 512),
    ):
        call()
        start = time.perf_counter()
        call()
        rates.append(n / (time.perf_counter() - start))
        print(f"speed: {rates[-1]:.0f} {label} a second, {torch.get_num_threads()} threads")
    return rates[0], rates[1]


def scores(entries: dict[str, dict], many: str) -> str:
    """The scores of the model card. entries: `model_scores` by the name of the pictures."""
    lines = [f"| | {' | '.join(entries)} |", "|---" * (1 + len(entries)) + "|"]
    for what in next(iter(entries.values()))["lines"]:
        lines.append(f"| {what} | {' | '.join(entry['lines'][what] for entry in entries.values())} |")
    lines += [
        "",
        many,
        "",
        "Held-out synonyms: the share of the class's pictures still found when it goes by the new word",
    ]
    lines += [
        "(its own name in brackets).",
        "",
        f"| class | word | {' | '.join(entries)} |",
        "|---" * (2 + len(entries)) + "|",
    ]
    for label, word in sorted({key for entry in entries.values() for key in entry["words"]}):
        values = [entry["words"].get((label, word), "") for entry in entries.values()]
        lines.append(f"| {label} | {word} | {' | '.join(values)} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pacs", default=os.environ.get("CLIPNULL_DATA", "") and os.environ["CLIPNULL_DATA"] + "/test")
    parser.add_argument("--rendered", default="")
    parser.add_argument("--json", default="")
    parser.add_argument("--card", action="store_true")
    args = parser.parse_args()
    if args.card and not (args.pacs and args.rendered):
        parser.error("--card needs --pacs and --rendered")
    clip = cn.load()
    pictures, prompts = speed(clip)
    rows, entries, many = [], {}, ""
    targets = {"PACS test": ("≥ 91 %", "≥ 92 %"), "miniworld test": ("≥ 85 %", "≥ 88 %")}
    for (name, wanted), folder in zip(targets.items(), (args.pacs, None), strict=True):
        if folder != "":
            images = cn.load_images(folder)
            c, k = images.vocabulary.shape
            labelled = Path(folder).parent / "train" if folder else None
            taught = cn.load_images(labelled) if labelled and labelled.is_dir() else None
            taught = taught if folder else cn.load_images(split="train")
            entries[name] = model_scores(clip, name, images, taught)
            for what, target, key in zip(
                (f"{name}, {c} classes × {k} domains", f"{name}, naming the domain"),
                wanted,
                ("right", "domains"),
                strict=True,
            ):
                rows.append({"what": what, "target": target, "measured": percent(entries[name][key])})
    if args.rendered:
        mean, many = many_classes(clip, args.rendered)
        what = "200 classes of held-out design families"
        rows.append({"what": what, "target": "≥ 60 %", "measured": percent(mean)})
    rows.append(
        {
            "what": f"embedding, {torch.get_num_threads()} threads, pictures and prompts a second",
            "target": "≥ 80, ≥ 300",
            "measured": f"{pictures:.0f}, {prompts:.0f}",
        }
    )
    if args.json:
        note = (
            'Pictures not trained on, prompts not trained on ("a picture of a …"), means over cells; '
            "`make measure` prints them."
        )
        entry = {"kind": "model", "name": "miniclip", "note": note, "rows": rows}
        write_text(args.json, json.dumps(entry, indent=1, ensure_ascii=False) + "\n")
    if args.card:
        card = data_folder("miniclip") / "README.md"
        before, rest = card.read_text(encoding="utf-8").split(BEGIN)
        write_text(card, f"{before}{BEGIN}\n\n{scores(entries, many)}\n\n{END}{rest.split(END)[1]}")


if __name__ == "__main__":
    main()
