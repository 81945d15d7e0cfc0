"""What the measuring scripts of this folder share: their arguments, and where results go."""

import argparse
import json
from collections.abc import Callable
from pathlib import Path

from clipnull.datasets.loading import load_images, name_of
from clipnull.files import write_text
from clipnull.images import Images
from clipnull.models import Clip, load
from clipnull.stored import is_stored


def run(about: str, measure: Callable[[str, Clip, Images], dict], section: Callable[[dict], list[str]]) -> None:
    """Measure DATA with `measure(name, clip, images)`, print its section, and write --json."""
    parser = argparse.ArgumentParser(description=about.partition("\n")[0])
    parser.add_argument("data", nargs="?", help="pictures or stored embeddings [the embedded miniworld]")
    parser.add_argument("--name", help="of the pictures, as results show it [that of the folder]")
    parser.add_argument("--json", type=Path, help="for data/results/write.py")
    args = parser.parse_args()
    clip = load(args.data if is_stored(args.data) else "miniclip")
    entry = measure(args.name or name_of(args.data), clip, load_images(args.data))
    if args.json:
        write_text(args.json, json.dumps(entry, indent=1, allow_nan=False) + "\n")
    print("\n\n".join(section(entry)))
