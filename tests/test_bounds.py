"""Curves tell a form that cannot do better from names that do not say where pictures lie."""

import json
import sys

import bounds
import numpy as np
import pytest
import script
import write as results
from helpers import random

import clipnull as cn

C, K, D, N = 4, 2, 24, 320


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    """Pictures whose classes lie where names say, and whose domains do not."""
    rows = random(C + 2 * K, D, seed=3).numpy()
    classes, named, seen = 2 * rows[:C], rows[C : C + K], rows[C + K :]
    away = named[0] - named[1]
    seen = seen - (seen @ away / (away @ away))[:, None] * away
    c, k = np.arange(N) % C, np.arange(N) // C % K
    path = tmp_path_factory.mktemp("embeddings") / "apart.npz"
    np.savez(
        path,
        images=classes[c] + seen[k] + 0.1 * random(N, D, seed=4).numpy(),
        classes=np.array(list("abcd"))[c],
        domains=np.array(["photo", "line"])[k],
        class_names=np.array(list("abcd")),
        domain_names=np.array(["photo", "line"]),
        texts_build=classes[:, None] + named[None],
        texts_free=classes,
    )
    return str(path)


def test_labels_reach_what_names_do_not_say(file):
    curves = bounds.curves(cn.load(file, device="cpu"), cn.load_images(file))
    assert len(curves) == 8 and [p["setting"] for p in curves[0]["points"]] == list(bounds.STRENGTHS)
    rates = [p["forgetting_rate"] for p in curves[0]["points"]]
    assert rates == sorted(rates) and rates[0] < 0.5 < rates[-1]  # the stronger, the more is forgotten

    def least(paradigm, method, labelled, figure):  # that is lost where .95 is forgotten
        key = (paradigm, method, labelled)
        points = next(c["points"] for c in curves if (c["paradigm"], c["method"], c["labelled"]) == key)
        return min((p[figure] for p in points if p["forgetting_rate"] >= 0.95), default=100.0)

    for paradigm, figure in (("selective", "sibling_class_drop"), ("complete", "retain_drop")):
        for method in ("oblique", "gated"):
            assert least(paradigm, method, True, figure) < 1 < 10 < least(paradigm, method, False, figure)


def test_the_script_writes_the_curves_and_results_show_them(file, tmp_path, monkeypatch, capsys):
    out = tmp_path / "bounds.json"
    monkeypatch.setattr(sys, "argv", ["bounds.py", file, "--name", "apart", "--json", str(out)])
    script.run(bounds.__doc__, bounds.measure, bounds.section)
    entry = json.loads(out.read_text(encoding="utf-8"))
    assert (entry["kind"], entry["name"], entry["pictures"]) == ("bound", "bounds, apart", N)
    assert "labelled pictures" in capsys.readouterr().out
    _, table = bounds.section(results.summary(entry, "here"))
    assert len(table.splitlines()) == 2 + sum(len(curve["points"]) for curve in entry["curves"])
