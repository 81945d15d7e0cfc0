"""Data sets: folders of one's own, published layouts in small generated trees, tables, archives; and miniworld."""

import csv
import errno
import gzip
import io
import json
import os
import re
import tarfile
import unicodedata
import warnings
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers import examples
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, ImageFile

import clipnull as cn
from clipnull.commands import cli
from clipnull.datasets import webdataset
from clipnull.datasets.layouts import BESIDE, SYSTEM, UNNAMED, VLCS, class_names, in_test
from clipnull.datasets.loading import find_dataset, parse_place
from clipnull.datasets.webdataset import unpack
from clipnull.files import data_folder
from clipnull.images import Images


def picture(path, colour=0):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (8, 8), (colour % 256, 99, 7)).save(path)


def tree(root, *parts, n=3, suffix=".jpg"):
    """`n` pictures in each folder root/<one of parts[0]>/<one of parts[1]>/..."""
    folders = [root]
    for names in parts:
        folders = [folder / name for folder in folders for name in names]
    for folder in folders:
        for i in range(n):
            picture(folder / f"{i:04}{suffix}", i)
    return root


def small(folder):
    """A picture of a dog, and one of a cat in another domain."""
    picture(folder / "photo" / "dog" / "0.png")
    picture(folder / "line" / "cat" / "0.png")
    return folder


def files_in(images, folder):
    return {file.relative_to(folder).as_posix() for file in images.files}


SMALL = {"photo/dog/0.png", "line/cat/0.png"}
PACS = (("art_painting", "cartoon", "photo", "sketch"), ("dog", "elephant", "giraffe"))
OFFICE = (("Art", "Clipart", "Product", "Real World"), ("Alarm_Clock", "Backpack", "TV", "Flipflops"))
NET = (("clipart", "infograph", "painting", "quickdraw", "real", "sketch"), ("aircraft_carrier", "The_Eiffel_Tower"))
SETS = ("CALTECH", "LABELME", "PASCAL", "SUN")


# --- folders of one's own, from wherever they come


def test_a_folder_of_ones_own_is_read(tmp_path):
    tree(tmp_path, ("photo", "line"), ("dog",))
    tree(tmp_path, ("photo",), ("cat",), n=1)
    images = cn.load_images(tmp_path)
    assert images.vocabulary == cn.Vocabulary(("cat", "dog"), ("line", "photo"))
    assert images.counts().tolist() == [[0, 1], [3, 3]]  # a cell may be missing
    assert [f.parent.name for f in images.files] == [images.vocabulary.classes[c] for c in images.classes]
    assert len(images.select(classes=["dog"], domains=["line"])) == 3


def test_pictures_are_decoded_whenever_they_are_used_and_not_before(tmp_path, monkeypatch):
    tree(tmp_path, ("photo", "line"), ("dog", "cat"), n=1)
    with monkeypatch.context() as patch:
        patch.setattr(ImageFile.ImageFile, "load", lambda _: pytest.fail("decoded"))
        images = cn.load_images(tmp_path)
    for colour in ((255, 255, 255), (0, 0, 0)):
        Image.new("RGB", (8, 8), colour).save(images.files[0])
        assert images.image(0).getpixel((0, 0)) == colour


@pytest.mark.filterwarnings("error")
def test_what_a_file_manager_or_git_leaves_behind_is_no_class(tmp_path):
    small(tmp_path)
    for folder in (".git/dog", "photo/.ipynb_checkpoints", "__MACOSX/dog", "$RECYCLE.BIN", "lost+found/x"):
        picture(tmp_path / folder / "0.png")
    for name in ("notes.txt", "photo/dog/._0.png", "photo/dog/.DS_Store", "photo/dog/Thumbs.db"):
        (tmp_path / name).write_bytes(b"no picture")
    assert files_in(cn.load_images(tmp_path), tmp_path) == SMALL
    assert set(find_dataset(tmp_path).left_out.values()) == {SYSTEM, BESIDE}


