"""How far two runs of training agree: python agree.py SECOND --pacs PACS/test --rendered RENDERED [--card].

SECOND is the folder that export.py made of another run of train.py; it is held against the embedded model. The same
script with the same seeds gives other weights on another machine or number of threads, since rounding differs and
training enlarges it. Prints accuracies of both, how often they give a picture the same name, and what edits of both
do; ends with status 1 where a difference is larger than TOLERANCES. --card: the table goes into the model card.
"""

import argparse
import os
import sys
from itertools import product
from statistics import fmean

from measure import many_classes, model_scores

import clipnull as cn
from clipnull.bench.sweep import sweep
from clipnull.evaluate import classify
from clipnull.files import data_folder, write_text
from clipnull.images import Images
from clipnull.models import Clip
from clipnull.prompts import text_classifiers

BEGIN, END = "<!-- second run: written by data/build/agree.py --card -->", "<!-- end of second run -->"
TOLERANCES = {
    "right": 2.0,  # points, means over cells
    "domains": 3.0,
    "200 classes": 2.0,
    "forgetting": 5.0,  # percent of what was known, means over requests
    "retain drop": 2.0,
    "sibling class": 5.0,
}
METHODS = ("nullspace", "oblique", "neuron", "gated")


def rates(clip: Clip, images: Images) -> dict[str, dict[str, float]]:
    """What selective edits of every cell do, by method: means over requests, in percent and in points."""
    rows = [row for row in sweep(clip, images, METHODS, ("selective",)) if row["prompts"] == "free"]
    rows_of = {method: [row for row in rows if row["method"] == method] for method in METHODS}
    return {
        method: {
            "forgetting": 100 * fmean(row["forgetting_rate"] for row in rows_of[method]),
            "retain drop": fmean(row["retain_drop"] for row in rows_of[method]),
            "sibling class": fmean(
                row["sibling_class_drop"] for row in rows_of[method] if row["sibling_class_drop"] is not None
            ),
        }
        for method in METHODS
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("second", help="folder of the other run's model")
    parser.add_argument("--pacs", default=os.environ.get("CLIPNULL_DATA", "") and os.environ["CLIPNULL_DATA"] + "/test")
    parser.add_argument("--rendered", required=True)
    parser.add_argument("--card", action="store_true")
    args = parser.parse_args()
    if not args.pacs:
        parser.error("--pacs names no folder, nor does CLIPNULL_DATA; expected PACS/test")
    models = (cn.load(device="cpu"), cn.load(f"local-dir:{args.second}", device="cpu"))
    lines, beyond = ["| | first run | second run | at most apart |", "|---|---|---|---|"], []

    def tell(what: str, values: tuple[float, float], key: str, form: str) -> None:
        lines.append(f"| {what} | {form.format(values[0])} | {form.format(values[1])} | {TOLERANCES[key]:g} |")
        if abs(values[0] - values[1]) > TOLERANCES[key]:
            beyond.append(what)

    for name, folder in (("PACS test", args.pacs), ("miniworld test", None)):
        images = cn.load_images(folder)
        scores = [model_scores(clip, name, images) for clip in models]
        tell(name, tuple(100 * f["right"] for f in scores), "right", "{:.1f} %")
        tell(f"{name}, naming the domain", tuple(100 * f["domains"] for f in scores), "domains", "{:.1f} %")
        first, second = (
            classify(cn.embed(clip, images), text_classifiers(clip, images.vocabulary), images.domains)
            for clip in models
        )
        lines.append(f"| {name}, pictures given the same name | {100 * (first == second).double().mean():.1f} % | | |")
        edited = [rates(clip, images) for clip in models]
        for method, key in product(METHODS, ("forgetting", "retain drop", "sibling class")):
            what, form = f"{name}, {key} of selective `{method}`", "{:.1f} %" if key == "forgetting" else "{:+.1f}"
            tell(what, tuple(table[method][key] for table in edited), key, form)
    tell("200 classes", tuple(100 * many_classes(clip, args.rendered)[0] for clip in models), "200 classes", "{:.1f} %")
    report = "\n".join(lines) + f"\n\nFurther apart than stated: {', '.join(beyond) or 'nothing'}."
    print(report)
    if args.card:
        card = data_folder("miniclip") / "README.md"
        before, rest = card.read_text(encoding="utf-8").split(BEGIN)
        write_text(card, f"{before}{BEGIN}\n\n{report}\n\n{END}{rest.split(END)[1]}")
    return bool(beyond)


if __name__ == "__main__":
    sys.exit(main())
