import csv
import os
import warnings
from collections import Counter
from pathlib import Path

import pytest
import torch
from helpers import png_header
from PIL import Image, ImageFile

import clipnull as cn
from clipnull.datasets.layouts import clean_name
from clipnull.files import data_folder


def make(folder, cells, broken=()):
    for domain, cls, n in cells:
        (folder / domain / cls).mkdir(parents=True, exist_ok=True)
        for i in range(n):
            path = folder / domain / cls / f"{i}.png"
            if (domain, cls, i) in broken:
                path.write_bytes(b"no picture")
            else:
                Image.new("RGB", (8, 8), (40 * i, 0, 0)).save(path)
    return folder


def test_a_folder_of_ones_own_is_read(tmp_path):
    images = cn.load_images(make(tmp_path, [("photo", "dog", 2), ("photo", "cat", 1), ("line", "dog", 3)]))
    assert images.vocabulary == cn.Vocabulary(("cat", "dog"), ("line", "photo"))
    assert images.counts().tolist() == [[0, 1], [3, 2]]  # a cell may be missing
    assert [f.parent.name for f in images.files] == [images.vocabulary.classes[c] for c in images.classes]
    assert len(images.select(classes=["dog"], domains=["line"])) == 3


def test_a_broken_image_is_named_counted_and_skipped(tmp_path):
    make(tmp_path, [("photo", "dog", 2), ("line", "cat", 2)], broken={("photo", "dog", 1)})
    with pytest.warns(
        UserWarning, match=r"1 files or folders are left out, beside 3 pictures: 'photo/dog/1\.png' \(not an image\)"
    ):
        images = cn.load_images(tmp_path)
    assert len(images) == 3


def test_pictures_are_decoded_once_when_they_are_embedded(tmp_path, clip, monkeypatch):
    make(tmp_path, [("photo", "dog", 2), ("line", "cat", 2)])
    opened, decoded = Counter(), []
    first, load = Image.open, ImageFile.ImageFile.load

    def counted(fp, *rest, **options):
        opened[Path(getattr(fp, "name", fp)).name] += 1
        return first(fp, *rest, **options)

    def counting(picture):
        if picture.tile:
            decoded.append(picture)
        return load(picture)

    monkeypatch.setattr(Image, "open", counted)
    monkeypatch.setattr(ImageFile.ImageFile, "load", counting)
    images = cn.load_images(tmp_path)
    assert not decoded and opened == {"0.png": 2, "1.png": 2}  # once for each of the four
    cn.embed(clip, images)
    assert len(decoded) == 4 and opened == {"0.png": 4, "1.png": 4}


def truncated(path):
    Image.effect_noise((64, 64), 80).save(path)
    path.write_bytes(path.read_bytes()[:400])
    return path


def test_a_truncated_picture_is_named_when_it_is_used(tmp_path, clip):
    folder = make(tmp_path, [("photo", "dog", 2), ("line", "cat", 2)])
    whole = cn.embed(clip, cn.load_images(folder))
    broken = truncated(folder / "photo" / "dog" / "big.png")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        images = cn.load_images(folder)  # headers only
    place = images.files.index(broken)
    with pytest.raises(ValueError, match=r"file: '.*big\.png' cannot be read \("):
        images.image(place)
    with pytest.warns(UserWarning, match=r"1 of 5 pictures are broken, their features NaN: file: '.*big\.png' cannot"):
        z = cn.embed(clip, images)
    assert z.isnan().all(1).nonzero().tolist() == [[place]]
    torch.testing.assert_close(z[torch.arange(5) != place], whole)


def test_pictures_that_are_all_broken_have_no_features(tmp_path, clip):
    images = cn.load_images(make(tmp_path, [("photo", "dog", 4), ("line", "cat", 3)]))
    for path in images.files:
        truncated(path)
    with pytest.warns(UserWarning, match="7 of 7 pictures are broken.*; and 2 more"):
        assert cn.embed(clip, images).isnan().all()
    assert cn.embed(clip, images.where(torch.zeros(7, dtype=torch.bool))).shape == (0, clip.width)


def test_what_a_file_manager_or_git_leaves_behind_is_no_class(tmp_path):
    cells = [("photo", "dog", 1), ("line", "cat", 1)]
    extra = [(".git", "dog", 1), ("photo", ".ipynb_checkpoints", 1), ("__MACOSX", "dog", 1), ("line", "__MACOSX", 1)]
    make(tmp_path, [*cells, *extra])
    for name in ("._0.png", ".DS_Store", ".hidden.png", "Thumbs.db", "notes.txt"):
        (tmp_path / "photo" / "dog" / name).write_bytes(b"no picture")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        images = cn.load_images(tmp_path)
    assert images.vocabulary == cn.Vocabulary(("cat", "dog"), ("line", "photo")) and len(images) == 2


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no named pipes here")
def test_only_regular_files_are_pictures(tmp_path, monkeypatch):
    make(tmp_path, [("photo", "dog", 1), ("line", "cat", 1)])
    os.mkfifo(tmp_path / "photo" / "dog" / "pipe.png")
    (tmp_path / "photo" / "dog" / "folder.png").mkdir()
    first = Image.open

    def guard(file, *rest, **options):
        assert "pipe.png" not in str(file), "opened, it would wait for ever"
        return first(file, *rest, **options)

    monkeypatch.setattr(Image, "open", guard)
    told = r"2 files .*dog.folder\.png' \(not a regular file\); .*dog.pipe\.png' \(not a regular file\)"
    with pytest.warns(UserWarning, match=told):
        assert len(cn.load_images(tmp_path)) == 2