def test_what_is_not_used_is_reported_with_its_reason(tmp_path, monkeypatch):
    root = tree(tmp_path, *PACS, n=1)
    for path in ("closed/x/0.png", "photo/dog/folder.png/0.png", "photo/overview.png", "Raw images/dog/0.png"):
        picture(root / path)
    os.mkfifo(root / "photo" / "dog" / "pipe.png")
    for name in ("a.heic", "b", "c.png"):
        (root / "photo" / "dog" / name).write_bytes(b"")
    scan = os.scandir

    def refuse(path):
        if Path(path).name == "closed":
            raise PermissionError(13, "Permission denied", str(path))
        return scan(path)

    monkeypatch.setattr(os, "scandir", refuse)
    with pytest.warns(UserWarning, match=r"8 files or folders are left out, 12 pictures are used: 'closed' .Permiss"):
        cn.load_images(root)
    assert find_dataset(root).left_out == {
        "closed": "Permission denied",
        "Raw images/dog/0.png": "not in a domain of pacs",
        "photo/dog/a.heic": ".heic is not read as a picture",
        "photo/dog/b": "a file without an ending is not read as a picture",
        "photo/dog/c.png": "not an image",
        "photo/dog/folder.png/0.png": "a picture at another depth",
        "photo/dog/pipe.png": "not a regular file",
        "photo/overview.png": "a picture at another depth",
    }


@pytest.mark.promise("No path is followed out of a folder")
def test_no_link_is_followed_out_of_the_folder(tmp_path):
    secret, folder = small(tmp_path / "secret"), small(tmp_path / "mine")
    (folder / "stolen").symlink_to(secret / "photo", target_is_directory=True)
    (folder / "line" / "bird").symlink_to(secret / "line" / "cat", target_is_directory=True)
    (folder / "line" / "cat" / "b.png").symlink_to(Path("..") / ".." / ".." / "secret" / "photo" / "dog" / "0.png")
    (folder / "line" / "cat" / "c.png").symlink_to("0.png")  # this one stays inside
    (tmp_path / "mine2").mkdir()  # a name that begins like the folder's is not inside
    (folder / "line" / "cat" / "d.png").symlink_to(tmp_path / "mine2" / "0.png")
    (tmp_path / "way").symlink_to(folder, target_is_directory=True)  # the folder itself may be a link
    for place in (folder, tmp_path / "way"):
        with pytest.warns(UserWarning, match="4 files or folders .* and 3 more .a link that leads out of the"):
            images = cn.load_images(place)
        assert files_in(images, place) == {*SMALL, "line/cat/c.png"}
    for place in (folder, folder / "photo" / "dog"):  # loops end
        (place / "here").symlink_to(".", target_is_directory=True)
        (place / "up.png").symlink_to("..", target_is_directory=True)
        (place / "self.png").symlink_to("self.png")
    with pytest.warns(UserWarning, match="files or folders are left out"):
        assert files_in(cn.load_images(folder), folder) == {*SMALL, "line/cat/c.png"}


@pytest.mark.parametrize("name", ["two\nlines", "🐕 & <b>'b\"c{d}$", "x" * 246])
def test_odd_names(name, tmp_path, clip):
    tree(tmp_path, ("photo", "line"), (name, "cat"), n=1)
    picture(tmp_path / "photo" / name / f"{name}.png")
    (tmp_path / "photo" / name / f"!{name[:200]}.png").write_bytes(b"no picture")
    with pytest.warns(UserWarning, match="1 files or folders are left out") as caught:
        images = cn.load_images(tmp_path)
    message = str(caught[0].message)
    assert repr(f"photo/{name}/!{name[:200]}.png") in message and "\n" not in message
    assert next(iter(class_names([name]).values())) in images.vocabulary.classes
    assert cn.zero_shot(clip, images).shape == images.vocabulary.shape


# --- published layouts


@pytest.mark.parametrize(
    ("below", "parts", "layout", "classes"),
    [
        ("", PACS, "pacs", ("dog", "elephant", "giraffe")),
        ("x/PACS/kfold", PACS, "pacs", ("dog", "elephant", "giraffe")),
        ("OfficeHomeDataset_10072016", OFFICE, "office-home", ("alarm clock", "backpack", "flipflops", "tv")),
        ("domainnet", NET, "domainnet", ("aircraft carrier", "the eiffel tower")),
        ("VLCS", (("Caltech101", "LabelMe", "SUN09", "VOC2007"), VLCS.values()), "vlcs", (*VLCS.values(),)),
        ("all", (("wood", "stone"), ("red_chair", "Sofa")), "domains", ("red chair", "sofa")),
    ],
)
def test_published_layouts_are_recognised(below, parts, layout, classes, tmp_path):
    root = tree(tmp_path / below, *parts)
    (root / "ImageInfo.csv").write_text("about")
    dataset = find_dataset(tmp_path)
    assert dataset.layout == layout and dataset.root == root and {*dataset.left_out.values()} == {BESIDE}
    assert dataset.images.vocabulary == cn.Vocabulary(classes, sorted(parts[0]))
    assert (dataset.images.counts() == 3).all() and dataset.images.image(0).size == (8, 8)
    with pytest.raises(ValueError, match="lacks domains of '(pacs|vlcs)'; expected the folders"):
        find_dataset(tmp_path, layout="vlcs" if layout == "pacs" else "pacs")


