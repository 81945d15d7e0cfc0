"""Damaged pictures: nothing but a warning or a ValueError that names the file, and nothing accepted that is no number.

500 in `make test`, 10,000 in the nightly run. Run with -s, it prints what was tried, what came of it, and the slowest.
"""

import io
import re
import struct
import time
import warnings
import zlib
from collections import Counter
from contextlib import suppress

import numpy as np
import pytest
import torch
from helpers import VIT, examples
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

import clipnull as cn
from clipnull.images import FORMATS, LONGEST, SUFFIXES, why_unreadable
from clipnull.images import read_picture as read

SIZE = 24, 20


def seeds() -> dict[str, bytes]:
    """Small pictures of every format that is read, in the modes it has, by suffix and mode."""
    values = np.add.outer(np.arange(SIZE[1]) * 9, np.arange(SIZE[0]) * 3).astype(np.uint8)
    colour = Image.fromarray(np.stack([values, values[::-1], values[:, ::-1], values], axis=-1))  # RGBA
    colour.paste((255, 0, 0, 90), (3, 3, 9, 9))
    wide = Image.fromarray(values.astype("<u2") * 257)
    exif = Image.Exif()
    exif[0x0112], exif[0x010F] = 6, "a camera"
    frames = [colour.rotate(90 * i).convert("P") for i in range(3)]
    made = [
        *((".png", colour.convert(mode), {}) for mode in ("1", "L", "LA", "P", "RGB", "RGBA")),
        (".png", wide, {}),
        (".png", colour.convert("P"), {"transparency": 3, "exif": exif}),
        *((".jpg", colour.convert(mode), {"exif": exif}) for mode in ("L", "RGB", "CMYK")),
        (".jpeg", colour.convert("RGB"), {"progressive": True}),
        (".webp", colour, {"exif": exif}),
        (".webp", colour.convert("RGB"), {"lossless": True}),
        (".webp", colour, {"save_all": True, "append_images": frames[1:]}),
        (".gif", frames[0], {"transparency": 3}),
        (".gif", frames[0], {"save_all": True, "append_images": frames[1:]}),
        *((".bmp", colour.convert(mode), {}) for mode in ("1", "P", "RGB", "RGBA")),
        *((".tif", colour.convert(mode), {}) for mode in ("1", "LA", "P", "RGB", "CMYK")),
        *((".tif", colour.convert("RGB"), {"compression": kind}) for kind in ("tiff_lzw", "jpeg", "packbits")),
        (".tiff", wide, {"exif": exif}),
        (".tif", Image.fromarray(values / np.float32(255)), {}),
        (".avif", colour, {"exif": exif}),
        (".avif", colour.convert("RGB"), {}),
    ]
    found = {}
    for suffix, picture, options in made:
        if suffix in SUFFIXES:
            stream = io.BytesIO()
            picture.save(stream, Image.registered_extensions()[suffix], **options)
            found[f"{len(found)}{suffix}"] = stream.getvalue()
    return found


Image.init()
SEEDS = seeds()


def with_sums(data: bytes) -> bytes:
    """A PNG with the checksums of its chunks put right, so that what changed is read; anything else as it is."""
    if not data.startswith(b"\x89PNG\r\n\x1a\n"):
        return data
    out, place = bytearray(data), 8
    while place + 12 <= len(out):
        (length,) = struct.unpack_from(">I", out, place)
        end = place + 8 + length
        if end + 4 > len(out):
            break
        struct.pack_into(">I", out, end, zlib.crc32(out[place + 4 : end]))
        place = end + 4
    return bytes(out)


