"""Command-line arguments and output shared by the measuring scripts in this folder."""

import argparse
import json
from collections.abc import Callable
from pathlib import Path

from clipnull.datasets.loading import load_images, name_of
from clipnull.files import write_text
from clipnull.images import Images
from clipnull.models import Clip, load
from clipnull.stored import is_stored


def parser(about: str) -> argparse.ArgumentParser:
    arguments = argparse.ArgumentParser(description=about.partition("\n")[0])
    arguments.add_argument("--json", type=Path, metavar="FILE", help="write the results for data/results/write.py")
    return arguments


def finish(entry: dict, text: str, path: Path | None) -> None:
    """Write `entry` to `path`, the file of --json, and print `text`."""
    if path:
        write_text(path, json.dumps(entry, indent=1, allow_nan=False) + "\n")
    print(text)


def run(about: str, measure: Callable[[str, Clip, Images], dict], section: Callable[[dict], list[str]]) -> None:
    """Measure DATA with `measure(name, clip, images)`, print its section and write the file of --json."""
    arguments = parser(about)
    arguments.add_argument("data", nargs="?", help="pictures or stored embeddings [the embedded miniworld]")
    arguments.add_argument("--name", help="title of the pictures in the results [name of the folder]")
    args = arguments.parse_args()
    clip = load(args.data if is_stored(args.data) else "miniclip")
    entry = measure(args.name or name_of(args.data), clip, load_images(args.data))
    finish(entry, "\n\n".join(section(entry)), args.json)
