"""Make the prototypes that come with miniclip: python prototypes.py

One for each cell of miniworld and of PACS, with the default settings, on two threads. Ascent depends on rounding:
another machine or number of threads gives others, about as good. The former ones are removed.
"""

import os
import shutil
import tempfile
from pathlib import Path

import torch

import clipnull as cn
from clipnull.files import data_folder
from clipnull.prototypes import cell_prototypes

PACS = cn.Vocabulary(
    ("dog", "elephant", "giraffe", "guitar", "horse", "house", "person"), ("art_painting", "cartoon", "photo", "sketch")
)


def main() -> None:
    torch.set_num_threads(2)
    target = data_folder("miniclip")
    for old in target.glob("prototypes-*.safetensors"):
        old.unlink()
    with tempfile.TemporaryDirectory() as cache:
        os.environ["CLIPNULL_CACHE"] = cache
        clip = cn.load(device="cpu")
        for vocabulary in (cn.load_images().vocabulary, PACS):
            cell_prototypes(clip, vocabulary)
        for made in sorted(Path(cache).glob("*.safetensors")):
            Path(shutil.move(made, target)).chmod(0o644)
            print(made.name)


if __name__ == "__main__":
    main()
