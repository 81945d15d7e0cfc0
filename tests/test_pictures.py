"""The pictures of a lesson: broken pictures are left out and named, wrong names and pictures are told first."""

import pytest
import torch

from clipnull.course import lesson, pictures


@pytest.fixture
def folder(tmp_path, images):
    """Five pictures in each of two cells of two domains, the second of each cut in half after its header."""
    for domain in ("photo", "line"):
        for name in ("cat", "dog"):
            (tmp_path / domain / name).mkdir(parents=True)
            for i in range(5):
                images.image(i).save(path := tmp_path / domain / name / f"{i}.{'png' if name == 'cat' else 'jpg'}")
                if i == 1:
                    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    return tmp_path


def test_broken_pictures_are_left_out_and_named(clip, folder, capsys):
    with pytest.warns(UserWarning, match=r"4 of 20 pictures are broken.*1\.(png|jpg)"):
        images, z = pictures.open_pictures(clip, str(folder), ["dog"], ["line"])
    assert len(images) == len(z) == 16 and z.isfinite().all() and images.counts().eq(4).all()
    assert capsys.readouterr().out == "4 of 20 pictures are broken and left out; a warning names them.\n"
    assert not any(file.stem == "1" for file in images.files)


def test_a_lesson_opens_without_broken_pictures(folder, capsys):
    with pytest.warns(UserWarning, match="4 of 20 pictures are broken"):
        opened = lesson.open(data=str(folder), forget_class="dog", forget_domain="line")
    assert len(opened.images) == len(opened.z) == len(opened.before) == 16 and opened.counts()["of_forgotten"] == 4
    assert "4 of 20 pictures are broken and left out" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"classes": ["dgo"]}, "classes: 'dgo' is not known; did you mean 'dog'"),
        ({"domains": ["sketch"]}, "domains: 'sketch' is not known; expected one of 'line', 'photo'"),
        ({"classes": ["dog"], "min_pictures": 11}, "data: 10 pictures of dog; expected at least 11"),
        ({"min_pictures": 11}, "data: 10 pictures of a class; expected at least 11"),
        ({"data": "photo"}, "data: .*photo' has one domain; expected two or more, in folders <domain>/<class>/"),
    ],
)
def test_wrong_pictures_and_names_are_told_before_anything_is_embedded(clip, folder, monkeypatch, given, message):
    monkeypatch.setattr(pictures, "embed", lambda *_: pytest.fail("pictures are embedded"))
    with pytest.raises(ValueError, match=message):
        pictures.open_pictures(clip, **{**given, "data": str(folder / given.get("data", ""))})


def test_one_domain_is_enough_where_a_lesson_says_so(clip, folder, monkeypatch):
    monkeypatch.setattr(pictures, "embed", lambda _, images: torch.ones(len(images), 4))
    assert pictures.open_pictures(clip, str(folder / "photo"), min_domains=1)[0].vocabulary.shape[1] == 1


def test_labelled_pictures_are_those_of_the_train_split_or_one_half(folder):
    whole = lesson.open(data=str(folder), forget_class="dog")
    (z, classes, domains), measured = pictures.labelled_pictures(whole, str(folder))
    assert len(z) == len(classes) == len(domains) == int((~measured).sum()) > 0
    assert torch.allclose(z, whole.z[~measured]) and torch.equal(classes, whole.images.classes[~measured])
