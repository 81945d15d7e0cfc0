"""The demo page of the book: the reader chooses a request and a method, and the browser computes the effect.

The demo needs no server and no framework. Its data are miniworld's test embeddings, the texts and prototypes of all
(class, domain) cells, the duals and the settings of the methods. `linear.js` holds the linear algebra, `methods.js` the
six methods and their measures, `page.js` the page.

Picture embeddings are stored as 16-bit integers, each row scaled by its largest value. The length of an embedding
changes no answer of any method, and rounding changes none on the test pictures of miniworld.
"""

from __future__ import annotations

import base64
import csv
import json
import shutil
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from ...datasets.loading import load_images
from ...embedding import embed
from ...files import data_folder, write_text
from ...from_names import embed_vocabulary
from ...images import Images
from ...methods import METHODS
from ...methods.cells import MIN_CONTRAST
from ...models import Clip, load
from ...prompts import embed_classes

SCRIPTS = ("linear.js", "methods.js", "page.js")
SHOWN = ("nullspace", "residual", "ridge", "oblique", "neuron", "gated")
PAGES = ("demo.md", "LICENSES.md")
SIDE, COLUMNS = 96, 26  # pixels along a thumbnail, thumbnails per row


def write(source: Path) -> tuple[str, ...]:
    """Write the demo into the folder `source` of a book, and return the names of its pages.

    Scripts, style, data and thumbnails go to `_static/demo`. A second page lists the licences of the pictures.
    """
    here, static, pictures = Path(__file__).parent, source / "_static" / "demo", data_folder("miniworld")
    static.mkdir(parents=True)
    for path in (here / "demo.md", here / "demo.html", pictures / "LICENSES.md"):
        shutil.copy(path, source)
    for path in (*(here / name for name in SCRIPTS), here / "demo.css", pictures / "index.csv"):
        shutil.copy(path, static)
    clip, images = load(), load_images()
    values = json.dumps(data(clip, images, embed(clip, images)), separators=(",", ":"))
    write_text(static / "data.js", f"const DATA = {values};\n")  # unlike JSON, a script loads without a server
    thumbnails(images).save(static / "thumbnails.webp", quality=60, method=6)
    return PAGES


def data(clip: Clip, images: Images, z: Tensor) -> dict[str, Any]:
    """Return the data of the page as JSON types, with arrays in base64. z: embeddings of `images`, (n, d)."""
    cells = embed_vocabulary(clip, images.vocabulary.with_forms(None))  # without forms, to keep the page small
    assert cells.prototypes is not None and cells.domains is not None
    with (data_folder("miniworld") / "index.csv").open(encoding="utf-8", newline="") as file:
        credits = {row["file"]: f"{row['name']}, {row['source']}, {row['licence']}" for row in csv.DictReader(file)}
    return {
        "classes": images.vocabulary.classes,
        "domains": images.vocabulary.domains,
        "width": clip.width,
        "pictures": {
            "embeddings": _packed(rounded(z), torch.int16),
            "classes": images.classes.tolist(),
            "domains": images.domains.tolist(),
            "credits": [credits["/".join(file.parts[-4:])] for file in images.files],
            "columns": COLUMNS,
        },
        "queries": _packed(embed_classes(clip, images.vocabulary.names), torch.float32),
        "texts": _packed(cells.texts, torch.float32),
        "prototypes": _packed(cells.prototypes, torch.float32),
        "names": _packed(cells.domains, torch.float64),
        "duals": _packed(cells.duals, torch.float64),
        "origin": _packed(cells.domain_origin, torch.float64),
        "faint": MIN_CONTRAST,
        "settings": {name: METHODS[name].defaults for name in SHOWN},
    }


def rounded(z: Tensor) -> Tensor:
    """Scale and round embeddings (n, d) to whole numbers, with 32767 as the largest magnitude of each row."""
    return (32767 * z / z.abs().amax(1, keepdim=True)).round()


def _packed(values: Tensor, dtype: torch.dtype) -> str:
    """Encode the values as little-endian `dtype` in base64."""
    array = values.to("cpu", dtype).numpy()
    return base64.b64encode(array.astype(array.dtype.newbyteorder("<")).tobytes()).decode("ascii")


def thumbnails(images: Images) -> Image.Image:
    """Tile all pictures into one sheet, COLUMNS per row, SIDE pixels each."""
    sheet = Image.new("RGB", (COLUMNS * SIDE, -(-len(images) // COLUMNS) * SIDE), "white")
    for i in range(len(images)):
        picture = images.image(i).resize((SIDE, SIDE), Image.Resampling.LANCZOS)
        sheet.paste(picture, (i % COLUMNS * SIDE, i // COLUMNS * SIDE))
    return sheet
