"""Data sets in their published layouts: small generated trees with the same names."""

import errno
import io
import json
import tarfile
from collections import Counter
from pathlib import Path

import pytest
import torch
from PIL import Image

import clipnull as cn
from clipnull.commands import cli
from clipnull.datasets import webdataset as archives
from clipnull.datasets.layouts import UNNAMED, VLCS, clean_name, in_test, load_dataset
from clipnull.datasets.loading import find_dataset, parse_place
from clipnull.datasets.webdataset import unpack


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


PACS = (("art_painting", "cartoon", "photo", "sketch"), ("dog", "elephant", "giraffe"))
OFFICE = (("Art", "Clipart", "Product", "Real World"), ("Alarm_Clock", "Backpack", "TV", "Flipflops"))
NET = (("clipart", "infograph", "painting", "quickdraw", "real", "sketch"), ("aircraft_carrier", "The_Eiffel_Tower"))
SETS = ("CALTECH", "LABELME", "PASCAL", "SUN")


@pytest.mark.parametrize(
    ("below", "parts", "layout", "classes"),
    [
        ("", PACS, "pacs", ("dog", "elephant", "giraffe")),
        ("PACS/kfold", PACS, "pacs", ("dog", "elephant", "giraffe")),
        ("OfficeHomeDataset_10072016", OFFICE, "office-home", ("alarm clock", "backpack", "flipflops", "tv")),
        ("domainnet", NET, "domainnet", ("aircraft carrier", "the eiffel tower")),
        ("", (SETS, VLCS), "vlcs", VLCS),
        ("VLCS", (("Caltech101", "LabelMe", "SUN09", "VOC2007"), VLCS), "vlcs", VLCS),
        ("", (("wood", "stone"), ("red_chair", "Sofa")), "domains", ("red chair", "sofa")),
    ],
)
def test_published_layouts_are_found(below, parts, layout, classes, tmp_path):
    root = tree(tmp_path / below, *parts)
    (root / "ImageInfo.csv").write_text("about")
    found = load_dataset(tmp_path)
    assert found.layout == layout and found.root == root and not found.left
    assert found.images.vocabulary.classes == classes and found.images.vocabulary.domains == tuple(sorted(parts[0]))
    assert (found.images.counts() == 3).all() and found.images.image(0).size == (8, 8)
    assert cn.load_images(tmp_path).files == found.images.files


def test_vlcs_has_numbers_for_names_and_splits_of_its_own(tmp_path):
    tree(tmp_path / "VLCS", SETS, ("full",), "01234")
    tree(tmp_path / "VLCS", SETS, ("train", "crossval"), "01234", n=2)
    tree(tmp_path / "VLCS", SETS, ("test",), "01234", n=1)
    found = {split: load_dataset(tmp_path, split=split) for split in ("all", "train", "test")}
    assert all(dataset.images.vocabulary.classes == VLCS for dataset in found.values())
    assert [int(found[split].images.counts()[0, 0]) for split in found] == [3, 4, 1]
    assert found["test"].split == "test, published"
    file = next(f for f in found["all"].images.files if f.parts[-4:-1] == ("SUN", "full", "3"))
    place = found["all"].images.files.index(file)
    assert VLCS[found["all"].images.classes[place]] == "dog"


def test_domainnet_brings_its_lists(tmp_path):
    root = tree(tmp_path, *NET, n=4)
    with pytest.raises(ValueError, match=r"clipart_test.txt' is missing; expected DomainNet's own lists"):
        load_dataset(root, split="test")
    for domain in NET[0]:
        for split, places in (("train", (0, 1, 2)), ("test", (3,))):
            lines = [f"{domain}/{name}/{i:04}.jpg {c}" for c, name in enumerate(NET[1]) for i in places]
            (root / f"{domain}_{split}.txt").write_text("\n".join(lines) + "\n")
    train, test = (load_dataset(root, split=split) for split in ("train", "test"))
    assert (train.images.counts() == 3).all() and (test.images.counts() == 1).all()
    assert {file.name for file in test.images.files} == {"0003.jpg"} and test.split == "test, published"


