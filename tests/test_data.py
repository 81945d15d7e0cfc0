import csv
from collections import Counter

import pytest
import torch
from PIL import Image

import clipnull as cn
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
    with pytest.warns(UserWarning, match=r"1 of 4 pictures cannot be read .*photo.dog.1\.png \(not an image\)"):
        images = cn.load_images(tmp_path)
    assert len(images) == 3


def test_a_truncated_image_is_broken_too(tmp_path):
    make(tmp_path, [("photo", "dog", 2), ("line", "cat", 2)])
    whole = tmp_path / "photo" / "dog" / "big.png"
    Image.effect_noise((64, 64), 80).save(whole)
    whole.write_bytes(whole.read_bytes()[:400])
    with pytest.warns(UserWarning, match="1 of 5 .*big.png"):
        cn.load_images(tmp_path)


def test_bad_folders_are_refused(tmp_path):
    with pytest.raises(ValueError, match="folder: .*nowhere.* is not a folder"):
        cn.load_images(tmp_path / "nowhere")
    with pytest.raises(ValueError, match="holds no pictures; expected <domain>/<class>/<picture>"):
        cn.load_images(tmp_path)
    one = make(tmp_path / "one", [("photo", "dog", 1), ("photo", "cat", 1)])
    with pytest.raises(ValueError, match=r"holds 1 domain .*\(photo\); expected at least two"):
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
    assert len({c for c, _ in counts}) >= 12 and len({d for _, d in counts}) >= 6 and "photo" in {d for _, d in counts}
    assert min(counts.values()) >= 5
    assert len(set(counts.values())) > 1 and sum(counts.values()) == len(rows)
    splits = Counter((r["class"], r["domain"], r["split"]) for r in rows)
    assert min(splits.values()) >= 2 and len(splits) == 2 * len(counts)
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