def test_vlcs_has_numbers_for_names_and_its_own_splits(tmp_path):
    for parts, n in ((("full",), 3), (("train", "crossval"), 2), (("test",), 1)):
        tree(tmp_path / "VLCS", SETS, parts, "01234", n=n)
    sets = {split: find_dataset(tmp_path, split=split) for split in ("all", "train", "test")}
    assert all(dataset.images.vocabulary.classes == (*VLCS.values(),) for dataset in sets.values())
    assert [int(sets[split].images.counts()[0, 0]) for split in sets] == [3, 4, 1]
    assert sets["test"].split == "test, published"
    file, label = next(zip(sets["all"].images.files, sets["all"].images.classes, strict=True))
    assert label == int(file.parts[-2])


def test_domainnet_brings_its_lists(tmp_path):
    root = tree(tmp_path, *NET, n=4)
    with pytest.raises(ValueError, match=r"clipart_test.txt' is missing; expected the lists of DomainNet"):
        find_dataset(root, split="test")
    for domain in NET[0]:
        for split, places in (("train", (0, 1, 2)), ("test", (3,))):
            lines = [f"{domain}/{name}/{i:04}.jpg {c}" for c, name in enumerate(NET[1]) for i in places]
            (root / f"{domain}_{split}.txt").write_text("\n".join(lines) + "\n")
    train, test = (find_dataset(root, split=split) for split in ("train", "test"))
    assert (train.images.counts() == 3).all() and (test.images.counts() == 1).all()
    assert {file.name for file in test.images.files} == {"0003.jpg"} and test.split == "test, published"


def test_splits_are_the_same_whatever_else_is_there(tmp_path):
    root = tree(tmp_path / "one", *PACS, n=40)
    train, test = (find_dataset(root, split=split) for split in ("train", "test"))
    assert not set(train.images.files) & set(test.images.files) and test.split == "test, by hash"
    assert len(train.images) + len(test.images) == 480 and 0.14 < len(test.images) / 480 < 0.26
    fewer = tree(tmp_path / "two" / "kfold", *PACS, n=10)
    names = files_in(find_dataset(tmp_path / "two", split="test").images, fewer)
    assert names == {name for name in files_in(test.images, root) if int(name[-8:-4]) < 10}
    assert [i for i in range(8) if in_test(f"photo/dog/{i}.jpg")] == [2, 4]  # for good


@pytest.mark.parametrize(
    ("trees", "message", "word", "expected"),
    [
        ({"": (("dog", "cat"),), "dog": (("old", "new"),)}, "'domains:.*' and|'classes:", "classes", {"dog", "cat"}),
        ({"": (("photo",), ("dog", "cat"))}, "'domains:.*'classes:.*/photo'", "domains", {"photo"}),
        ({"": (("Train", "Test"), ("dog", "cat"))}, "holds the splits Test, Train; expected", "test", {"Test"}),
        ({"train": PACS, "test": PACS}, "holds the splits test, train; expected", "test", {"test"}),
    ],
)
def test_where_a_folder_can_be_read_in_two_ways_the_error_says_what_decides(trees, message, word, expected, tmp_path):
    for below, parts in trees.items():
        tree(tmp_path / below, *parts, n=1)
    with pytest.raises(ValueError, match=f"folder: .*{message}") as caught:
        cn.load_images(tmp_path)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        images = cn.load_images(f"{word}:{tmp_path}")
        assert {Path(file).parts[0] for file in files_in(images, tmp_path)} == expected
        assert all(len(cn.load_images(place)) > 1 for place in re.findall("'(.*?)'", str(caught.value))[1:])


