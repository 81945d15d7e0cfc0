"""One picture from a file that nobody vouches for."""

import builtins
import io
import os
from pathlib import Path

import numpy as np
import pytest
from helpers import png_header
from PIL import Image

from clipnull.images import FORMATS, KINDS, LONGEST, SUFFIXES, why_unreadable
from clipnull.images import read_picture as read

UPRIGHT = np.arange(24 * 16, dtype=np.uint8).reshape(24, 16) % 250
TURNED = {  # what a camera stores under each orientation, so that a viewer shows UPRIGHT
    1: lambda a: a,
    2: lambda a: a[:, ::-1],
    3: lambda a: a[::-1, ::-1],
    4: lambda a: a[::-1],
    5: lambda a: a.T,
    6: lambda a: np.rot90(a, 1),
    7: lambda a: a[::-1, ::-1].T,
    8: lambda a: np.rot90(a, -1),
}
needs_avif = pytest.mark.skipif("AVIF" not in FORMATS, reason="this Pillow reads no AVIF")


def grey(path: Path) -> np.ndarray:
    picture = read(path)
    assert picture.mode == "RGB"
    return np.asarray(picture)[..., 0]


# --- what a viewer shows


@pytest.mark.parametrize(
    ("kind", "values"),
    [
        ("png", UPRIGHT.astype("<u2") * 257),
        ("png", UPRIGHT.astype("<u2") * 256),
        ("tif", UPRIGHT.astype("<u2") * 257),
        ("tif", UPRIGHT.astype(">u2") * 257),
        ("tif", UPRIGHT.astype("i4") * 257),
        ("tif", UPRIGHT.astype("f4") / 255),
        ("tif", UPRIGHT.astype("f4")),
        ("tif", UPRIGHT.astype("f4") * 257),
    ],
)
def test_grey_of_more_than_8_bits_is_the_same_picture(kind, values, tmp_path):
    Image.fromarray(values).save(tmp_path / f"a.{kind}")
    assert np.array_equal(grey(tmp_path / f"a.{kind}"), UPRIGHT)


@pytest.mark.parametrize(
    "values", [np.full((4, 4), 1e6, "f4"), np.full((4, 4), np.nan, "f4"), np.full((4, 4), 1 << 20)]
)
def test_grey_of_no_known_scale_is_refused(values, tmp_path):
    Image.fromarray(values.astype("i4") if values.dtype == int else values).save(tmp_path / "a.tif")
    with pytest.raises(ValueError, match=r"a\.tif.*grey values up to .*; expected finite ones of at most 65535"):
        read(tmp_path / "a.tif")


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("low", [-1, -3e38])
def test_grey_below_zero_is_black(low, tmp_path):
    values = np.full((4, 4), low, "f4")
    values[2:] = 255
    Image.fromarray(values).save(tmp_path / "a.tif")
    assert grey(tmp_path / "a.tif")[:, 0].tolist() == [0, 0, 255, 255]


@pytest.mark.parametrize("orientation", TURNED)
@pytest.mark.parametrize("suffix", [".png", ".webp", ".tif", ".jpg", ".avif"])
def test_pictures_are_upright(suffix, orientation, tmp_path):
    if suffix not in SUFFIXES:
        pytest.skip("this Pillow does not read it")
    exif = Image.Exif()
    exif[0x0112] = orientation
    smooth = np.add.outer(5 * np.arange(24), 8 * np.arange(16)).astype(np.uint8)
    path, options = tmp_path / f"a{suffix}", {"lossless": True} if suffix == ".webp" else {}
    Image.fromarray(np.ascontiguousarray(TURNED[orientation](smooth))).convert("RGB").save(path, exif=exif, **options)
    found = grey(path)
    assert found.shape == smooth.shape and np.abs(found.astype(int) - smooth).max() <= 12


@pytest.mark.filterwarnings("ignore:Corrupt EXIF data")
@pytest.mark.parametrize(
    "exif", [b"Exif\0\0", b"Exif\0\0II*\0\xff\xff\xff\xff", b"Exif\0\0MM\0*\0\0\0\x08\xff\xff" + b"x" * 40]
)
def test_damaged_exif_says_nothing_about_the_pixels(exif, tmp_path):
    Image.fromarray(UPRIGHT).save(tmp_path / "a.png", exif=exif)
    assert np.array_equal(grey(tmp_path / "a.png"), UPRIGHT)


def see_through() -> Image.Image:
    """Left transparent over red, right opaque blue."""
    values = np.zeros((8, 8, 4), np.uint8)
    values[:, :4], values[:, 4:] = (255, 0, 0, 0), (0, 0, 255, 255)
    return Image.fromarray(values)


@pytest.mark.parametrize("suffix", [".png", ".webp", ".gif", ".tif", ".avif"])
def test_what_is_transparent_is_white(suffix, tmp_path):
    if suffix not in SUFFIXES:
        pytest.skip("this Pillow does not read it")
    see_through().save(tmp_path / f"a{suffix}", **({"lossless": True} if suffix == ".webp" else {}))
    picture = read(tmp_path / f"a{suffix}")
    assert min(picture.getpixel((1, 4))) >= 250
    blue = picture.getpixel((6, 4))
    assert max(blue[:2]) <= 5 and blue[2] >= 250


