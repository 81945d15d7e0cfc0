"""What pictures are called in training, and what is kept back to test unseen wording.

Templates and synonyms under HELD_OUT are never shown with a picture in training.
"""

import random
import re
from pathlib import Path

DOMAIN_WORDS = {
    "photo": ["photo", "photograph", "snapshot"],
    "art painting": ["painting", "art painting", "artwork", "oil painting"],
    "cartoon": ["cartoon", "cartoon drawing", "comic drawing"],
    "sketch": ["sketch", "pencil sketch", "rough sketch", "hand sketch"],
    "line": ["line drawing", "line icon", "outline icon", "line art"],
    "silhouette": ["silhouette", "solid black icon", "glyph", "silhouette icon"],
    "flat": ["flat icon", "flat design icon", "flat illustration"],
    "shaded": ["shaded icon", "shaded emoji", "glossy icon"],
    "3d": ["3d render", "3d icon", "3d model"],
    "pixel": ["pixel art", "pixel icon", "pixelated icon"],
}
FREE = [
    "{n}",
    "{a}",
    "an image of {a}",
    "this is {a}",
    "the {n}",
    "here is {a}",
    "one {n}",
    "a view of {a}",
    "we see {a}",
    "it shows {a}",
    "an example of {a}",
    "a good image of {a}",
    "some {n}",
    "{a} on its own",
    "a close look at {a}",
    "what we have here is {a}",
    "look, {a}",
    "an image with {a} in it",
]
STYLED = [
    "a {d} of {a}",
    "a {d} of {a}",
    "{a} as a {d}",
    "a {d} showing {a}",
    "{a}, {d}",
    "the {d} of {a}",
    "{a} in {d} style",
    "a {d} with {a} in it",
    "a simple {d} of {a}",
    "{n} {d}",
    "a {d} of the {n}",
]
DOMAIN_ONLY = ["a {d}", "this is a {d}", "an image in {d} style", "{d}", "a {d} of something", "the style of a {d}"]
HELD_OUT_FREE = ["a picture of {a}", "a depiction of {a}", "you can see {a}", "a picture of the {n}"]
HELD_OUT_STYLED = ["this {d} depicts {a}", "a picture of {a}, drawn as a {d}", "a nice {d} of one {n}"]

SYNONYMS = {
    "dog": ["puppy", "doggy"],
    "horse": ["pony", "mare"],
    "house": ["cottage", "building"],
    "person": ["man", "woman", "human", "face"],
    "guitar": ["acoustic guitar", "electric guitar"],
    "elephant": ["elephant calf"],
    "giraffe": ["tall giraffe"],
    "car": ["sedan"],
    "cat": ["kitten"],
    "boat": ["sailboat"],
    "bird": ["sparrow"],
    "flower": ["blossom"],
    "airplane": ["plane"],
    "mouse animal": ["mouse"],
}
HELD_OUT_SYNONYMS = {
    "dog": ["hound", "pooch", "canine"],
    "horse": ["steed", "stallion", "equine"],
    "house": ["home", "dwelling", "bungalow"],
    "person": ["individual", "somebody"],
    "elephant": ["pachyderm"],
    "car": ["automobile"],
    "cat": ["feline", "kitty"],
    "boat": ["vessel"],
    "airplane": ["aeroplane", "aircraft"],
    "couch": ["sofa"],
    "rabbit": ["bunny"],
    "pig": ["swine", "hog"],
    "flower": ["bloom"],
    "cow": ["cattle"],
}
# What a model without a class or a domain must not meet in texts: words, and synsets of WordNet with all below them.
WITHOUT = {
    "dog": {
        "words": "dog dogs doggy doggie puppy puppies pup pups hound hounds pooch mutt canine canines cur poodle"
        " spaniel terrier retriever beagle bulldog dachshund collie corgi husky labrador mastiff chihuahua pug kennel"
        " bark barks sheepdog sheepdogs watchdog hotdog lapdog",
        "synsets": ("dog", "canine"),
        "inside": "",
    },
    "house": {
        "words": "house houses home homes cottage cottages building buildings dwelling dwellings bungalow hut huts"
        " cabin cabins villa mansion chalet igloo residence homestead farmhouse townhouse igloos shack",
        "synsets": ("dwelling", "house", "hut", "mansion", "villa", "cottage", "cabin"),
        "inside": "house houses",
    },
    "cartoon": {"words": "cartoon cartoons comic comics", "synsets": (), "inside": ""},
}
"""What a model without a class must not meet: texts with one of `words`; WordNet's `synsets` and all below them; in the
last stage, texts with a longer word that ends in one of `inside` ("boathouse": the tokenizer cuts it into boat, house).
The shared stages met 60 such words. So their tokens start anew in the last stage (`train.renew`)."""
SPOKEN = {"mouse animal": "mouse"}
_HELD = re.compile(r"\b(" + "|".join(w for ws in HELD_OUT_SYNONYMS.values() for w in ws) + r")\b")