def test_a_place_may_say_layout_and_split(tmp_path):
    tree(tmp_path, ("train", "val"), ("dog", "cat"), n=2)
    both = f"classes:train:{tmp_path}"
    assert parse_place(both) == parse_place(f"train:classes:{tmp_path}") == (tmp_path, "train", "classes")
    assert len(cn.load_images(both)) == 4 and find_dataset(both).split == "train, published"
    assert len(cn.load_images(tmp_path, "train")) == 4
    assert parse_place("pacs:nowhere", "test") == (Path("nowhere"), "test", "pacs")
    assert parse_place(r"C:\pictures")[0] == Path(r"C:\pictures")
    for place, split, message in (
        (both, "test", "says both 'train' and 'test'"),
        ("classes:pacs:x", None, "says both 'pacs' and 'classes'"),
        ("train:x.npz", None, "x.npz' does not exist"),
        ("", None, "folder: '' names no path"),
        ("classes:", None, "folder: 'classes:' names no path"),
    ):
        with pytest.raises(ValueError, match=message):
            cn.load_images(place, split)
    with pytest.raises(ValueError, match="given for a file of embeddings; expected neither"):
        cn.load_images("x.npz", layout="classes")


NAMES = {
    "30 kmh": "30 kmh", "50 kmh": "50 kmh", "stop": "stop", "c": "c", "c++": "c++", "C#": "c#", "7-Eleven": "7-eleven",
    "3-D glasses": "3-d glasses", "2 door car": "2 door car", "4_door_car": "4 door car", "TVMonitor": "tv monitor",
    "CaféBar": "café bar", "Cafe\u0301s": "cafés", "USBStick": "usb stick", "DVDs": "dvds", "T-Shirt": "t-shirt",
    "007": "007", "O'Neill": "o'neill", "Straße": "straße",
}  # fmt: skip


def test_names_become_words():
    assert class_names(NAMES) == NAMES
    for ordered in (["1 cat", "2_dog", "3.owl"], ["01-cat", "02-dog", "03-owl"], ["0 cat", "1 dog", "2 owl"]):
        assert [*class_names(ordered).values()] == ["cat", "dog", "owl"]
    for numbers in (["2 door car", "4 door car"], ["3-D glasses", "7-Eleven"], ["05 kmh", "30 kmh"], ["1 a", "1 b"]):
        assert class_names(numbers) == {name: name.lower() for name in numbers}


@given(st.lists(st.text("aB1 _-+.é\u0301", min_size=1, max_size=6), min_size=2, max_size=5, unique=True))
def test_cleaning_merges_no_two_names(names):
    try:
        cleaned = class_names(names)
    except ValueError as error:
        assert "become the same words" in str(error)
    else:
        assert len({*cleaned.values()}) == len({unicodedata.normalize("NFC", name) for name in names})


PARTS = st.sampled_from(["cat", "dog", "photo", ".git", "__MACOSX", "train", "a.b"])
LEAVES = st.sampled_from(["0.png", "1.jfif", "a.heic", "b", "c.txt", ".DS_Store"])


@given(st.lists(st.tuples(st.lists(PARTS, max_size=4), LEAVES), max_size=6))
def test_every_file_is_used_or_has_a_reason(tmp_path_factory, places):
    root = small(tmp_path_factory.mktemp("tree"))
    for folders, name in places:
        if not (path := root.joinpath(*folders, name)).exists():
            picture(path.with_suffix(".png"))
            path.with_suffix(".png").rename(path)
    try:
        dataset = find_dataset(root, layout="domains")
    except ValueError as error:
        assert "folder: " in str(error)
        return
    used, left_out = files_in(dataset.images, root), {*dataset.left_out}
    for path in root.rglob("*"):
        name = path.relative_to(root)
        reasons = {name.as_posix(), *(parent.as_posix() for parent in name.parents)} & left_out
        assert path.is_dir() or (name.as_posix() in used) != bool(reasons), name


def test_the_command_shows_a_data_set_and_writes_its_manifest_and_archives(tmp_path, capsys):
    root = tree(tmp_path / "in", ("photo", "line"), ("Red_Chair", "sofa"), n=2)
    (root / "photo" / "sofa" / "0000.jpg").write_bytes(b"")
    assert cli.main(["data", str(root), "--json", str(tmp_path / "m.json"), "--tars", str(tmp_path / "out")]) == 0
    out = capsys.readouterr().out
    for part in ("'domains'", "7 pictures, 2 classes, 2 domains", "left out: 1", "not an image: photo/sofa/0000.jpg"):
        assert part in out
    manifest = json.loads((tmp_path / "m.json").read_text())
    assert manifest == find_dataset(root).manifest() and manifest["counts"]["sofa"] == {"line": 2, "photo": 1}
    there, again = (find_dataset(tree(tmp_path / name, *PACS)).manifest()["sha256"] for name in ("there", "again"))
    assert there == again != manifest["sha256"]
    assert len(cn.load_images(tmp_path / "out")) == 7
    assert cli.main(["data", str(tmp_path / "none")]) == 2 and "is not a folder" in capsys.readouterr().err