@st.composite
def damaged(draw: st.DrawFn) -> tuple[str, bytes]:
    """A seed's name, and its bytes after one to four changes, many of them in the header."""
    name = draw(st.sampled_from(sorted(SEEDS)))
    data = bytearray(SEEDS[name])
    for _ in range(draw(st.sampled_from([1, 1, 1, 2, 4]))):
        if not data:
            break
        first, last = draw(st.sampled_from([(0, 32), (12, 60), (12, 200), (12, 10**9), (40, 10**9)]))
        place = draw(st.integers(min(first, len(data) - 1), min(last, len(data) - 1)))
        match draw(
            st.sampled_from(["bit", "bit", "number", "number", "cut", "drop", "repeat", "zero", "swap", "splice"])
        ):
            case "bit":
                data[place] ^= 1 << draw(st.integers(0, 7))
            case "number":  # sizes, counts, offsets: the values that readers forget
                form = draw(st.sampled_from([">H", "<H", ">I", "<I"]))
                most = 256 ** struct.calcsize(form) - 1
                value = draw(
                    st.sampled_from([0, 1, 2, 255, 5000, most // 2, most // 2 + 1, most]) | st.integers(0, most)
                )
                data[place : place + struct.calcsize(form)] = struct.pack(form, min(value, most))
            case "cut":
                del data[draw(st.integers(0, len(data) - 1)) :]
            case "drop":
                del data[place : place + draw(st.integers(1, 16))]
            case "repeat":
                data[place:place] = data[place : place + draw(st.integers(1, 64))]
            case "zero":
                n = min(draw(st.integers(1, 64)), len(data) - place)
                data[place : place + n] = bytes(n)
            case "swap":
                other = draw(st.integers(0, len(data) - 1))
                data[place], data[other] = data[other], data[place]
            case "splice":  # the rest of another picture
                other = SEEDS[draw(st.sampled_from(sorted(SEEDS)))]
                data[place:] = other[min(place, len(other)) :]
    return name, with_sums(bytes(data)) if draw(st.booleans()) else bytes(data)


def check(path) -> str:
    """What came of one file; anything but a sound picture or a ValueError with its name fails."""
    refused = why_unreadable(path)
    assert "\n" not in refused and len(refused) <= 300
    try:
        picture = read(path)
    except ValueError as error:
        assert path.name in str(error) and "\n" not in str(error)
        cause = error.__cause__
        return f"{'header' if refused else 'pixels'}: {type(cause).__name__}"
    assert not refused, f"{path.name}: refused by its header, and yet a picture"
    assert picture.mode == "RGB" and min(picture.size) >= 1 and max(picture.size) <= LONGEST * min(picture.size)
    assert len(picture.tobytes()) == 3 * picture.width * picture.height
    return "read"


def test_the_seeds_are_pictures(tmp_path):
    assert {
        read_as
        for name in SEEDS
        for read_as in FORMATS
        if Image.registered_extensions()[f".{name.partition('.')[2]}"] == read_as
    } == set(FORMATS)
    for name, data in SEEDS.items():
        (tmp_path / name).write_bytes(data)
        assert check(tmp_path / name) == "read", name


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::UserWarning:PIL", "ignore::PIL.Image.DecompressionBombWarning")
def test_damaged_pictures_are_read_or_named(tmp_path, small):
    clip, folder, seen, slowest, tried = small(VIT), tmp_path / "pictures", Counter(), (0.0, ""), []
    cells = [folder / domain / name for domain in ("line", "photo") for name in ("cat", "dog")]
    for cell in cells:
        cell.mkdir(parents=True)

    @examples(500)
    @given(damaged())
    def attack(example):
        nonlocal slowest
        name, data = example
        path = cells[len(tried) % 4] / f"{len(tried)}-{name}"
        path.write_bytes(data)
        tried.append(path)
        start = time.perf_counter()
        seen[check(path)] += 1
        slowest = max(slowest, (time.perf_counter() - start, path.name))

    attack()
    for cell in cells:
        Image.new("RGB", (8, 8)).save(cell / "whole.png")
    print(f"\n{len(tried)} pictures; slowest {slowest[0]:.3f} s, {slowest[1]}; {dict(seen.most_common())}")
    assert seen["read"] > 20 and len(seen) > 3, seen

    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        images = cn.load_images(folder)
        z = cn.embed(clip, images)
        matrix = cn.zero_shot(clip, images, features=z)
    ours = [str(w.message) for w in told if "PIL" not in w.filename]
    assert z.isfinite().all(1).sum() == seen["read"] + len(cells)
    assert (z.isfinite().all(1) | z.isnan().all(1)).all() and matrix.isfinite().all()
    counts = [int(n) for message in ours for n in re.findall(r"^(\d+) (?:of \d+ pictures|files)", message)]
    assert sum(counts) == len(tried) - seen["read"] and len(ours) == 2, ours
    assert all(re.search(r"\d+\.(png|jpe?g|webp|gif|bmp|tiff?|avif)'", message) for message in ours)
    with suppress(ValueError):  # and those that are broken stay named, whatever became of the others
        i = int(z.isnan().any(1).nonzero()[0])
        images.image(i)
        pytest.fail("read at last")
    assert torch.equal(cn.embed(clip, images.where(torch.zeros(len(images), dtype=torch.bool))), z[:0])
