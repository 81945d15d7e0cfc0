"""One picture from a file that nobody vouches for; and pictures with their labels."""

import builtins
import io
import os
import re
import struct
import warnings
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers import VIT, examples, mangled, png_header
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

import clipnull as cn
from clipnull.images import FORMATS, LONGEST, SUFFIXES, read_picture, why_unreadable

UPRIGHT = np.add.outer(5 * np.arange(24), 8 * np.arange(16)).astype(np.uint8)


def grey(path: Path) -> np.ndarray:
    picture = read_picture(path)
    assert picture.mode == "RGB"
    return np.asarray(picture)[..., 0]


# --- what a viewer shows


@pytest.mark.parametrize(("kind", "dtype"), [("png", "<u2"), ("tif", ">u2")])
def test_grey_of_16_bits_is_the_same_picture_in_8(kind, dtype, tmp_path):
    Image.fromarray(UPRIGHT.astype(dtype) * 257).save(tmp_path / f"a.{kind}")
    assert np.array_equal(grey(tmp_path / f"a.{kind}"), UPRIGHT)
    for mode in ("f4", "i4"):  # of no known scale
        Image.fromarray(np.full((4, 4), 1, mode)).save(tmp_path / "b.tif")
        with pytest.raises(ValueError, match=r"b\.tif.*grey values in mode [FI]; expected 8 or 16 bits"):
            read_picture(tmp_path / "b.tif")


