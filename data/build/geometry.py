"""Write the figures of a file of embeddings into data/results/geometry: python geometry.py FILE.npz --source TEXT.

TEXT says where the embeddings come from. Notebooks 01 and 03 set these figures beside those of the loaded model, see
`clipnull.course.geometry`; tests hold them against the file where the variable CLIPNULL_EMBEDDINGS names its folder.
"""

import argparse
import json
from pathlib import Path

import clipnull as cn
from clipnull.course import geometry
from clipnull.files import write_text

FOLDER = Path(__file__).resolve().parent.parent / "results" / "geometry"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("file", type=Path)
    parser.add_argument("--source", required=True)
    parser.add_argument("--name", default="openai-vit-b-32")
    parser.add_argument("--folder", type=Path, default=FOLDER)
    args = parser.parse_args()
    clip, images = cn.load(str(args.file), device="cpu"), cn.load_images(args.file)
    figures = {name: round(value, 4) for name, value in geometry.measure(clip, images, cn.embed(clip, images)).items()}
    about = {"model": clip.name, "pretrained": clip.pretrained, "file": args.file.name, "source": args.source}
    entry = about | {"figures": figures}
    args.folder.mkdir(parents=True, exist_ok=True)
    print(write_text(args.folder / f"{args.name}.json", json.dumps(entry, indent=1, ensure_ascii=False) + "\n"))


if __name__ == "__main__":
    main()
