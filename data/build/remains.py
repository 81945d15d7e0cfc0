"""Write into data/results/remains what lesson 08 shows: python remains.py [--pacs PACS/test] [--file FILE.npz].

Of every retrained model on miniworld and PACS: what is found of what it never met, beside the unedited model. Of a file
of embeddings, such as those of OpenAI's ViT-B/32: what is found of a class after an edit, a mean over all classes. PACS
comes from --pacs or the variable CLIPNULL_DATA, the file from --file or CLIPNULL_EMBEDDINGS.
"""

import argparse
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import torch.nn.functional as F

import clipnull as cn
from clipnull.course import remains
from clipnull.files import write_text
from clipnull.images import Images
from clipnull.models import EMBEDDED, RETRAINED
from clipnull.prompts import embed_classes, embed_domains

FOLDER = Path(__file__).resolve().parent.parent / "results" / "remains"
EDITS = ("nullspace", "oblique", "neuron", "gated")


def retrained(data: str, images: Images) -> Iterator[dict[str, Any]]:
    """Two rows for each class or domain of RETRAINED that `images` show: the unedited model, the retrained one."""
    classes, domains = images.vocabulary.classes, images.vocabulary.domains
    kin, clips = remains.relatives(images), {"unedited": cn.load(EMBEDDED, device="cpu")}
    known = {"unedited": remains.opened(clips["unedited"], images)}
    for model in RETRAINED:
        what = model.removeprefix(f"{EMBEDDED}-no-")
        if what not in (*classes, *domains):
            continue
        known["retrained"] = remains.opened(cn.load(model, device="cpu"), images)
        names, labels = (classes, images.classes) if what in classes else (domains, images.domains)
        embed = embed_classes if what in classes else embed_domains
        for name, one in known.items():
            figures = remains.measure(one, labels, embed(one.clip, names).double(), names.index(what), kin)
            yield {"data": data, "what": what, "model": name} | {k: round(v, 4) for k, v in figures.items()}


def of_file(path: Path) -> list[dict[str, Any]]:
    """Figures of a file of embeddings, unedited and after each of EDITS of a class: means over the classes."""
    clip, images = cn.load(str(path), device="cpu"), cn.load_images(path)
    cells, names = cn.embed_vocabulary(clip, images.vocabulary), images.vocabulary.classes
    unedited, kin = remains.opened(clip, images), remains.relatives(images)
    classifier, rows = embed_classes(clip, images.vocabulary.names).double(), []
    for c, name in enumerate(names):
        mask = cn.Forget([name]).mask(images.vocabulary)
        changed = {method: cn.solve(cells, mask, method).images(unedited.z) for method in EDITS}
        for method, z in {"unedited": unedited.z, **changed}.items():
            model = remains.Model(clip, F.normalize(z, dim=-1))
            rows.append({"model": method, **remains.measure(model, images.classes, classifier, c, kin)})
    return pd.DataFrame(rows).groupby("model", sort=False).mean().round(4).reset_index().to_dict("records")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    data, embeddings = (os.environ.get(f"CLIPNULL_{name}", "") for name in ("DATA", "EMBEDDINGS"))
    parser.add_argument("--pacs", default=data and f"{data}/test")
    parser.add_argument("--file", default=embeddings and f"{embeddings}/vitb32_style.npz")
    args = parser.parse_args()
    FOLDER.mkdir(parents=True, exist_ok=True)
    written: dict[str, list[dict[str, Any]]] = {}
    if args.file:
        written["openai-vit-b-32"] = of_file(Path(args.file))
    if args.pacs:
        sets = {"miniworld": cn.load_images(), "PACS": cn.load_images(args.pacs)}
        written["retrained"] = [row for name, images in sets.items() for row in retrained(name, images)]
    for name, rows in written.items():
        lines = ",\n  ".join(json.dumps(row) for row in rows)
        print(write_text(FOLDER / f"{name}.json", f'{{"rows": [\n  {lines}\n]}}\n'))


if __name__ == "__main__":
    main()
