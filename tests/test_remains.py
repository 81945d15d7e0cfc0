"""Lesson 08: what was measured of retrained models and of OpenAI's CLIP, and the student's function in the story."""

import torch

from clipnull.course import remains
from clipnull.course.lesson import measured


def test_what_was_measured_says_what_the_lesson_says():
    rows = measured("remains/retrained", "rows").set_index(["what", "data", "model"])
    assert {*rows.index} == {
        (what, data, model)
        for what in ("dog", "house", "cartoon")
        for data in ("miniworld", "PACS")
        for model in ("unedited", "retrained")
    }
    never = rows.xs("retrained", level="model")
    assert never["named"].min() < 5 and never["named"].max() > 65, "ignorance is a range"
    assert never["auc"].min() > 0.4 and never["auc"].max() < 0.85
    assert rows.loc[("dog", "PACS", "unedited"), "probe"] > 10 + never.loc[("dog", "PACS"), "probe"]


def test_a_relative_is_neither_nearest_nor_asked_by_a_probe():
    z = torch.nn.functional.normalize(torch.tensor([[1.0, 0.0], [1.0, 0.01], [1.0, 0.2], [0.0, 1.0]]), dim=1).double()
    kin = torch.eye(4, dtype=torch.bool)
    assert remains.nearest(z, kin).tolist() == [1, 0, 1, 2]
    kin[:2, :2] = True
    assert remains.nearest(z, kin).tolist() == [2, 2, 1, 2]


def test_the_students_function_stands_above_the_reference(capsys):
    def stub(scores, positive):
        raise NotImplementedError

    cases = {"here": (torch.tensor([0.1, 0.9]), torch.tensor([False, True]))}
    for function, line in ((stub, "Your own row appears"), (lambda s, p: 0.25, "| yours | 0.25 |"), (len, "TypeError")):
        remains.try_function("08-2", function, cases, "AUC", float)
        shown = capsys.readouterr().out
        assert line in shown and "| reference | 1.00 |" in shown
