"""Render every artwork of index.csv.gz to one array: python render.py PACKAGES OUT [--size 128].

PACKAGES is the folder `fetch.py` filled. OUT/pictures.npy holds (n, size, size, 4) uint8 RGBA, in the order of the
index: cropped to the alpha box, padded by 5 %, transparent around it. If a picture cannot be rendered, OUT/failed.txt
says which and why, and pictures.npy is not written.
"""

import argparse
import csv
import gzip
import io
import json
import struct
import zlib
from concurrent.futures import ProcessPoolExecutor
from functools import cache
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

HERE = Path(__file__).parent
SETS = {"openmoji-color": "openmoji"}  # index source -> iconify set, where they differ


def read_index() -> list[dict]:
    with gzip.open(HERE / "index.csv.gz", "rt", newline="") as f:
        return list(csv.DictReader(f))


def svg(text: str, size: int) -> Image.Image:
    import resvg_py

    try:
        png = bytes(resvg_py.svg_to_bytes(svg_string=text, width=size, height=size, skip_system_fonts=True))
    except Exception:
        import cairosvg

        png = cairosvg.svg2png(bytestring=text.encode(), output_width=size, output_height=size)
    return Image.open(io.BytesIO(png))


@cache
def iconify(packages: str, name: str) -> dict:
    return json.loads((Path(packages) / "npm/x/iconify-json-2.2.535/json" / f"{name}.json").read_text())


def icon(packages: str, set_name: str, icon_name: str, size: int) -> Image.Image:
    data, turn = iconify(packages, set_name), {}
    while icon_name not in data["icons"]:
        turn = {**data["aliases"][icon_name], **turn}
        icon_name = data["aliases"][icon_name]["parent"]
    body = {**{k: data[k] for k in ("width", "height", "left", "top") if k in data}, **data["icons"][icon_name]}
    w, h = body.get("width", 16), body.get("height", 16)
    inner = body["body"].replace("currentColor", "#000")
    if turn.get("hFlip"):
        inner = f'<g transform="translate({w + 2 * body.get("left", 0)} 0) scale(-1 1)">{inner}</g>'
    box = f"{body.get('left', 0)} {body.get('top', 0)} {w} {h}"
    return svg(
        f'<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" '
        f'viewBox="{box}" width="{w}" height="{h}">{inner}</svg>',
        size,
    )


def glyph(font: Path, codepoint: int, size: int) -> Image.Image:
    picture = Image.new("RGBA", (2 * size, 2 * size), (0, 0, 0, 0))
    typeface = ImageFont.truetype(str(font), int(1.2 * size))
    ImageDraw.Draw(picture).text((size, size), chr(codepoint), font=typeface, fill=(0, 0, 0, 255), anchor="mm")
    return picture


def rcc_files(path: Path) -> dict[str, bytes]:
    """The files in a Qt binary resource (.rcc), by their path inside it."""
    blob = path.read_bytes()
    magic, version, tree, data, names = struct.unpack(">4sIIII", blob[:20])
    if magic != b"qres":
        raise ValueError(f"{path}: not a Qt resource file")
    width, out = 22 if version >= 2 else 14, {}

    def name(offset: int) -> str:
        n = struct.unpack_from(">H", blob, names + offset)[0]
        return blob[names + offset + 6 : names + offset + 6 + 2 * n].decode("utf-16-be")

    def walk(node: int, prefix: str) -> None:
        at = tree + node * width
        name_at, flags = struct.unpack_from(">IH", blob, at)
        here = prefix + name(name_at) if node else ""
        if flags & 2:  # a folder
            count, first = struct.unpack_from(">II", blob, at + 6)
            for child in range(first, first + count):
                walk(child, here + "/" if here else "")
        else:
            start = data + struct.unpack_from(">I", blob, at + 10)[0]
            size = struct.unpack_from(">I", blob, start)[0]
            payload = blob[start + 4 : start + 4 + size]
            out[here] = zlib.decompress(payload[4:]) if flags & 1 else payload

    walk(0, "")
    return out


@cache
def gcompris(packages: str) -> dict[str, bytes]:
    files = {}
    for path in sorted((Path(packages) / "deb/x/gcompris-qt-data").rglob("*.rcc")):
        files.update(rcc_files(path))
    return files


def load(packages: str, row: dict, size: int) -> Image.Image:
    origin, root = row["origin"], Path(packages)
    if origin.startswith("gcx/"):
        return Image.open(io.BytesIO(gcompris(packages)[origin.removeprefix("gcx/")]))
    if not origin.startswith(("npm/", "deb/")):
        return icon(packages, SETS.get(row["source"], origin.split(":")[0]), origin.split(":", 1)[1], size)
    if ".ttf:" in origin:
        font, codepoint = origin.rsplit(":", 1)
        return glyph(root / font, int(codepoint), size)
    if origin.endswith(".svg"):
        return svg((root / origin).read_text(), size)
    return Image.open(root / origin)


def normalise(picture: Image.Image, size: int, pad: float = 0.05) -> np.ndarray:
    """Crop to the alpha box and centre on a transparent square of `size` pixels."""
    picture = picture.convert("RGBA")
    box = picture.getchannel("A").point(lambda a: 255 * (a > 8)).getbbox()
    if box is None:
        raise ValueError("empty picture")
    picture = picture.crop(box)
    inner = round(size * (1 - 2 * pad))
    scale = inner / max(picture.size)
    new = tuple(max(1, round(s * scale)) for s in picture.size)
    picture = picture.convert("RGBa").resize(new, Image.Resampling.LANCZOS).convert("RGBA")
    canvas = Image.new("RGBA", (size, size), (0, 0, 0, 0))
    canvas.paste(picture, tuple((size - s) // 2 for s in new))
    return np.asarray(canvas)


def render(job: tuple[str, dict, int]) -> np.ndarray | str:
    packages, row, size = job
    try:
        return normalise(load(packages, row, 2 * size), size)
    except Exception as error:
        return f"{row['i']} {row['origin']}: {type(error).__name__}: {error}"


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("packages")
    parser.add_argument("out", type=Path)
    parser.add_argument("--size", type=int, default=128)
    args = parser.parse_args()
    rows = read_index()
    args.out.mkdir(parents=True, exist_ok=True)
    partial = args.out / "pictures.partial.npy"
    pictures = np.lib.format.open_memmap(partial, "w+", np.uint8, (len(rows), args.size, args.size, 4))
    failed = []
    with ProcessPoolExecutor() as pool:
        jobs = ((args.packages, row, args.size) for row in rows)
        for i, result in enumerate(pool.map(render, jobs, chunksize=64)):
            if isinstance(result, str):
                failed.append(result)
            else:
                pictures[i] = result
            if i % 5000 == 0:
                print(f"{i}/{len(rows)} rendered, {len(failed)} failed", flush=True)
    pictures.flush()
    (args.out / "failed.txt").unlink(missing_ok=True)
    if failed:
        partial.unlink()
        (args.out / "failed.txt").write_text("\n".join(failed) + "\n")
        raise SystemExit(
            f"{len(failed)} of {len(rows)} pictures failed ({args.out / 'failed.txt'}), first: {failed[0]}"
        )
    partial.rename(args.out / "pictures.npy")
    print(f"{len(rows)} pictures in {args.out}")
