"""The pictures of a lesson: broken pictures are left out and named."""

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


def test_a_lesson_opens_without_broken_pictures(folder, capsys):
    with pytest.warns(UserWarning, match=r"4 of 20 pictures are broken.*1\.(png|jpg)"):
        opened = lesson.open(data=str(folder), forget_class="dog", forget_domain="line")
    assert len(opened.images) == len(opened.z) == len(opened.before) == 16 and opened.z.isfinite().all()
    assert opened.images.counts().eq(4).all() and not any(file.stem == "1" for file in opened.images.files)
    assert "4 of 20 pictures are broken and left out" in capsys.readouterr().out
    whole = lesson.open(data=str(folder), forget_class="dog")
    (z, classes, domains), measured = pictures.labelled_pictures(whole, str(folder))  # one half where no split is named
    assert len(z) == len(classes) == len(domains) == int((~measured).sum()) > 0
    assert torch.allclose(z, whole.z[~measured]) and torch.equal(classes, whole.images.classes[~measured])