def test_what_is_no_data_set_is_refused(tmp_path):
    for name, content in (("list.csv", b"path,name\na.png,b\n"), ("notes.txt", b""), ("part.parquet", b"PAR1")):
        (tmp_path / name).write_bytes(content)
    (tmp_path / "both.csv").write_text("path,class\nc.png,x\n./c.png,z\n")
    (tmp_path / "bytes.csv").write_bytes(b"path,class\n\xff\xfe.png,b\n")
    (tmp_path / "empty").mkdir()
    tree(tmp_path / "one", ("dog",))
    tree(tmp_path / "same", ("Alarm_Clock", "alarm clock"), n=1)
    for place, options, message in [
        ("list.csv", {}, r"folder: .*has columns \['path', 'name'\]; expected path, class and optionally domain"),
        ("both.csv", {}, r"'./c.png' as \['x', 'image'\] and, in row 2, as \['z', 'image'\]; expected one label"),
        ("notes.txt", {}, "folder: .*notes.txt' cannot be read .*expected a .csv"),
        ("bytes.csv", {}, "folder: .*bytes.csv' cannot be read .*expected a .csv in UTF-8"),
        ("part.parquet", {}, "folder: .*part.parquet' cannot be read"),
        ("gone", {}, "folder: .*is not a folder; expected a folder of pictures"),
        ("empty", {}, "folder: .*holds no pictures as <domain>/<class>/<picture>"),
        ("one", {}, r"read as 'classes', holds 1 class with readable pictures \(dog\); expected at least two"),
        ("same", {}, "folder: the classes 'Alarm_Clock' and 'alarm clock' become the same words"),
        ("one", {"layout": "pac"}, "layout: 'pac' is unknown; did you mean 'pacs'"),
        ("one", {"layout": "webdataset"}, "folder: .*is not a webdataset; expected .* or .tar archives"),
        ("one", {"split": "val"}, "split: 'val' is unknown"),
    ]:
        with pytest.raises(ValueError, match=message):
            find_dataset(tmp_path / place, **options)
    with pytest.raises(ValueError, match="split: 'tset' is unknown; did you mean 'test'"):
        cn.load_images(split="tset")


# --- tables

COLUMNS = ("File", "Label", "domain")
ROWS = [("a.png", "Red_Chair", "photo"), ("sub/b.png", "sofa", "line"), ("gone.png", "sofa", "line"),
        ("", "x", "y"), ("sub/../a.png", "red chair", "photo")]  # fmt: skip


def test_a_table_of_paths(tmp_path):
    picture(tmp_path / "a.png")
    picture(tmp_path / "sub" / "b.png")
    with open(tmp_path / "list.csv", "w", encoding="utf-8-sig", newline="") as file:
        csv.writer(file).writerows([COLUMNS, *ROWS])
    pa, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    parquet.write_table(pa.table(dict(zip(COLUMNS, zip(*ROWS, strict=True), strict=True))), tmp_path / "list.parquet")
    for name in ("list.csv", "list.parquet"):
        dataset = find_dataset(f"table:{tmp_path / name}")
        assert dataset.layout == "table" and dataset.images.files == (tmp_path / "a.png", tmp_path / "sub" / "b.png")
        assert dataset.images.vocabulary == cn.Vocabulary(["red chair", "sofa"], ["line", "photo"])
        empty = "path, class or domain is empty"
        assert dataset.left_out == {"row 4": empty, "gone.png": "No such file or directory"}
    (tmp_path / "two.csv").write_text("path,class\na.png,one\nsub/b.png,2\n")
    assert find_dataset(tmp_path / "two.csv").images.vocabulary == cn.Vocabulary(["2", "one"], [UNNAMED])


# --- archives


def jpeg(colour=0):
    stream = io.BytesIO()
    Image.new("RGB", (8, 8), (colour, 9, 9)).save(stream, "JPEG")
    return stream.getvalue()