@pytest.mark.parametrize(
    ("mode", "key"), [("1", 0), ("L", 0), ("RGB", (0, 0, 0)), ("P", 0), ("P", bytes(256)), ("LA", None), ("I;16", 0)]
)
def test_a_colour_that_stands_for_transparent_is_white(mode, key, tmp_path):
    black = Image.fromarray(np.zeros((8, 8), "<u2")) if mode == "I;16" else Image.new("L", (8, 8), 0).convert(mode)
    if mode == "LA":
        black.putalpha(0)
    black.save(tmp_path / "a.png", **({} if key is None else {"transparency": key}))
    assert (grey(tmp_path / "a.png") == 255).all()


def test_half_transparent_is_half_white(tmp_path):
    Image.new("RGBA", (4, 4), (0, 0, 0, 128)).save(tmp_path / "a.png")
    assert set(grey(tmp_path / "a.png").flat) == {127}


@pytest.mark.parametrize("mode", ["RGB", "RGBA"])
def test_opaque_pixels_are_what_they_were(mode, tmp_path):
    values = np.random.default_rng(0).integers(0, 256, (64, 64, len(mode)), dtype=np.uint8)
    values[..., 3:] = 255
    Image.fromarray(values).save(tmp_path / "a.png")
    assert np.array_equal(np.asarray(read(tmp_path / "a.png")), values[..., :3])


@pytest.mark.parametrize("mode", ["1", "L", "P", "CMYK"])
def test_other_modes_are_read(mode, tmp_path):
    path = tmp_path / ("a.jpg" if mode == "CMYK" else "a.png")
    Image.new("L", (8, 8), 255).convert("RGB").convert(mode).save(path)
    assert read(path).mode == "RGB" and grey(path).min() >= 250


# --- what is refused


@pytest.mark.parametrize(
    ("size", "reason"),
    [
        ((50_000, 50_000), "could be decompression bomb|exceeds limit"),
        ((1, LONGEST + 1), f"1 x {LONGEST + 1} pixels; expected the long side to be at most {LONGEST} times"),
        ((1_000_000, 1), "1000000 x 1 pixels"),  # scaled to a short side of 224, it would fill memory
    ],
)
@pytest.mark.promise("What is damaged is refused")
def test_a_bomb_is_refused_by_its_header(size, reason, tmp_path, monkeypatch):
    path = tmp_path / "bomb.png"
    path.write_bytes(png_header(*size))
    monkeypatch.setattr(Image.Image, "load", lambda _: pytest.fail("decoded"))
    with pytest.raises(ValueError, match=rf"bomb\.png' cannot be read \(.*({reason})"):
        read(path)
    assert why_unreadable(path)


def test_only_the_header_is_read_until_a_picture_is_used(tmp_path, monkeypatch):
    path = tmp_path / "a.png"
    Image.fromarray(UPRIGHT).save(path)
    path.write_bytes(path.read_bytes()[:60])
    monkeypatch.setattr("PIL.ImageFile.ImageFile.load", lambda _: pytest.fail("decoded"))
    assert why_unreadable(path) == ""
    monkeypatch.undo()
    with pytest.raises(ValueError, match=r"file: '.*a\.png' cannot be read \(.*\); expected a picture in one of JPEG,"):
        read(path)


@needs_avif
def test_a_damaged_avif_is_named(tmp_path):
    buffer = io.BytesIO()
    Image.effect_noise((64, 64), 80).convert("RGB").save(buffer, "AVIF")
    whole, refused = buffer.getvalue(), 0
    for place in range(0, len(whole), 25):
        path = tmp_path / f"{place}.avif"
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 0x10]) + whole[place + 1 :])
        try:
            assert read(path).mode == "RGB"  # a changed bit may be one that only changes colours
        except ValueError as error:
            refused += 1
            assert path.name in str(error)
    assert refused > 2


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no named pipes here")
@pytest.mark.promise("No path is followed out of a folder")
def test_what_is_no_regular_file_is_never_opened(tmp_path, monkeypatch):
    pipe, folder, opened = tmp_path / "pipe.png", tmp_path / "folder.png", builtins.open
    os.mkfifo(pipe), folder.mkdir()

    def guard(path, *rest, **options):
        assert str(path) not in (str(pipe), str(folder)), "opened, it would wait for ever"
        return opened(path, *rest, **options)

    monkeypatch.setattr(builtins, "open", guard)
    for path in (pipe, folder):
        assert why_unreadable(path) == "not a regular file"
        with pytest.raises(ValueError, match=r"cannot be read \(not a regular file\)"):
            read(path)


@pytest.mark.parametrize("kind", ["EPS", "PDF", "PPM", "ICO", "PCX"])
def test_other_formats_are_not_read_whatever_their_name(kind, tmp_path):
    """Pillow would hand EPS to Ghostscript, a program that runs what is in it."""
    with open(tmp_path / "a.png", "wb") as file:
        Image.new("RGB", (16, 16)).save(file, kind)
    assert why_unreadable(tmp_path / "a.png") == "not an image"
    with pytest.raises(ValueError, match="not an image"):
        read(tmp_path / "a.png")


def test_a_file_that_is_gone_is_an_error_of_the_system(tmp_path):
    with pytest.raises(FileNotFoundError, match="gone"):
        read(tmp_path / "gone.png")
    assert why_unreadable(tmp_path / "gone.png") == "No such file or directory"


def test_the_formats_and_their_suffixes():
    assert set(FORMATS) <= set(KINDS) and {".jpg", ".jpeg", ".png", ".bmp", ".gif", ".tif"} <= SUFFIXES
