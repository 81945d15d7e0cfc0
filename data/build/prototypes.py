"""Make the prototypes that come with miniclip: python prototypes.py

One for each cell of miniworld and of PACS, with the default settings, on two threads. Ascent depends on rounding:
another machine or number of threads gives others, about as good. The former ones are removed. A sheet of them goes
beside the model: `prototypes.webp`.
"""

import os
import shutil
import tempfile
from pathlib import Path

import torch
from PIL import Image, ImageDraw

import clipnull as cn
from clipnull.files import data_folder
from clipnull.prototypes import cell_prototypes

PACS = cn.Vocabulary(
    ("dog", "elephant", "giraffe", "guitar", "horse", "house", "person"), ("art_painting", "cartoon", "photo", "sketch")
)


def sheet(vocabulary: cn.Vocabulary, pixels: torch.Tensor, size: int = 64) -> Image.Image:
    """A row a class, a column a domain. pixels: (C, K, 3, s, s) uint8."""
    left, top = 74, 18
    canvas = Image.new("RGB", (left + size * len(vocabulary.domains), top + size * len(vocabulary.classes)), "white")
    draw = ImageDraw.Draw(canvas)
    for k, domain in enumerate(vocabulary.domains):
        draw.text((left + k * size + 2, 4), domain, fill="black")
    for c, label in enumerate(vocabulary.classes):
        draw.text((4, top + c * size + size // 2 - 6), label, fill="black")
        for k in range(len(vocabulary.domains)):
            tile = Image.fromarray(pixels[c, k].permute(1, 2, 0).numpy()).resize((size - 2, size - 2))
            canvas.paste(tile, (left + k * size, top + c * size))
    return canvas


def main() -> None:
    torch.set_num_threads(2)
    target = data_folder("miniclip")
    for old in target.glob("prototypes-*.safetensors"):
        old.unlink()
    with tempfile.TemporaryDirectory() as cache:
        os.environ["CLIPNULL_CACHE"] = cache
        clip = cn.load(device="cpu")
        made = {v: cell_prototypes(clip, v) for v in (cn.load_images().vocabulary, PACS)}
        for file in sorted(Path(cache).glob("*.safetensors")):
            Path(shutil.move(file, target)).chmod(0o644)
            print(file.name)
    vocabulary, prototypes = next(iter(made.items()))
    sheet(vocabulary, prototypes.pixels).save(target / "prototypes.webp", quality=85, method=6)


if __name__ == "__main__":
    main()