def test_a_folder_that_may_not_be_listed_is_told(tmp_path, monkeypatch):
    make(tmp_path, [("photo", "dog", 1), ("line", "cat", 1), ("lost+found", "x", 1)])
    scan = os.scandir

    def refuse(path):
        if Path(path).name == "lost+found":
            raise PermissionError(13, "Permission denied", str(path))
        return scan(path)

    monkeypatch.setattr(os, "scandir", refuse)
    with pytest.warns(UserWarning, match=r"1 files or folders .*: 'lost\+found' \(Permission denied\)"):
        assert len(cn.load_images(tmp_path)) == 2


@pytest.mark.promise("No path is followed out of a folder")
def test_no_link_is_followed_out_of_the_folder(tmp_path):
    secret = make(tmp_path / "secret", [("photo", "dog", 3), ("line", "bird", 1)])
    folder = make(tmp_path / "mine", [("photo", "dog", 1), ("line", "cat", 1)])
    (folder / "stolen").symlink_to(secret / "photo", target_is_directory=True)
    (folder / "line" / "bird").symlink_to(secret / "line" / "bird", target_is_directory=True)
    (folder / "line" / "cat" / "b.png").symlink_to(Path("..") / ".." / ".." / "secret" / "photo" / "dog" / "0.png")
    (folder / "line" / "cat" / "c.png").symlink_to("0.png")  # this one stays inside
    (tmp_path / "mine2").mkdir()  # a name that begins like the folder's is not inside
    (folder / "line" / "cat" / "d.png").symlink_to(tmp_path / "mine2" / "0.png")
    with pytest.warns(UserWarning, match="4 files or folders .*'stolen' .a link that leads out of the"):
        images = cn.load_images(folder)
    assert {f.relative_to(folder).as_posix() for f in images.files} == {
        "line/cat/0.png",
        "line/cat/c.png",
        "photo/dog/0.png",
    }
    (tmp_path / "way").symlink_to(folder, target_is_directory=True)  # the folder itself may be a link
    with pytest.warns(UserWarning, match="4 files"):
        assert len(cn.load_images(tmp_path / "way")) == 3


# --- what held


@pytest.mark.promise("No path is followed out of a folder")
def test_loops_of_links_end(tmp_path):
    folder = make(tmp_path, [("photo", "dog", 1), ("line", "cat", 1)])
    for place in (folder, folder / "photo", folder / "photo" / "dog"):
        (place / "here").symlink_to(".", target_is_directory=True)
        (place / "up.png").symlink_to("..", target_is_directory=True)
        (place / "self.png").symlink_to("self.png")
    with pytest.warns(UserWarning) as told:
        images = cn.load_images(folder)
    assert {f.relative_to(folder).as_posix() for f in images.files if "here" not in f.parts} == {
        "photo/dog/0.png",
        "line/cat/0.png",
    }
    assert any("self.png" in str(w.message) for w in told)


def test_a_bomb_is_refused_by_its_header(tmp_path):
    folder = make(tmp_path, [("photo", "dog", 1), ("line", "cat", 1)])
    (folder / "photo" / "dog" / "bomb.png").write_bytes(png_header(50_000, 50_000))
    with pytest.warns(UserWarning, match=r"1 files or folders .*bomb\.png' \(Image size \(2500000000 pixels"):
        assert len(cn.load_images(folder)) == 2


@pytest.mark.parametrize("name", ["two\nlines", "🐕 & <b>", "x" * 246, "a'b\"c{d}$", "-rf", "%s %d", "кот"])
def test_odd_names(name, tmp_path, clip):
    folder = make(tmp_path, [("photo", name, 1), ("photo", "cat", 1), ("line", "cat", 1)])
    Image.new("RGB", (8, 8)).save(folder / "photo" / name / f"{name}.png")
    (folder / "photo" / name / f"!{name[:200]}.png").write_bytes(b"no picture")
    with pytest.warns(UserWarning, match="1 files or folders are left out") as told:
        images = cn.load_images(folder)
    message = str(told[0].message)
    assert repr(f"photo/{name}/!{name[:200]}.png") in message and "\n" not in message
    assert clean_name(name) in images.vocabulary.classes
    assert cn.zero_shot(clip, images).shape == images.vocabulary.shape


