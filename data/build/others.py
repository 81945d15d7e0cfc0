"""Make the unrelated pictures and words that come with miniclip: python others.py RENDERED [--most 4]

Held-out artworks of all named classes that are neither in miniworld nor in PACS, and the names of these classes, as
embeddings of the model in data/miniclip: at most so many pictures of each class, of as many domains as there are. They
are what collateral damage is measured on (`clipnull.evaluate`). The former file is removed.
"""

import argparse

import captions
import numpy as np
import torch
from miniworld import on_white
from prototypes import PACS
from render import read_index
from review import CLASSES, named
from split import fraction, splits

import clipnull as cn
from clipnull.files import data_folder, written
from clipnull.prompts import embed_classes


def chosen(rows: list[dict], most: int) -> list[int]:
    """Places in the index: of each class, held-out pictures of one domain after the other, in a fixed random order."""
    known, groups = {*CLASSES, *PACS.classes}, {}
    for place, (row, split) in enumerate(zip(rows, splits(rows), strict=True)):
        if split == "test" and named(row) and named(row) not in known:
            groups.setdefault(named(row), {}).setdefault(row["domain"], []).append(place)
    places = []
    for _, domains in sorted(groups.items()):
        ranked = [sorted(group, key=lambda i: fraction(rows[i]["origin"])) for _, group in sorted(domains.items())]
        turns = [group[turn] for turn in range(max(map(len, ranked))) for group in ranked if turn < len(group)]
        places += turns[:most]
    return places


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("rendered")
    parser.add_argument("--most", type=int, default=4, help="pictures of a class [4]")
    args = parser.parse_args()
    rows, clip = read_index(), cn.load(device="cpu")
    places = chosen(rows, args.most)
    names = sorted({named(rows[i]) for i in places})
    art = np.load(f"{args.rendered}/pictures.npy", mmap_mode="r")
    pictures = (clip.preprocess(on_white(art[i])) for i in places)
    z = torch.cat([clip.embed_pixels(x[None]) for x in pictures])
    made = {
        "other_images": z.half().numpy(),
        "other_texts": embed_classes(clip, [captions.SPOKEN.get(name, name) for name in names]).half().numpy(),
        "other_names": np.array(names),
        "shows": np.array([names.index(named(rows[i])) for i in places], np.uint16),
    }
    if not np.isfinite(made["other_images"]).all():
        raise ValueError("other_images: too large for float16; expected embeddings below 65504")
    for old in data_folder("miniclip").glob("others-*.npz"):
        old.unlink()
    path = data_folder("miniclip") / f"others-{clip.fingerprint}.npz"
    with written(path) as temporary, open(temporary, "wb") as file:
        np.savez_compressed(file, **made)
    right = made["shows"] == (z @ torch.from_numpy(made["other_texts"]).float().T).argmax(1).numpy()
    print(f"{path.name}: {len(places)} pictures of {len(names)} classes, {100 * right.mean():.0f} % named right, "
          f"{path.stat().st_size / 1e6:.2f} MB")  # fmt: skip


if __name__ == "__main__":
    main()
