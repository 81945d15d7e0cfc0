"""Test if other forms of a forgotten name still find the class: "dogs", "three dogs", "photos of dogs" for "dog".

Each class is forgotten everywhere with each method's defaults. A figure is the accuracy with a form after the edit,
divided by the accuracy before. No edit is built from these forms. "names alone" edits use only the names themselves.
"""

import script
import torch
import torch.nn.functional as F

from clipnull.audits.words import OTHER_FORMS, paraphrases
from clipnull.embedding import embed, readable
from clipnull.files import markdown
from clipnull.from_names import embed_vocabulary
from clipnull.images import Images
from clipnull.methods import METHODS, solve
from clipnull.models import Clip
from clipnull.vocabulary import FORMS, Forget

QUERIES = ("a picture of {a}", *OTHER_FORMS, "these are {p}", "lots of {p}", "a small {n}")


def measure(name: str, clip: Clip, images: Images) -> dict:
    """Return the shares over all classes with pictures, by method and inputs of the edit, one per form."""
    images, (z,) = readable(images, embed(clip, images))
    v, z = images.vocabulary, F.normalize(z.double(), dim=1)
    classifiers = torch.stack([paraphrases(clip, v.classes, form).double().cpu() for form in QUERIES])

    def accuracy(c: int, rows: torch.Tensor) -> torch.Tensor:
        return ((rows @ classifiers.mT).argmax(-1) == c).double().mean(1)

    pictures = {c: z[images.classes == c] for c in range(len(v.classes)) if (images.classes == c).any()}
    before = torch.stack([accuracy(c, rows) for c, rows in pictures.items()]).sum(0)
    shares = []
    for source, vocabulary in (("names alone", v.with_forms(None)), ("forms", v)):
        cells = embed_vocabulary(clip, vocabulary)
        for method in METHODS:
            edits = {c: solve(cells, Forget([v.classes[c]]).mask(v), method) for c in pictures}
            after = torch.stack([accuracy(c, edits[c].images(rows)) for c, rows in pictures.items()]).sum(0)
            shares.append({"method": method, "from": source, "left": [round(x, 4) for x in (after / before).tolist()]})
    header = {"kind": "forms", "name": f"other forms, {name}", "pictures": len(images)}
    return header | {"forms": QUERIES, "shares": shares}


def section(entry: dict) -> list[str]:
    built = ", ".join(form.replace("{n}", "dog").replace("{p}", "dogs") for form in FORMS)
    about = (
        "One class is forgotten everywhere, then classified with other forms of its name. Figures are the accuracy "
        f"after the edit divided by the accuracy before, over all classes ({entry['pictures']} pictures; "
        f"`data/results/forms.py`). Edits are built from the forms {built}, none of which is a query here."
    )
    rows = [[f"`{r['method']}`", r["from"], *(f"{x:.2f}" for x in r["left"])] for r in entry["shares"]]
    words = [form.replace("{a}", "a dog").replace("{n}", "dog").replace("{p}", "dogs") for form in entry["forms"]]
    return [about, markdown(rows, ["method", "built from", *words])]


if __name__ == "__main__":
    script.run(__doc__, measure, section)