def archive(path, members):
    with tarfile.open(path, "w") as out:
        for name, content in members:
            info = tarfile.TarInfo(name)
            info.size = len(content)
            out.addfile(info, io.BytesIO(content))
    return path


def unpacked(archives, folder, classes=()):
    """Path, class and domain of each picture that is unpacked, and what is left out."""
    unpack(archives, folder, classes)
    table = json.loads((folder / "pictures.json").read_text())
    return [tuple(row[:3]) for row in table["rows"]], table["left_out"]


@pytest.mark.promise("No path is followed out of a folder")
def test_webdataset_archives_become_a_folder(tmp_path):
    one = archive(
        tmp_path / "train-000.tar",
        [
            ("a/001.jpg", jpeg()), ("a/001.cls", b"1"), ("a/002.jpg", jpeg(1)), ("a/002.txt", b"tree house\n"),
            ("a/003.cls", b"0"), ("a/004.jpg", jpeg()), ("a/005.jpg", jpeg()), ("a/005.cls", b"7"),
            ("../../evil.jpg", jpeg()), ("../../evil.txt", b"../../x"), ("a/006.jpg", jpeg()), ("a/006.json", b"{"),
            ("a/007.jpg", jpeg()), ("a/007.json", b"[" * 100_000), ("a/008.jpg", jpeg()), ("a/008.cls", b"2"),
            ("a/009.jpg", jpeg()), ("a/009.txt", b"a\x00b"), ("a/010.jpg", jpeg()), ("a/010.txt", b"10"),
        ],
    )  # fmt: skip
    labels = json.dumps({"label": "dog", "domain": "sketch"}).encode()
    two = archive(tmp_path / "train-001.tar", [("001.seg.png", b""), ("001.jpg", jpeg(2)), ("001.json", labels)])
    out = tmp_path / "out" / "pictures"
    rows, left_out = unpacked([one, two], out, ["cat", "dog", "", "10"])
    assert rows == [
        ("0/000000000.jpg", "dog", "image"), ("0/000000001.jpg", "tree house", "image"),
        ("0/000000005.jpg", "../../x", "image"), ("0/000000010.jpg", "10", "image"),
        ("1/000000000.jpg", "dog", "sketch"),
    ]  # fmt: skip
    files = {path.relative_to(out).as_posix() for path in out.parent.rglob("*") if path.is_file()}
    assert files == {path for path, *_ in rows} | {"pictures.json"}
    reasons = {
        "003": "no picture among", "004": "''; expected a name", "005": "its class is 7", "006": "its .json cannot",
        "007": "RecursionError", "008": "expected a name", "009": "expected a name",
    }  # fmt: skip
    assert left_out.keys() == {f"train-000.tar/a/{i}" for i in reasons}
    assert all(reason in left_out[f"train-000.tar/a/{i}"] for i, reason in reasons.items())


@pytest.mark.promise("What is damaged is refused")
def test_a_small_archive_does_not_fill_disk_or_memory(tmp_path):
    sparse = tarfile.TarInfo("1.jpg")
    sparse.type, sparse.size = tarfile.GNUTYPE_SPARSE, 512
    head = bytearray(sparse.tobuf(tarfile.GNU_FORMAT))
    head[386:410], head[483:495] = b"00000000000\x0000000001000\x00", b"20000000000\x00"  # says it has 2 GB
    head[148:156] = b" " * 8
    head[148:156] = f"{sum(head):06o}\0 ".encode()
    path = archive(tmp_path / "a.tar", [("0.jpg", jpeg()), ("0.txt", b"a")])
    whole = path.read_bytes().rstrip(b"\0")
    whole += bytes(-len(whole) % 512)
    path.write_bytes(whole + bytes(head) + bytes(512 * 4))
    rows, _ = unpacked([path], tmp_path / "out")
    assert len(rows) == 1 and sum(p.stat().st_size for p in tmp_path.rglob("*") if p.is_file()) < 2**16
    compressed = tmp_path / "a.tar.gz"  # could hold a thousand times its size
    compressed.write_bytes(gzip.compress(path.read_bytes()))
    with pytest.raises(ValueError, match="a.tar.gz' cannot be read .*expected .* archives in .tar"):
        cn.load_images(compressed)


TRIP = ["1", "0", "potter's wheel", "C#", "C", "c++", "GoldFish", "a/b", "two\tparts", "30 kmh", "50 kmh", "Ω"]