@pytest.mark.parametrize("suffix", sorted({".png", ".jpg", ".webp", ".tif", ".avif"} & SUFFIXES))
def test_pictures_are_upright(suffix, tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6  # what a camera held upright stores
    path, options = tmp_path / f"a{suffix}", {"lossless": True} if suffix == ".webp" else {}
    Image.fromarray(np.rot90(UPRIGHT).copy()).convert("RGB").save(path, exif=exif, **options)
    assert np.abs(grey(path).astype(int) - UPRIGHT).max() <= (12 if suffix in (".jpg", ".avif") else 0)


@pytest.mark.filterwarnings("ignore:Corrupt EXIF data")
def test_damaged_exif_says_nothing_about_the_pixels(tmp_path):
    Image.fromarray(UPRIGHT).save(tmp_path / "a.png", exif=b"Exif\0\0MM\0*\0\0\0\x08\xff\xff" + b"x" * 40)
    assert np.array_equal(grey(tmp_path / "a.png"), UPRIGHT)


@pytest.mark.parametrize("suffix", sorted({".png", ".webp", ".gif", ".tif", ".avif"} & SUFFIXES))
def test_what_is_transparent_is_white(suffix, tmp_path):
    values = np.zeros((8, 8, 4), np.uint8)  # left transparent over red, right opaque blue
    values[:, :4], values[:, 4:] = (255, 0, 0, 0), (0, 0, 255, 255)
    path = tmp_path / f"a{suffix}"
    Image.fromarray(values).save(path, **({"lossless": True} if suffix == ".webp" else {}))
    picture = read_picture(path)
    assert min(picture.getpixel((1, 4))) >= 250
    assert np.abs(np.subtract(picture.getpixel((6, 4)), (0, 0, 255))).max() <= 5


def test_a_colour_that_stands_for_transparent_is_white(tmp_path):
    for mode, transparent in (("L", 0), ("RGB", (0, 0, 0)), ("P", bytes(256))):
        Image.new("L", (8, 8), 0).convert(mode).save(tmp_path / "a.png", transparency=transparent)
        assert (grey(tmp_path / "a.png") == 255).all()
    Image.new("RGBA", (4, 4), (0, 0, 0, 128)).save(tmp_path / "b.png")
    assert set(grey(tmp_path / "b.png").flat) == {127}


# --- what is refused


@pytest.mark.parametrize(
    ("size", "reason"),
    [
        ((50_000, 50_000), "could be decompression bomb|exceeds limit"),
        ((1, LONGEST + 1), f"1 x {LONGEST + 1} pixels; expected a ratio of at most {LONGEST} to 1"),
        ((1_000_000, 1), "1000000 x 1 pixels"),  # scaled to a short side of 224, it would fill memory
    ],
)
@pytest.mark.promise("What is damaged is refused")
def test_a_bomb_is_refused_by_its_header(size, reason, tmp_path, monkeypatch):
    path = tmp_path / "bomb.png"
    path.write_bytes(png_header(*size))
    monkeypatch.setattr(Image.Image, "load", lambda _: pytest.fail("decoded"))
    with pytest.raises(ValueError, match=rf"bomb\.png' cannot be read \(.*({reason})"):
        read_picture(path)
    assert why_unreadable(path)


@pytest.mark.promise("No path is followed out of a folder")
def test_what_is_no_regular_file_is_never_opened(tmp_path, monkeypatch):
    pipe, folder, first = tmp_path / "pipe.png", tmp_path / "folder.png", builtins.open
    os.mkfifo(pipe), folder.mkdir()

    def guard(path, *rest, **options):
        assert str(path) not in (str(pipe), str(folder)), "opened, it would wait for ever"
        return first(path, *rest, **options)

    monkeypatch.setattr(builtins, "open", guard)
    for path in (pipe, folder):
        assert why_unreadable(path) == "not a regular file"
        with pytest.raises(ValueError, match="not a regular file"):
            read_picture(path)


def test_other_formats_are_not_read_whatever_their_name(tmp_path):
    """Pillow would hand EPS to Ghostscript, a program that runs what is in it."""
    with open(tmp_path / "a.png", "wb") as file:
        Image.new("RGB", (16, 16)).save(file, "EPS")
    assert why_unreadable(tmp_path / "a.png") == "not an image"
    with pytest.raises(ValueError, match="not an image"):
        read_picture(tmp_path / "a.png")
    assert why_unreadable(tmp_path / "gone.png") == "No such file or directory"
    with pytest.raises(FileNotFoundError, match="gone"):
        read_picture(tmp_path / "gone.png")


# --- damaged pictures: 100 by day, 2,000 at night. With -s, the test prints what became of them


def seeds() -> dict[str, bytes]:
    """Small pictures of every format that is read, in the modes it has, by number and suffix."""
    values = np.add.outer(np.arange(20) * 9, np.arange(24) * 3).astype(np.uint8)
    colour = Image.fromarray(np.stack([values, values[::-1], values[:, ::-1], values], axis=-1))  # RGBA
    exif = Image.Exif()
    exif[0x0112], exif[0x010F] = 6, "a camera"
    frames = [colour.rotate(90 * i).convert("P") for i in range(3)]
    made = [
        *((".png", colour.convert(mode), {}) for mode in ("1", "LA", "P", "RGB", "RGBA")),
        *((suffix, Image.fromarray(values.astype("<u2") * 257), {}) for suffix in (".png", ".tiff")),
        (".png", colour.convert("P"), {"transparency": 3, "exif": exif}),
        *((".jpg", colour.convert(mode), {"exif": exif}) for mode in ("L", "RGB", "CMYK")),
        (".jpeg", colour.convert("RGB"), {"progressive": True}),
        (".webp", colour, {"exif": exif}),
        (".gif", frames[0], {"save_all": True, "append_images": frames[1:], "transparency": 3}),
        *((".bmp", colour.convert(mode), {}) for mode in ("1", "P", "RGBA")),
        *((".tif", colour.convert(mode), {}) for mode in ("1", "P", "CMYK")),
        *((".tif", colour.convert("RGB"), {"compression": kind}) for kind in ("tiff_lzw", "jpeg", "packbits")),
        (".avif", colour, {"exif": exif}),
    ]
    by_name = {}
    for suffix, picture, options in made:
        if suffix in SUFFIXES:
            stream = io.BytesIO()
            picture.save(stream, Image.registered_extensions()[suffix], **options)
            by_name[f"{len(by_name)}{suffix}"] = stream.getvalue()
    return by_name


Image.init()
SEEDS = seeds()


@st.composite
def damaged(draw: st.DrawFn) -> tuple[str, bytes]:
    """A seed's name, and its bytes after some damage: anywhere, in a number of its head, or the rest of another one."""
    name = draw(st.sampled_from(sorted(SEEDS)))
    data, place = bytearray(SEEDS[name]), draw(st.integers(0, 200))
    kind = draw(st.sampled_from(["bytes", ">H", "<H", ">I", "<I", "splice"]))
    if kind == "bytes":
        data = draw(mangled(bytes(data)))
    elif kind == "splice":
        data[place:] = SEEDS[draw(st.sampled_from(sorted(SEEDS)))][place:]
    else:  # sizes, counts, offsets: the values that readers forget
        length, most = struct.calcsize(kind), 256 ** struct.calcsize(kind) - 1
        value = draw(st.sampled_from([0, 1, 2, 255, most // 2, most]) | st.integers(0, most))
        data[place : place + length] = struct.pack(kind, value)
    return name, bytes(data)


def outcome(path) -> str:
    """What became of one file; anything but a sound picture or a ValueError with its name fails."""
    refused = why_unreadable(path)
    assert "\n" not in refused and len(refused) <= 300
    try:
        picture = read_picture(path)
    except ValueError as error:
        assert path.name in str(error) and "\n" not in str(error)
        return f"{'header' if refused else 'pixels'}: {type(error.__cause__).__name__}"
    assert not refused, f"{path.name}: refused by its header, and yet a picture"
    assert picture.mode == "RGB" and min(picture.size) >= 1 and max(picture.size) <= LONGEST * min(picture.size)
    assert len(picture.tobytes()) == 3 * picture.width * picture.height
    return "read"


def test_every_format_is_read(tmp_path):
    assert {Image.registered_extensions()[f".{name.partition('.')[2]}"] for name in SEEDS} == set(FORMATS)
    for name, data in SEEDS.items():
        (tmp_path / name).write_bytes(data)
        assert outcome(tmp_path / name) == "read", name


@pytest.mark.filterwarnings("ignore::UserWarning:PIL", "ignore::PIL.Image.DecompressionBombWarning")
@pytest.mark.promise("What is damaged is refused")
def test_damaged_pictures_are_read_or_named(tmp_path, small):
    clip, folder, outcomes, paths = small(VIT), tmp_path / "pictures", Counter(), []
    cells = [folder / domain / name for domain in ("line", "photo") for name in ("cat", "dog")]
    for cell in cells:
        cell.mkdir(parents=True)
        Image.new("RGB", (8, 8)).save(cell / "whole.png")

    @examples(100)
    @given(damaged())
    def attack(example):
        name, data = example
        path = cells[len(paths) % 4] / f"{len(paths)}-{name}"
        path.write_bytes(data)
        paths.append(path)
        outcomes[outcome(path)] += 1

    attack()
    print(f"\n{len(paths)} pictures: {dict(outcomes.most_common())}")
    assert outcomes["read"] > 5 and len(outcomes) > 3, outcomes
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        images = cn.load_images(folder)
        z = cn.embed(clip, images)
    ours = [message for w in caught if re.match(r"\d+ (files|of)", message := str(w.message))]
    assert z.isfinite().all(1).sum() == outcomes["read"] + len(cells)
    assert (z.isfinite().all(1) | z.isnan().all(1)).all() and cn.zero_shot(clip, images, features=z).isfinite().all()
    assert sum(int(message.split()[0]) for message in ours) == len(paths) - outcomes["read"], ours


# --- labelled pictures


def test_select_and_where_refuse_what_they_do_not_know(images):
    with pytest.raises(ValueError, match="classes: 'dgo'"):
        images.select(classes=["dgo"])
    with pytest.raises(ValueError, match=r"mask: \(2,\) torch.int64; expected bool"):
        images.where(torch.tensor([0, 1]))


def test_halves_cut_every_cell(images):
    first = images.halves(3)
    counts, half, rest = images.counts(), images.where(first).counts(), images.where(~first).counts()
    assert torch.equal(half, counts // 2) and torch.equal(half + rest, counts)
    assert torch.equal(first, images.halves(3)) and not torch.equal(first, images.halves(4))