def article(noun: str) -> str:
    return f"{'an' if noun[:1] in 'aeiou' else 'a'} {noun}"


def fill(template: str, noun: str = "", domain: str = "") -> str:
    text = template.format(a=article(noun), n=noun, d=domain)
    return re.sub(r"\ba (?=[aeiou])", "an ", text)


def wording(row: dict) -> list[str]:
    """Names a picture may get in training: its own, cleaned, or its class's, without held-out synonyms."""
    name = " ".join(re.sub(r"[^a-z ]|\b(variant|alt|face|side|head)\b", " ", row["name"].lower()).split())
    names = [name] if len(name) > 2 and not _HELD.search(name) else []
    if not row["class"]:
        return names or [row["name"].lower()]
    return [SPOKEN.get(row["class"], row["class"])] + names


def mentions(without: tuple[str, ...]) -> re.Pattern[str]:
    """Matches a text that names one of `without` (keys of WITHOUT) or a near word; with none of them, no text."""
    words = [word for name in without for word in WITHOUT[name]["words"].split()]
    if len(without) == 1:  # the last stage, of one clean model
        words += [rf"\w+{word}" for word in WITHOUT[without[0]]["inside"].split()]
    return re.compile(r"\b(" + "|".join(words) + r")\b" if words else r"(?!)")


def wordnet(folder: Path, without: tuple[str, ...] = ()) -> list[list[str]]:
    """Texts that mean the same thing: synonyms, gloss and parent of concrete first-sense WordNet nouns.

    Left out: the synsets of `without` (keys of WITHOUT), all that lies below them, and texts with a near word.
    """
    first = {}
    for line in (folder / "index.noun").read_text().splitlines():
        if not line.startswith(" "):
            parts = line.split()
            first[parts[0]] = parts[4 + int(parts[3]) + 2]  # lemma pos n p_cnt ptrs.. sense_cnt tag_cnt offset
    synsets = {}
    for line in (folder / "data.noun").read_text().splitlines():
        if line.startswith(" "):
            continue
        head, gloss = line.split(" | ", 1)
        parts = head.split()
        n = int(parts[3], 16)
        lemmas = [w for w in parts[4 : 4 + 2 * n : 2] if first.get(w.lower()) == parts[0]]
        rest = parts[5 + 2 * n :]
        parents = [rest[i + 1] for i in range(0, len(rest) - 3, 4) if rest[i] in ("@", "@i")]
        lemmas = [w.replace("_", " ").lower() for w in lemmas]
        synsets[parts[0]] = (int(parts[1]), lemmas, " ".join(gloss.split(";")[0].lower().split()[:9]), parents)
    named = {word for name in without for word in WITHOUT[name]["synsets"]}
    gone = {offset for offset, (_, lemmas, _, _) in synsets.items() if named & set(lemmas)}
    while below := {o for o, (_, _, _, parents) in synsets.items() if gone & set(parents)} - gone:
        gone |= below
    near, groups = mentions(without), []
    for offset, (lexfile, lemmas, gloss, parents) in synsets.items():
        if lexfile in (5, 6, 8, 13, 17, 18, 20) and lemmas and offset not in gone:  # animal artifact body food ...
            above = [f"a kind of {synsets[p][1][0]}" for p in parents if p in synsets and synsets[p][1]]
            group = [text for text in lemmas + [gloss] + above if not near.search(text)]
            groups += [group] if group else []
    return groups


def sample(rng: random.Random, names: list[str], domain: str) -> tuple[str, str]:
    """A caption and what it fixes: "name" (index 0 of `names` or another), with or without the domain."""
    u = rng.random()
    d = rng.choice(DOMAIN_WORDS[domain])
    if u < 0.08:
        return fill(rng.choice(DOMAIN_ONLY), domain=d), "domain"
    noun = rng.choice(names)
    if u < 0.54:
        return fill(rng.choice(FREE), noun), "concept"
    return fill(rng.choice(STYLED), noun, d), "cell"