@examples(12)
@given(st.lists(st.sampled_from(TRIP), min_size=2, max_size=6, unique=True), st.data())
def test_there_and_back_is_the_identity(tmp_path_factory, classes, data):
    folder = tmp_path_factory.mktemp("trip")
    labels = data.draw(st.lists(st.integers(0, len(classes) - 1), min_size=8, max_size=12)) + [*range(len(classes))]
    for i in range(len(labels)):
        picture(folder / f"{i}.png", i)
    files = tuple(folder / f"{i}.png" for i in range(len(labels)))
    vocabulary = cn.Vocabulary(classes, ["photo", "3"])
    images = Images(files, torch.tensor(labels), torch.arange(len(labels)) % 2, vocabulary)
    back = cn.load_images(webdataset.pack(images, folder / "out"))
    assert {*back.vocabulary.classes} == {*classes} and {*back.vocabulary.domains} == {*vocabulary.domains}
    assert [back.vocabulary.classes[c] for c in back.classes] == [classes[c] for c in labels]
    assert [back.vocabulary.domains[k] for k in back.domains] == [vocabulary.domains[i % 2] for i in range(len(labels))]
    assert [back.image(i) for i in range(len(back))] == [images.image(i) for i in range(len(images))]


def test_archives_hold_the_pictures_that_are_measured(tmp_path):
    """As stock readers show them: transparent on white, upright, 16 bits in 8."""
    values, exif = np.arange(64, dtype="u1").reshape(8, 8), Image.Exif()
    exif[0x0112] = 6
    (tmp_path / "in" / "cat").mkdir(parents=True)
    Image.fromarray(np.stack([values] * 4, -1)).save(tmp_path / "in" / "cat" / "0.png")
    Image.fromarray(values).save(tmp_path / "in" / "cat" / "1.png", exif=exif)
    Image.fromarray(values.astype("<u2") * 1024).save(tmp_path / "in" / "cat" / "2.png")
    Image.fromarray(values).convert("RGB").save(tmp_path / "in" / "cat" / "3.jpg")
    picture(tmp_path / "in" / "dog" / "0.webp")
    images = cn.load_images(tmp_path / "in")
    webdataset.pack(images, tmp_path / "out")
    stock = {}
    for tar in (tmp_path / "out" / "test").glob("*.tar"):
        with tarfile.open(tar) as opened:
            names = [name for name in opened.getnames() if not name.endswith((".cls", ".json"))]
            stock |= {n: np.asarray(Image.open(opened.extractfile(n)).convert("RGB")) for n in names}
    assert len(stock) == 5 and {"000000003.jpg", "000000004.webp"} <= {*stock}  # the bytes of these are copied
    for i, name in enumerate(sorted(stock)):
        assert np.array_equal(stock[name], np.asarray(images.image(i)))


def test_a_list_of_classes_is_read_line_by_line(tmp_path):
    tar = archive(tmp_path / "a.tar", [("0.png", jpeg()), ("0.cls", b"2"), ("1.png", jpeg(1)), ("1.cls", b"0")])
    (tmp_path / "classnames.txt").write_text("cat\n\ndog\n")
    assert cn.load_images(tar).vocabulary.classes == ("cat", "dog")
    (tmp_path / "classnames.txt").write_text("cat\ndog\nCat\n")
    with pytest.raises(ValueError, match="classnames.txt': 'cat' given twice"):
        cn.load_images(tar)


def test_archives_are_unpacked_into_the_cache_once(tmp_path, monkeypatch):
    """In the layout of CLIP_benchmark, which `pack` writes."""
    images = cn.load_images(tree(tmp_path / "in", ("photo", "line"), ("Red_Chair", "Sofa"), n=2, suffix=".bmp"))
    monkeypatch.setenv("CLIPNULL_CACHE", str(tmp_path / "cache"))
    out = webdataset.pack(images, tmp_path / "out")
    assert (out / "classnames.txt").read_text() == "red chair\nsofa\n" and len([*out.glob("test/*.tar")]) > 1
    assert (out / "zeroshot_classification_templates.txt").read_text() == "a picture of a {c}\n"
    assert int((out / "test" / "nshards.txt").read_text()) == len([*out.glob("test/*.tar")])
    dataset = find_dataset(out)
    assert (dataset.layout, dataset.split, dataset.left_out) == ("webdataset", "all", {})
    assert dataset.images.vocabulary == images.vocabulary
    monkeypatch.setattr(webdataset, "unpack", lambda *_: pytest.fail("unpacked again"))
    assert find_dataset(f"test:{out}").split == "test, published"
    assert cn.load_images(f"webdataset:{out}").files == dataset.images.files
    tree(out, ("photo", "line"), ("dog", "cat"), n=1)
    with pytest.raises(ValueError, match="holds archives and pictures; expected 'webdataset:"):
        cn.load_images(out)
    with pytest.raises(ValueError, match="folder: .*out' exists"):
        webdataset.pack(images, out)


