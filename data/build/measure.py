"""Measure the embedded model: python measure.py [--pacs DIR] [--rendered DIR] [--json FILE].

Prints accuracy (macro over cells, held-out prompts) and speed. PACS comes from --pacs or the variable CLIPNULL_DATA (a
folder <domain>/<class>/*, nothing of it used in training); the 200-class figure needs what render.py wrote. What edits
do is measured by `clipnull bench`. --json: the table of RESULTS.md, for `clipnull results FILE`.
"""

import argparse
import json
import os
import time
from collections import Counter

import captions
import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image

import clipnull as cn
from clipnull.evaluate import accuracy_matrix, domain_accuracy, macro
from clipnull.files import write_text


def percent(x: float) -> str:
    return f"{100 * x:.1f} %"


def with_templates(clip: cn.Clip, images: cn.Images, z: torch.Tensor, templates: list[str]) -> float:
    """Macro accuracy with the mean of some templates. z: embeddings of the images, (n, d)."""
    texts = torch.stack(
        [clip.embed_texts([captions.fill(t, c) for t in templates]).mean(0) for c in images.vocabulary.classes]
    )
    scores = F.normalize(z, dim=-1) @ F.normalize(texts, dim=-1).T
    return macro(accuracy_matrix(scores.argmax(1), images))


def model_scores(clip: cn.Clip, name: str, images: cn.Images) -> tuple[float, float]:
    """Print accuracies; returns that of classes and that of domains, means over cells."""
    c, k = images.vocabulary.shape
    z = cn.embed(clip, images)
    matrix, domains = cn.zero_shot(clip, images, features=z), domain_accuracy(clip, images, z)
    print(f"{name}: {len(images)} pictures, {c} classes x {k} domains")
    print(f"  a picture of a ...: {percent(macro(matrix))} (macro over cells)")
    print(
        f"  held-out templates: {percent(with_templates(clip, images, z, captions.HELD_OUT_FREE))}; naming the domain "
        f"too: {percent(macro(cn.zero_shot(clip, images, 'domain', z)))}"
    )
    print(f"  naming the domain: {percent(macro(domains))}")
    print(
        "  by domain:",
        ", ".join(f"{d} {percent(macro(matrix[:, i]))}" for i, d in enumerate(images.vocabulary.domains)),
    )
    for row, cls in enumerate(images.vocabulary.classes):
        for synonym in captions.HELD_OUT_SYNONYMS.get(cls, []):
            words = [synonym if x == cls else x for x in images.vocabulary.classes]
            t = clip.embed_texts([captions.fill("a picture of {a}", word) for word in words])
            hit = accuracy_matrix((F.normalize(z, dim=-1) @ t.T).argmax(1), images)[row]
            print(
                f"    {cls} called {synonym!r}, a word no picture was captioned with: {percent(macro(hit))} "
                f"(called {cls!r}: {percent(macro(matrix[row]))})"
            )
    return macro(matrix), macro(domains)


def many_classes(clip: cn.Clip, rendered: str, n: int = 200) -> float:
    """Print and return the accuracy among the n classes with most pictures, macro over cells of held-out families."""
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
    print(
        f"held-out design families: {percent(np.mean([np.mean(v) for v in cells.values()]))} among {len(classes)} "
        f"classes ({len(keep)} pictures, macro over {len(cells)} cells; micro "
        f"{percent(np.mean([x for v in cells.values() for x in v]))})"
    )
    return float(np.mean([np.mean(v) for v in cells.values()]))


def speed(clip: cn.Clip) -> tuple[float, float]:
    """Print and return pictures and prompts embedded a second."""
    x = torch.randn(256, 3, clip.image_size, clip.image_size)
    texts = [f"a picture of thing number {i}" for i in range(512)]
    found = []
    for label, call, n in (
        ("pictures", lambda: clip.embed_pixels(x), 256),
        ("prompts", lambda: clip.embed_texts(texts), 512),
    ):
        call()
        start = time.perf_counter()
        call()
        found.append(n / (time.perf_counter() - start))
        print(f"speed: {found[-1]:.0f} {label} a second, {torch.get_num_threads()} threads")
    return found[0], found[1]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pacs", default=os.environ.get("CLIPNULL_DATA", "") and os.environ["CLIPNULL_DATA"] + "/test")
    parser.add_argument("--rendered", default="")
    parser.add_argument("--json", default="")
    args = parser.parse_args()
    clip = cn.load()
    pictures, prompts = speed(clip)
    rows = []
    for name, target, folder in (("PACS test", "≥ 90 %", args.pacs), ("miniworld test", "≥ 85 %", None)):
        if folder != "":
            images = cn.load_images(folder)
            (c, k), (right, domains) = images.vocabulary.shape, model_scores(clip, name, images)
            rows.append({"what": f"{name}, {c} classes × {k} domains", "target": target, "measured": percent(right)})
            rows.append(
                {
                    "what": f"{name}, naming the domain",
                    "target": "≥ 92 %" if folder else "–",
                    "measured": percent(domains),
                }
            )
    if args.rendered:
        rows.append(
            {
                "what": "200 classes of held-out design families",
                "target": "≥ 60 %",
                "measured": percent(many_classes(clip, args.rendered)),
            }
        )
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


if __name__ == "__main__":
    main()