def test_bad_folders_are_refused(tmp_path):
    with pytest.raises(ValueError, match="folder: .*nowhere.* is not a folder"):
        cn.load_images(tmp_path / "nowhere")
    with pytest.raises(ValueError, match="holds no pictures; expected <domain>/<class>/<picture>"):
        cn.load_images(tmp_path)
    one = make(tmp_path / "one", [("photo", "dog", 1), ("photo", "cat", 1)])
    with pytest.raises(
        ValueError, match=r"holds one folder, 'photo'; expected one of 'domains:.*/one', .* and 'classes:.*/one/photo'"
    ):
        cn.load_images(one)
    bad = make(tmp_path / "bad", [("photo", "dog", 1), ("line", "dog", 1)])
    with pytest.raises(ValueError, match="holds 1 class"):
        cn.load_images(bad)
    with pytest.raises(ValueError, match="split: 'tset' is not known; did you mean 'test'"):
        cn.load_images(split="tset")


def test_select_refuses_unknown_names():
    with pytest.raises(ValueError, match="classes: 'dgo'"):
        cn.load_images().select(classes=["dgo"])


def test_halves_cut_every_cell(images):
    k = images.vocabulary.shape[1]
    first = images.halves(3)
    counts, half, rest = images.counts(), images.where(first).counts(), images.where(~first).counts()
    assert torch.equal(half, counts // 2) and torch.equal(half + rest, counts)
    assert torch.equal(first, images.halves(3)) and not torch.equal(first, images.halves(4))
    picked = images.where(first)
    assert picked.files == tuple(f for f, wanted in zip(images.files, first.tolist(), strict=True) if wanted)
    assert torch.equal(picked.classes * k + picked.domains, (images.classes * k + images.domains)[first])


def test_where_needs_a_mask(images):
    with pytest.raises(ValueError, match=r"mask: \(2,\) torch.int64; expected bool"):
        images.where(torch.tensor([0, 1]))


def index():
    with open(data_folder("miniworld") / "index.csv", newline="") as file:
        return list(csv.DictReader(file))


def test_miniworld_is_what_its_card_says():
    rows, folder = index(), data_folder("miniworld")
    files = {p.relative_to(folder).as_posix() for p in folder.glob("*/*/*/*.webp")}
    assert files == {r["file"] for r in rows}
    counts = Counter((r["class"], r["domain"]) for r in rows)
    assert 12 <= len({c for c, _ in counts}) <= 20 and len({d for _, d in counts}) == 6
    assert len(set(counts.values())) > 1 and sum(counts.values()) == len(rows)
    splits = Counter((r["class"], r["domain"], r["split"]) for r in rows)
    assert len(splits) == 2 * len(counts)
    assert min(n for (*_, split), n in splits.items() if split == "test") >= 5
    assert min(n for (*_, split), n in splits.items() if split == "train") >= 3
    books = {domain: n for (label, domain, split), n in splits.items() if (label, split) == ("book", "test")}
    assert books["line"] >= 8 and sum(books.values()) - books["line"] >= 25  # the story of notebook 05
    assert sum(p.stat().st_size for p in folder.rglob("*") if p.is_file()) <= 25e6


def test_train_and_test_share_no_design_family_and_no_licence_forbids():
    rows = index()
    train, test = ({r["family"] for r in rows if r["split"] == s} for s in ("train", "test"))
    assert train and test and not train & test
    assert all(r["licence"] and r["author"] and r["source"] for r in rows)
    assert not [r for r in rows if "GPL" in r["licence"] or "NC" in r["licence"] or "ND" in r["licence"]]


@pytest.mark.slow
def test_miniworld_pictures_are_distinct_and_of_one_size():
    both = [some.image(i) for some in (cn.load_images(split="train"), cn.load_images()) for i in range(len(some))]
    assert {picture.size for picture in both} == {(128, 128)}
    assert len({picture.tobytes() for picture in both}) == len(both)


def test_pictures_are_read_whenever_they_are_used(tmp_path, clip):
    images = cn.load_images(make(tmp_path, [("photo", "dog", 1), ("photo", "cat", 1), ("line", "dog", 1)]))
    before, old = cn.embed(clip, images), images.image(0).getpixel((0, 0))
    Image.new("RGB", (8, 8), (0, 255, 0)).save(images.files[0])
    after = cn.embed(clip, images)
    assert (old, images.image(0).getpixel((0, 0))) == ((0, 0, 0), (0, 255, 0))
    assert not torch.allclose(after[0], before[0], atol=1e-3)
    torch.testing.assert_close(after[1:], before[1:])
    images.files[0].unlink()
    with pytest.raises(FileNotFoundError):
        cn.embed(clip, images)
