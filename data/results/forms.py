"""What other forms of a forgotten word still find: "dogs", "three dogs", "photos of dogs" after "dog" went.

For each class, forgotten everywhere by a method's defaults: the share of its pictures that a form names right after the
edit, of the share before it. No edit is built from these forms. "names alone" are edits of the names as they are.
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

ASKED = ("a picture of {a}", *OTHER_FORMS, "these are {p}", "lots of {p}", "a small {n}")


def measure(name: str, clip: Clip, images: Images) -> dict:
    """Shares by method, form and whether forms built the edit, over all classes with pictures."""
    images, (z,) = readable(images, embed(clip, images))
    v, z = images.vocabulary, F.normalize(z.double(), dim=1)
    classifiers = torch.stack([paraphrases(clip, v.classes, form).double().cpu() for form in ASKED])

    def right(c: int, rows: torch.Tensor) -> torch.Tensor:
        return ((rows @ classifiers.mT).argmax(-1) == c).double().mean(1)

    pictures = {c: z[images.classes == c] for c in range(len(v.classes)) if (images.classes == c).any()}
    before = torch.stack([right(c, rows) for c, rows in pictures.items()]).sum(0)
    shares = []
    for built, vocabulary in (("names alone", v.with_forms(None)), ("forms", v)):
        cells = embed_vocabulary(clip, vocabulary)
        for method in METHODS:
            edits = {c: solve(cells, Forget([v.classes[c]]).mask(v), method) for c in pictures}
            after = torch.stack([right(c, edits[c].images(rows)) for c, rows in pictures.items()]).sum(0)
            shares.append({"method": method, "from": built, "left": [round(x, 4) for x in (after / before).tolist()]})
    return {"kind": "forms", "name": f"other forms, {name}", "pictures": len(images), "forms": ASKED, "shares": shares}


def section(entry: dict) -> list[str]:
    built = ", ".join(form.replace("{n}", "dog").replace("{p}", "dogs") for form in FORMS)
    about = (
        "Forget one class everywhere, ask for it in other words: the share of what a form found before the edit that "
        f"it still finds, over all classes ({entry['pictures']} pictures; `data/results/forms.py`). Edits are built "
        f"from the forms {built}; none of them is asked here."
    )
    rows = [[f"`{r['method']}`", r["from"], *(f"{x:.2f}" for x in r["left"])] for r in entry["shares"]]
    words = [form.replace("{a}", "a dog").replace("{n}", "dog").replace("{p}", "dogs") for form in entry["forms"]]
    return [about, markdown(rows, ["method", "built from", *words])]


if __name__ == "__main__":
    script.run(__doc__, measure, section)