def test_splits_are_the_same_whatever_else_is_there(tmp_path):
    root = tree(tmp_path / "one", *PACS, n=40)
    train, test = (load_dataset(root, split=split) for split in ("train", "test"))
    assert not set(train.images.files) & set(test.images.files) and test.split == "test, by hash"
    assert len(train.images) + len(test.images) == 480 and 0.14 < len(test.images) / 480 < 0.26
    fewer = tree(tmp_path / "two" / "kfold", *PACS, n=10)
    names = {file.relative_to(fewer).as_posix() for file in load_dataset(tmp_path / "two", split="test").images.files}
    before = {file.relative_to(root).as_posix() for file in test.images.files}
    assert names == {name for name in before if int(name[-8:-4]) < 10}
    assert [i for i in range(8) if in_test(f"photo/dog/{i}.jpg")] == [2, 4]  # for good


@pytest.mark.parametrize(
    ("trees", "message", "said"),
    [
        ({"": (("dog", "cat"),), "dog": (("old", "new"),)}, "in its folders and in folders of these", "classes"),
        ({"": (("photo",), ("dog", "cat"))}, "holds one folder, 'photo'; expected one of", "domains"),
        ({"": (("train", "val"), ("dog", "cat"))}, "holds train, val; expected one of these splits", "train"),
        (
            {"train": PACS, "test": PACS},
            r"several data sets, 'test \(pacs\)', 'train \(pacs\)'; .*or its split",
            "test",
        ),
        ({"one": PACS, "two": OFFICE}, "several data sets, 'one .pacs.', 'two .office-home.'", "office-home"),
    ],
)
def test_where_two_readings_are_possible_the_error_says_what_decides(trees, message, said, tmp_path):
    for below, parts in trees.items():
        tree(tmp_path / below, *parts, n=1)
    with pytest.raises(ValueError, match=f"folder: .*{message}"):
        cn.load_images(tmp_path)
    images = cn.load_images(f"{said}:{tmp_path}") if said != "classes" else load_dataset(tmp_path, "classes").images
    files = {file.relative_to(tmp_path).parts[0] for file in images.files}
    assert files == {"classes": {"dog", "cat"}, "domains": {"photo"}, "office-home": {"two"}}.get(said, {said})


def test_a_place_may_say_layout_and_split(tmp_path):
    tree(tmp_path, ("train", "val"), ("dog", "cat"), n=2)
    both = f"classes:train:{tmp_path}"
    assert parse_place(both) == parse_place(f"train:classes:{tmp_path}") == (tmp_path, "train", "classes")
    assert len(cn.load_images(both)) == 4 and find_dataset(both).split == "train, published"
    assert len(cn.load_images(tmp_path, "train")) == 4
    assert parse_place("pacs:nowhere", "test") == (Path("nowhere"), "test", "pacs")
    assert parse_place(r"C:\pictures")[0] == Path(r"C:\pictures")
    for place, split, message in (
        (both, "test", "says 'train', and 'test' is said too"),
        ("classes:pacs:x", None, "says 'pacs', and 'classes' is said too"),
        ("train:x.npz", None, "x.npz' is not there"),
    ):
        with pytest.raises(ValueError, match=message):
            cn.load_images(place, split)
    with pytest.raises(ValueError, match="given for a file of embeddings; expected neither"):
        cn.load_images("x.npz", layout="classes")


def test_pictures_at_another_depth_are_told(tmp_path):
    root = tree(tmp_path, *PACS, n=1)
    tree(root, ("Raw images",), ("dog",))
    tree(root / "photo" / "dog", ("more",), n=1)
    picture(root / "photo" / "overview.png")
    with pytest.warns(UserWarning, match="3 files or folders are left out, beside 12 pictures"):
        cn.load_images(root)
    assert load_dataset(root).left == {
        "Raw images": "no domain of pacs, with 3 pictures",
        "photo/dog/more": "a folder where pictures are",
        "photo/overview.png": "a picture where folders are",
    }


def test_folders_of_classes_without_domains(tmp_path):
    tree(tmp_path, ("Alarm_Clock", "T-Shirt", ".cache"))
    found = load_dataset(tmp_path)
    assert found.layout == "classes" and found.images.vocabulary == cn.Vocabulary(["alarm clock", "t-shirt"], [UNNAMED])
    assert len(found.images) == 6