def test_a_full_disk_leaves_nothing_of_archives(tmp_path, monkeypatch):
    images = cn.load_images(tree(tmp_path / "in", ("photo", "line"), ("chair", "sofa"), n=1))
    monkeypatch.setenv("CLIPNULL_CACHE", str(tmp_path / "cache"))
    out = webdataset.pack(images, tmp_path / "out")

    def full(path, *_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(OSError, match="cannot be unpacked into .*No space left on device.*CLIPNULL_CACHE"):
        cn.load_images(out)
    assert not [*(tmp_path / "cache" / "archives").iterdir()]
    assert {p.name for p in tmp_path.iterdir()} == {"in", "out", "cache"}


def test_the_beginning_of_a_damaged_archive_is_kept(tmp_path):
    samples = [[(f"{i:03}.jpg", jpeg(i)), (f"{i:03}.txt", b"dog")] for i in range(20)]
    whole = archive(tmp_path / "a.tar", sum(samples, []))
    (tmp_path / "b.tar").write_bytes(whole.read_bytes()[:15_000])
    (tmp_path / "c.tar").write_bytes(b"no archive" * 100)
    _, left_out = unpacked([tmp_path / "b.tar", tmp_path / "c.tar"], tmp_path / "out")
    assert 1 <= len(list((tmp_path / "out").rglob("*.jpg"))) < 20 and {"b.tar", "c.tar"} <= set(left_out)
    with pytest.raises(ValueError, match="the archives hold no picture with a class; left out: .*c.tar"):
        unpack([tmp_path / "c.tar"], tmp_path / "other")
    with pytest.raises(ValueError, match="out' exists; expected a new one"):
        unpack([whole], tmp_path / "out")
    assert not (tmp_path / "other").exists() and not list(tmp_path.glob(".*"))


# --- miniworld


def index():
    with open(data_folder("miniworld") / "index.csv", newline="") as file:
        return list(csv.DictReader(file))


def test_miniworld_is_what_its_card_says():
    rows, folder = index(), data_folder("miniworld")
    assert {p.relative_to(folder).as_posix() for p in folder.glob("*/*/*/*.webp")} == {r["file"] for r in rows}
    counts = Counter((r["class"], r["domain"]) for r in rows)
    assert 12 <= len({c for c, _ in counts}) <= 20 and len({d for _, d in counts}) == 6
    assert len(set(counts.values())) > 1 and sum(counts.values()) == len(rows)
    splits = Counter((r["class"], r["domain"], r["split"]) for r in rows)
    assert len(splits) == 2 * len(counts)
    assert min(n for (*_, split), n in splits.items() if split == "test") >= 5
    assert min(n for (*_, split), n in splits.items() if split == "train") >= 3
    books = {domain: n for (label, domain, split), n in splits.items() if (label, split) == ("book", "test")}
    assert books["line"] >= 8 and sum(books.values()) - books["line"] >= 25  # the story of notebook 06
    assert sum(p.stat().st_size for p in folder.rglob("*") if p.is_file()) <= 25e6


def test_train_and_test_share_no_design_family_and_no_licence_forbids():
    rows = index()
    train, test = ({r["family"] for r in rows if r["split"] == s} for s in ("train", "test"))
    assert train and test and not train & test
    assert all(r["licence"] and r["author"] and r["source"] for r in rows)
    assert not [r for r in rows if re.search("GPL|NC|ND", r["licence"])]


@pytest.mark.slow
def test_miniworld_pictures_are_distinct_and_of_one_size():
    both = [some.image(i) for some in (cn.load_images(split="train"), cn.load_images()) for i in range(len(some))]
    assert {picture.size for picture in both} == {(128, 128)}
    assert len({picture.tobytes() for picture in both}) == len(both)
