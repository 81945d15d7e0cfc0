"""Measure the embedded model: python measure.py [--pacs DIR] [--rendered DIR] [--fast].

Prints accuracy (macro over cells, held-out prompts), speed, and what `nullspace` does to every class. PACS comes
from --pacs or the variable CLIPNULL_DATA (a folder <domain>/<class>/*, nothing of it seen in training); the
200-class figure needs what render.py wrote. --fast leaves the edits out.
"""
import argparse
import os
import time
from collections import Counter

import captions
import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image

import clipnull as cn


def percent(x: float) -> str:
    return f"{100 * x:.1f} %"


def with_templates(clip: cn.Clip, world: cn.World, templates: list[str], names: dict[str, str] | None = None) -> float:
    """Macro accuracy with the mean of some templates, classes called by `names`."""
    spoken = [(names or {}).get(c, c) for c in world.vocabulary.classes]
    texts = torch.stack([clip.embed_texts([captions.fill(t, s) for t in templates]).mean(0) for s in spoken])
    scores = F.normalize(cn.embed(clip, world), dim=-1) @ F.normalize(texts, dim=-1).T
    return cn.macro(cn.accuracy_matrix(scores.argmax(1), world))


def model_scores(clip: cn.Clip, name: str, world: cn.World) -> None:
    c, k = world.vocabulary.shape
    print(f"{name}: {len(world)} pictures, {c} classes x {k} domains")
    print(f"  a picture of a ...: {percent(cn.macro(cn.zero_shot(clip, world)))} (macro over cells)")
    print(f"  held-out templates: {percent(with_templates(clip, world, captions.HELD_OUT_FREE))}; naming the domain "
          f"too: {percent(cn.macro(cn.zero_shot(clip, world, 'domain')))}")
    print(f"  naming the domain: {percent(cn.macro(cn.domain_accuracy(clip, world)))}")
    matrix = cn.zero_shot(clip, world)
    print("  by domain:", ", ".join(f"{d} {percent(cn.macro(matrix[:, i]))}"
                                    for i, d in enumerate(world.vocabulary.domains)))
    for cls in world.vocabulary.classes:
        for synonym in captions.HELD_OUT_SYNONYMS.get(cls, []):
            row = world.vocabulary.classes.index(cls)
            spoken = [synonym if x == cls else x for x in world.vocabulary.classes]
            z = F.normalize(cn.embed(clip, world.select(classes=[cls])), dim=-1)
            t = clip.embed_texts([captions.fill("a picture of {a}", s) for s in spoken])
            hit = cn.accuracy_matrix((z @ t.T).argmax(1), world.select(classes=[cls]))[row]
            print(f"    {cls} called {synonym!r}, a word no picture was captioned with: {percent(cn.macro(hit))} "
                  f"(called {cls!r}: {percent(cn.macro(matrix[row]))})")


def many_classes(clip: cn.Clip, rendered: str, n: int = 200) -> None:
    from render import read_index
    from split import splits
    rows = read_index()
    keep = [i for i, s in enumerate(splits(rows)) if s == "test" and rows[i]["class"]]
    classes = [c for c, _ in Counter(rows[i]["class"] for i in keep).most_common(n)]     # those with most pictures
    keep = [i for i in keep if rows[i]["class"] in classes]
    art = np.load(f"{rendered}/pictures.npy", mmap_mode="r")

    def picture(i: int) -> Image.Image:
        rgba = Image.fromarray(art[i])
        white = Image.new("RGBA", rgba.size, "white")
        return Image.alpha_composite(white, rgba).convert("RGB")

    z = torch.cat([clip.embed_pixels(torch.stack([clip.preprocess(picture(i)) for i in keep[a:a + 256]]))
                   for a in range(0, len(keep), 256)])
    t = clip.embed_texts([captions.fill("a picture of {a}", captions.SPOKEN.get(c, c)) for c in classes])
    guess = (F.normalize(z, dim=-1) @ t.T).argmax(1).tolist()
    cells: dict[tuple[str, str], list[bool]] = {}
    for i, g in zip(keep, guess, strict=True):
        cells.setdefault((rows[i]["class"], rows[i]["domain"]), []).append(classes[g] == rows[i]["class"])
    print(f"held-out design families: {percent(np.mean([np.mean(v) for v in cells.values()]))} among {len(classes)} "
          f"classes ({len(keep)} pictures, macro over {len(cells)} cells; micro "
          f"{percent(np.mean([x for v in cells.values() for x in v]))})")


def speed(clip: cn.Clip) -> None:
    x = torch.randn(256, 3, clip.image_size, clip.image_size)
    texts = [f"a picture of thing number {i}" for i in range(512)]
    for label, call, n in (("pictures", lambda: clip.embed_pixels(x), 256),
                           ("prompts", lambda: clip.embed_texts(texts), 512)):
        call()
        start = time.perf_counter()
        call()
        print(f"speed: {n / (time.perf_counter() - start):.0f} {label} a second, {torch.get_num_threads()} threads")


def nullspace_each_class(clip: cn.Clip, name: str, world: cn.World) -> None:
    start = time.perf_counter()
    prototypes = cn.cell_prototypes(clip, world.vocabulary)
    print(f"{name}: prototypes of {prototypes.mask.numel()} cells in {time.perf_counter() - start:.0f} s "
          "(less if cached)")
    results = []
    print("| class | forgetting rate | retain drop | worst cell |\n|---|---|---|---|")
    for cls in world.vocabulary.classes:
        request = cn.Forget(classes=[cls])
        edit = cn.unlearn(clip, request, world.vocabulary, prototypes=prototypes)
        r = cn.compare(clip, edit.apply(clip), world, request).rates
        results.append([r["forgetting_rate"], r["retain_drop"], r["worst_cell_drop"]])
        print(f"| {cls} | {r['forgetting_rate']:.3f} | {r['retain_drop']:+.1f} | {r['worst_cell_drop']:.0f} |")
    mean = np.mean(results, axis=0)
    print(f"| **mean** | **{mean[0]:.3f}** | **{mean[1]:+.1f}** | **{mean[2]:.0f}** |")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pacs", default=os.environ.get("CLIPNULL_DATA", "") and os.environ["CLIPNULL_DATA"] + "/test")
    parser.add_argument("--rendered", default="")
    parser.add_argument("--fast", action="store_true")
    args = parser.parse_args()
    clip = cn.load()
    speed(clip)
    worlds = {"miniworld test": cn.load_images()} | ({"PACS test": cn.load_images(args.pacs)} if args.pacs else {})
    for name, world in worlds.items():
        model_scores(clip, name, world)
    if args.rendered:
        many_classes(clip, args.rendered)
    if not args.fast:
        for name, world in worlds.items():
            nullspace_each_class(clip, name, world)


if __name__ == "__main__":
    main()