def test_names_that_are_the_same_words_are_one_class(tmp_path):
    for domain, name in (("a", "Alarm_Clock"), ("b", "alarm clock"), ("b", "AlarmClock"), ("a", "Sofa")):
        tree(tmp_path, (domain,), (name,), n=1)
    found = load_dataset(tmp_path)
    assert found.images.vocabulary.classes == ("alarm clock", "sofa")
    assert found.folders["alarm clock"] == ["AlarmClock", "Alarm_Clock", "alarm clock"]
    assert clean_name("007") == "007" and clean_name("__") == "__" and clean_name("2. Cat") == "cat"


def test_a_manifest_counts_and_tells_what_is_left_out(tmp_path):
    root = tree(tmp_path / "here", *PACS)
    (root / "photo" / "dog" / "0000.jpg").write_bytes(b"not a picture")
    (root / "photo" / "dog" / "0001.jpg").write_bytes(b"")
    found = load_dataset(root)
    told = json.loads(json.dumps(found.manifest()))
    assert told["pictures"] == 34 and told["counts"]["dog"] == {
        "art_painting": 3,
        "cartoon": 3,
        "photo": 1,
        "sketch": 3,
    }
    assert set(told["left_out"]) == {"photo/dog/0000.jpg", "photo/dog/0001.jpg"}
    assert told["left_out"]["photo/dog/0000.jpg"] == "not an image"
    again = load_dataset(tree(tmp_path / "there", *PACS)).manifest()
    assert (
        again["sha256"] != told["sha256"] and again["sha256"] == load_dataset(tmp_path / "there").manifest()["sha256"]
    )


