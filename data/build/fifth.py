"""Make a stand-in of five domains, one of a source of its own: python fifth.py RENDERED PACS/test OUT [--split test]

PACS's pictures, and beside them silhouettes among the artworks that show its seven classes, held-out ones or (--split
train) the others, as a domain "stencil": a name that the embedded model never met, for pictures that it knows. By
texts it names that domain right for 29 % of the held-out pictures, by texts and prototypes for 51 %, and the class for
93 % of all. `clipnull bench OUT --methods gated` tells what comes of that. OUT must not exist.
"""

import argparse
import shutil
from pathlib import Path

import numpy as np
from miniworld import on_white
from prototypes import PACS
from render import read_index
from review import named
from split import splits

DOMAIN = "stencil"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("rendered")
    parser.add_argument("pacs", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--split", default="test", choices=("train", "test"))
    args = parser.parse_args()
    shutil.copytree(args.pacs, args.out)
    rows, count = read_index(), 0
    art = np.load(f"{args.rendered}/pictures.npy", mmap_mode="r")
    for i, (row, split) in enumerate(zip(rows, splits(rows), strict=True)):
        if split == args.split and row["domain"] == "silhouette" and named(row) in PACS.classes:
            folder = args.out / DOMAIN / named(row)
            folder.mkdir(parents=True, exist_ok=True)
            on_white(art[i]).save(folder / f"{i}.png")
            count += 1
    print(f"{args.out}: {count} pictures of the domain {DOMAIN!r}")


if __name__ == "__main__":
    main()
