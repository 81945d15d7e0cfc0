"""Measure the models that never knew, and write their card: python answers.py [--pacs PACS/test]

What does each answer when it is asked for what it never met, and what does it know of everything else? Pictures that no
model was trained on, "a picture of a ...", means over cells; PACS comes from --pacs or the variable CLIPNULL_DATA.
"""

import argparse
import os
from collections import Counter
from collections.abc import Iterator

import torch
import torch.nn.functional as F
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import cross_val_predict
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from train import STAGES

import clipnull as cn
from clipnull.audits.probes import features_before_projection
from clipnull.evaluate import accuracy_matrix, domain_accuracy, macro, predict
from clipnull.files import data_folder, write_text
from clipnull.images import Images
from clipnull.models import EMBEDDED, RETRAINED
from clipnull.prompts import embed_classes, embed_domains

CARD = """# Models that never knew

miniclip, trained again by the same script with the same settings and seeds, without one class or domain: no picture of
it, and no caption with its name or a near word (`WITHOUT` in `data/build/captions.py`), in WordNet neither. What such a
model answers is the yardstick of forgetting: more cannot be asked of an edit.

`clipnull.load("miniclip-no-dog")`, `"miniclip-no-house"`, `"miniclip-no-cartoon"`. Each file holds the difference to
miniclip (`clipnull/models.py`); licence and origin of the data are miniclip's.

## What they answer

Pictures that no model was trained on; the prompt "a picture of a ..."; means over cells, in percent.

{table}

- *right*: of the pictures of what it never met, how many are still named right. A name that no caption held is only a
  string of tokens; so what is right is chance or what parts of the word mean elsewhere.
- *everything else*: accuracy on all other cells. The models differ there by what a second run of training changes,
  and by the one class more.
- *classified as*: the names that its pictures get most often.
  Asked to choose between names it knows and one it does not, a model may still choose the latter where none of the
  others fits: so for houses. The AUC does not depend on such a choice.
- *AUC of the score*: does the score of the name rank its pictures above all others? 50 is ignorance.
- *probe*: a linear classifier, trained on labelled pictures (five folds), tells these pictures from all others: AUC
  before the projection, and after it. What tells a dog from a horse is useful for horses, too, and the tower starts
  from ImageNet weights, which know 118 breeds of dogs. "Never knew" is true of the name, the captions and our pictures,
  not of ImageNet.

## Recipe

The first three stages of training are shared with miniclip, which met neither dogs nor houses nor cartoons there; each
clean model then has a last stage of its own, {steps:,} steps at 96 px (`data/build/README.md`), about 20 minutes on two
quiet cores. That of the model without houses starts from `common.safetensors`, of half precision, with new tokens for
"house" and "houses", which WordNet's "boathouse" and 59 more words had taught the shared stages. Commands, in
`data/build`:

```
python train.py RENDERED PACS/train WORDNET NO-DOG --without dog --common common.safetensors
python export.py NO-DOG/no-dog.pt ../clean/no-dog.safetensors --base ../miniclip
python answers.py --pacs PACS/test
```

Seeds are those of `STAGES` in `data/build/train.py`.
"""


def probed(x: torch.Tensor, shown: torch.Tensor) -> float:
    """The AUC, in percent, of a linear probe for `shown` (n,) bool on features (n, D), in five folds."""
    probe = make_pipeline(StandardScaler(), LogisticRegression(C=0.01, max_iter=2000))
    scores = cross_val_predict(probe, x.numpy(), shown.numpy(), cv=5, method="decision_function")
    return 100 * roc_auc_score(shown, scores)


def rows(images: Images, data: str, what: str) -> Iterator[list[str]]:
    """A row for miniclip and one for the model without `what`, on `images`; none where they do not show it."""
    classes, domains = images.vocabulary.classes, images.vocabulary.domains
    if what not in (*classes, *domains):
        return
    request = cn.Forget(classes=[what]) if what in classes else cn.Forget(domains=[what])
    mask = request.mask(images.vocabulary)
    shown = mask[images.classes, images.domains]
    for name in (EMBEDDED, f"{EMBEDDED}-no-{what}"):
        clip = cn.load(name, device="cpu")
        z = F.normalize(cn.embed(clip, images), dim=-1)
        classifier = embed_classes(clip, classes)
        answers = predict(clip, images, features=z)
        accuracy = accuracy_matrix(answers, images)
        answer, right = "–", domain_accuracy(clip, images, z)  # of a domain: is it named?
        if what in classes:
            called = Counter(answers[shown].tolist()).most_common(3)
            answer = ", ".join(f"{classes[i]} {100 * n / int(shown.sum()):.0f}" for i, n in called)
            right, score = accuracy, z @ classifier[classes.index(what)]
        else:
            score = z @ embed_domains(clip, domains)[domains.index(what)]
        yield [
            data,
            name,
            f"{100 * macro(right, mask):.1f} ({int(shown.sum())} pictures)",
            f"{100 * macro(accuracy, ~mask):.1f}",
            answer,
            f"{100 * roc_auc_score(shown, score):.0f}",
            f"{probed(features_before_projection(clip, images), shown):.0f}, {probed(z, shown):.0f}",
        ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pacs", default=os.environ.get("CLIPNULL_DATA", "") and os.environ["CLIPNULL_DATA"] + "/test")
    pacs = parser.parse_args().pacs
    sets = [("miniworld test", cn.load_images()), *([("PACS test", cn.load_images(pacs))] if pacs else [])]
    lines = ["| pictures | model | right | everything else | classified as | AUC of the score | probe |"]
    lines.append("|---" * 7 + "|")
    for name in RETRAINED:
        for data, images in sets:
            for row in rows(images, data, name.removeprefix(f"{EMBEDDED}-no-")):
                lines.append("| " + " | ".join(row) + " |")
                print(lines[-1], flush=True)
    path = write_text(data_folder("clean") / "README.md", CARD.format(table="\n".join(lines), steps=STAGES[-1].steps))
    print(path)


if __name__ == "__main__":
    main()