def test_the_command_tells_what_would_be_used(tmp_path, capsys):
    root = tree(tmp_path / "in", ("photo", "line"), ("Red_Chair", "sofa"), n=2)
    (root / "photo" / "sofa" / "0000.jpg").write_bytes(b"")
    assert cli.main(["data", str(root), "--json", str(tmp_path / "m.json"), "--tars", str(tmp_path / "out")]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[:6] == [
        f"{root}: read as 'domains', split: all",
        "7 pictures, 2 classes, 2 domains",
        "               line   photo  in all",
        "red chair         2       2       4",
        "sofa              2       1       3",
        "in all            4       3       7",
    ]
    assert "red chair (Red_Chair)" in lines[6] and lines[7:9] == ["left out: 1", "  photo/sofa/0000.jpg: not an image"]
    assert json.loads((tmp_path / "m.json").read_text()) == load_dataset(root).manifest()
    assert len(cn.load_images(tmp_path / "out")) == 7
    assert cli.main(["data", str(tmp_path / "none")]) == 2 and "is not a folder" in capsys.readouterr().err


# --- tables


def rows(root):
    picture(root / "a.png")
    picture(root / "sub" / "b.png")
    return [
        ("a.png", "Red_Chair", "photo"),
        ("sub/b.png", "sofa", "line"),
        ("gone.png", "sofa", "line"),
        ("", "x", "y"),
        ("a.png", "sofa", "line"),
    ]


def test_a_csv_of_paths(tmp_path):
    lines = ["File, other ,class,domain".replace(" other ", "other"), *(f"{p},1,{c},{k}" for p, c, k in rows(tmp_path))]
    (tmp_path / "list.csv").write_text("\n".join(lines), encoding="utf-8-sig")
    found = load_dataset(tmp_path / "list.csv")
    assert cn.load_images(f"table:{tmp_path / 'list.csv'}").files == found.images.files
    assert found.layout == "table" and found.images.files == (tmp_path / "a.png", tmp_path / "sub" / "b.png")
    assert found.images.vocabulary == cn.Vocabulary(["red chair", "sofa"], ["line", "photo"])
    empty, twice = "path, class or domain is empty or no text", "the picture of row 1"
    assert found.left == {"row 4": empty, "row 5": twice, "gone.png": "No such file or directory"}
    (tmp_path / "list.csv").write_text("path,class\na.png,one\nsub/b.png,two\n")
    assert load_dataset(tmp_path / "list.csv").images.vocabulary.domains == (UNNAMED,)


def test_a_parquet_of_paths(tmp_path):
    pa, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    paths, classes, domains = zip(*rows(tmp_path), strict=True)
    parquet.write_table(pa.table({"path": paths, "label": classes, "domain": domains}), tmp_path / "list.parquet")
    found = load_dataset(tmp_path / "list.parquet")
    assert len(found.images) == 2 and set(found.left) == {"row 4", "row 5", "gone.png"}


def test_what_is_no_data_set_is_refused(tmp_path):
    (tmp_path / "list.csv").write_text("path,name\na.png,b\n")
    (tmp_path / "notes.txt").write_text("")
    (tmp_path / "bytes.csv").write_bytes(b"path,class\n\xff\xfe.png,b\n")
    (tmp_path / "part.parquet").write_bytes(b"PAR1")
    tree(tmp_path / "one", ("dog",))
    for place, message in [
        (tmp_path / "list.csv", r"has the columns \['path', 'name'\]; expected path and class, and domain"),
        (tmp_path / "notes.txt", "is not a folder and no table; expected .csv or .parquet"),
        (tmp_path / "bytes.csv", "bytes.csv' cannot be read .*; expected a whole table, in UTF-8"),
        (tmp_path / "part.parquet", "part.parquet' cannot be read .*; expected a whole table"),
        (tmp_path / "gone", "is not a folder; expected a folder of pictures"),
        (tmp_path / "one", r"read as 'classes', holds 1 class with readable pictures \(dog\); expected at least two"),
    ]:
        with pytest.raises(ValueError, match=message):
            load_dataset(place)
    with pytest.raises(ValueError, match="layout: 'pac' is not known; did you mean 'pacs'"):
        load_dataset(tmp_path / "one", layout="pac")
    with pytest.raises(ValueError, match="split: 'val' is not known"):
        load_dataset(tmp_path / "one", split="val")
    with pytest.raises(ValueError, match="does not hold the domains of 'pacs'; expected folders art_painting"):
        load_dataset(tmp_path / "one", layout="pacs")


# --- archives


def jpeg(colour=0):
    stream = io.BytesIO()
    Image.new("RGB", (8, 8), (colour, 9, 9)).save(stream, "JPEG")
    return stream.getvalue()


def archive(path, members, mode="w"):
    with tarfile.open(path, mode) as out:
        for name, content in members:
            info = tarfile.TarInfo(name)
            info.size = len(content)
            out.addfile(info, io.BytesIO(content))
    return path


def test_webdataset_archives_become_a_folder(tmp_path):
    one = archive(
        tmp_path / "train-000.tar",
        [
            ("a/001.jpg", jpeg()), ("a/001.cls", b"1"), ("a/002.jpg", jpeg(1)), ("a/002.txt", b"tree house\n"),
            ("a/003.cls", b"0"), ("a/004.jpg", jpeg()), ("a/005.jpg", jpeg()), ("a/005.cls", b"7"),
            ("../../evil.jpg", jpeg()), ("../../evil.txt", b"../../x"), ("a/006.jpg", jpeg()), ("a/006.json", b"{"),
        ],
    )  # fmt: skip
    said = json.dumps({"label": "dog", "domain": "sketch"}).encode()
    two = archive(
        tmp_path / "train-001.tar.gz", [("001.seg.png", b""), ("001.jpg", jpeg(2)), ("001.json", said)], "w:gz"
    )
    left = unpack([one, two], tmp_path / "out" / "pictures", ["cat", "dog"])
    files = sorted(p.relative_to(tmp_path / "out").as_posix() for p in (tmp_path / "out").rglob("*") if p.is_file())
    assert files == [
        "pictures/image/_.._x/train-000-_.._evil.jpg",
        "pictures/image/dog/train-000-a_001.jpg",
        "pictures/image/tree house/train-000-a_002.jpg",
        "pictures/sketch/dog/train-001.tar-001.jpg",
    ]
    assert set(left) == {f"train-000.tar/a/{i}" for i in ("003", "004", "005", "006")}
    assert "no picture among ['cls']" in left["train-000.tar/a/003"] and "2 names of" in left["train-000.tar/a/005"]
    found = load_dataset(tmp_path / "out" / "pictures")
    assert Counter(file.parent.name for file in found.images.files)["dog"] == 2 and found.layout == "domains"


def test_archives_are_unpacked_into_the_cache_once(tmp_path, monkeypatch):
    """In the layout of CLIP_benchmark, which `pack` writes."""
    images = cn.load_images(tree(tmp_path / "in", ("photo", "line"), ("Red_Chair", "Sofa"), n=2, suffix=".bmp"))
    monkeypatch.setenv("CLIPNULL_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(archives, "SHARD", 400)
    out = archives.pack(images, tmp_path / "out")
    assert (out / "classnames.txt").read_text() == "red chair\nsofa\n" and len([*out.glob("test/*.tar")]) > 1
    assert (out / "zeroshot_classification_templates.txt").read_text() == "a picture of a {c}\n"
    assert int((out / "test" / "nshards.txt").read_text()) == len([*out.glob("test/*.tar")])
    found = find_dataset(out)
    assert (found.layout, found.split, found.left) == ("webdataset", "all", {})
    assert found.images.vocabulary == images.vocabulary and torch.equal(found.images.counts(), images.counts())
    monkeypatch.setattr(archives, "unpack", lambda *_: pytest.fail("unpacked again"))
    assert find_dataset(f"test:{out}").split == "test, published"
    assert cn.load_images(f"webdataset:{out}").files == found.images.files
    tree(out, ("photo", "line"), ("dog", "cat"), n=1)
    with pytest.raises(
        ValueError, match="holds archives, and pictures laid out 'domains'; expected one of 'webdataset:"
    ):
        cn.load_images(out)
    with pytest.raises(ValueError, match="folder: .*out' is there"):
        archives.pack(images, out)


def test_a_full_disk_leaves_nothing_of_archives(tmp_path, monkeypatch):
    images = cn.load_images(tree(tmp_path / "in", ("photo", "line"), ("chair", "sofa"), n=1))
    monkeypatch.setenv("CLIPNULL_CACHE", str(tmp_path / "cache"))
    out = archives.pack(images, tmp_path / "out")
    full = OSError(errno.ENOSPC, "No space left on device")

    def write(path, *_):
        raise full

    monkeypatch.setattr(Path, "write_bytes", write)
    with pytest.raises(OSError, match="cannot be unpacked into .*No space left on device.*CLIPNULL_CACHE"):
        cn.load_images(out)
    assert not [*(tmp_path / "cache" / "archives").iterdir()]
    monkeypatch.setattr(tarfile.TarFile, "addfile", write)
    with pytest.raises(OSError, match="No space left"):
        archives.pack(images, tmp_path / "more")
    assert {p.name for p in tmp_path.iterdir()} == {"in", "out", "cache"}


def test_a_damaged_archive_is_told_and_its_beginning_is_kept(tmp_path):
    members = [(f"{i:03}.{kind}", jpeg(i) if kind == "jpg" else b"dog") for i in range(20) for kind in ("jpg", "txt")]
    whole = archive(tmp_path / "a.tar", members)
    (tmp_path / "b.tar").write_bytes(whole.read_bytes()[:15_000])
    (tmp_path / "c.tar").write_bytes(b"no archive" * 100)
    left = unpack([tmp_path / "b.tar", tmp_path / "c.tar"], tmp_path / "out")
    kept = len(list((tmp_path / "out").rglob("*.jpg")))
    assert 1 <= kept < 20 and {"b.tar", "c.tar"} <= set(left)
    with pytest.raises(ValueError, match="archives: no sample of a picture with its class; left out: .*c.tar"):
        unpack([tmp_path / "c.tar"], tmp_path / "other")
    with pytest.raises(ValueError, match="out' is there; expected a new one"):
        unpack([whole], tmp_path / "out")
    with pytest.raises(ValueError, match="gone.tar' is no file"):
        unpack([tmp_path / "gone.tar"], tmp_path / "other")
    assert not (tmp_path / "other").exists() and not list(tmp_path.glob(".*"))
