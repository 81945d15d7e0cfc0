"""What it costs in training that miniworld holds out so much: python cost.py RENDERED

A linear classifier on the frozen features of the ImageNet trunk that miniclip starts from names miniworld's classes in
pictures of families that are held out either way: trained on what the split leaves, and on what it would leave if a
cell's pictures were not held out until there are ten.
"""

import argparse
from pathlib import Path

import numpy as np
import torch
from miniworld import on_white
from render import read_index
from review import CLASSES, named, shown
from sklearn.linear_model import LogisticRegression
from split import splits
from train import new_model


@torch.inference_mode()
def features(rendered: Path, places: list[int], size: int = 96) -> np.ndarray:
    """Unit features (n, 1280) of the pictures at `places`, on white."""
    trunk, art = new_model(0).visual.trunk.eval(), np.load(rendered / "pictures.npy", mmap_mode="r")
    pictures = [np.asarray(on_white(art[i]).resize((size, size)), np.float32).transpose(2, 0, 1) for i in places]
    x = torch.from_numpy(np.stack(pictures)) / 127.5 - 1
    return torch.nn.functional.normalize(torch.cat([trunk(part) for part in x.split(128)]), dim=1).numpy()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("rendered", type=Path)
    rows = read_index()
    few, many = splits(rows, more=False), splits(rows)
    places = [i for i, row in enumerate(rows) if named(row) in CLASSES]
    x = features(parser.parse_args().rendered, places)
    label = np.array([named(rows[i]) for i in places])
    test = np.array([few[i] == many[i] == "test" and shown(rows[i]) for i in places])
    for title, split in (("30 % held out", few), ("and up to ten in a cell", many)):
        train = np.array([split[i] == "train" for i in places])
        probe = LogisticRegression(C=100, max_iter=1000).fit(x[train], label[train])
        right = probe.predict(x[test]) == label[test]
        macro = np.mean([right[label[test] == c].mean() for c in CLASSES])
        print(f"{title}: {train.sum()} pictures to train on; {100 * macro:.1f} % of {test.sum()} held-out ones right")


if __name__ == "__main__":
    main()
