"""The names of classes and domains, the prompts made of them, and requests to forget some.

A *cell* is a (class, domain) pair. The prompts that *build* an edit are disjoint from those that *evaluate* it: to set
the score of one prompt to zero and then to measure with the same prompt proves nothing.
"""

import json
import re
import unicodedata
import warnings
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass, field, replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from torch import Tensor

from .errors import brief, distinct, one_of, shorten
from .files import read_lines

TEMPLATES = {
    "build": ("a {d} of {a}", "{a} in {d} style", "the {d} of {a}", "a {d} showing {a}", "{a}, {d}"),
    "free": ("a picture of {a}",),  # no domain: what zero-shot users type
    "domain": ("this {d} depicts {a}", "a picture of {a}, drawn as a {d}"),
}
"""The prompt sets. {a} is the class with its article, {d} the domain's phrase. "free" and "domain" only evaluate."""

PROMPTS = ("free", "domain", "build")
"""The prompt sets in the order of all tables."""

AN = re.compile(
    r"(?!uni(?!n|m|d)|u(s[aeu]|t[eio]|k|r[aoi]|bi|fo\b|sb\b|v\b)|eu|ewe|on(e|ce)\b)[aeiou]"
    r"|hour|hono|hones|heir|[fhlmnrsx]-|mp3|mri|suv|8|1[18]\b",
    re.IGNORECASE,
)
"""How words begin that "an" stands before."""

DOMAIN_PROMPTS = ("a {d}", "this is a {d}")
"""What names a domain and no object."""

FORMS = ("{n}", "the {n}", "{p}", "the {p}", "two {p}", "many {p}")
"""The forms of a class that edits are built from, {p} the plural: with and without article and number."""

DOMAIN_PHRASES = {
    "art_painting": "painting", "line": "line drawing", "silhouette": "silhouette", "flat": "flat icon",
    "shaded": "shaded icon", "3d": "3d render", "pixel": "pixel art", "real": "photo",
    "Real World": "photo", "Art": "painting", "Clipart": "clip art", "Product": "product photo",
    "clipart": "clip art", "infograph": "infographic", "quickdraw": "quick drawing",
    "CALTECH": "Caltech photo", "Caltech101": "Caltech photo", "LABELME": "LabelMe photo", "LabelMe": "LabelMe photo",
    "PASCAL": "Pascal photo", "VOC2007": "Pascal photo", "SUN": "SUN photo", "SUN09": "SUN photo",
}  # fmt: skip
"""What folder names of well-known data sets become in a prompt; any other name stays, underscores become spaces."""


CAMEL = re.compile(r"(?<=[^\W\d_][a-zß-öø-ÿ])(?=[A-ZÀ-ÖØ-Þ])|(?<=[A-ZÀ-ÖØ-Þ])(?=[A-ZÀ-ÖØ-Þ][a-zß-öø-ÿ]{2})")
"""Where a word begins in camel case, as in FlipFlops and TVMonitor, but not in iPad and TVs."""

CODE = re.compile(r"[A-Za-z]?\d{4,}|\d")
"""Names that say nothing to a model, such as n01855672."""


@dataclass(frozen=True)
class Vocabulary:
    """The names a model is asked about: C classes, at least two, and K domains.

    classes: names that differ as `words`. A mapping gives each class all the names it goes by, {"dog": ("dog", "puppy",
    "hound")}: its texts are means over them. `names` holds them, a tuple for each class. forms: "en", each name goes
    with its English forms (`forms_of`); with None, for names in another language, an edit takes them as they are.

    >>> import clipnull as cn
    >>> cn.Vocabulary(["cat", "dog"], ["photo", "line"]).shape
    (2, 2)
    >>> cn.Vocabulary(["alarm clock", "Alarm_Clock"], ["photo"])
    Traceback (most recent call last):
    ValueError: classes: 'alarm clock' and 'Alarm_Clock' become the same words, 'alarm clock'; expected each once
    """

    classes: Sequence[str]
    domains: Sequence[str]
    forms: str | None = field(default="en", compare=False)
    names: tuple[tuple[str, ...], ...] = field(default=(), init=False)

    def __post_init__(self) -> None:
        given: Any = self.classes
        for argument in ("classes", "domains"):
            object.__setattr__(self, argument, distinct(argument, getattr(self, argument)))
        if len(self.classes) < 2:
            raise ValueError(f"classes: only {self.classes[0]!r} given; expected at least two to choose between")
        groups = given if isinstance(given, Mapping) else {name: (name,) for name in self.classes}
        object.__setattr__(self, "names", tuple(distinct(f"classes: {c}", groups[c]) for c in self.classes))
        for argument in ("classes", "domains"):
            self._owners(argument)
        if self.forms is not None:
            one_of("forms", self.forms, ["en"])
        if codes := [name for group in self.names for name in group if CODE.fullmatch(name)]:
            warnings.warn(
                f"classes: {shorten(codes, 5)} look like codes, and a model reads words; expected names: rename the "
                "folders, list pictures in a table with the columns path and class, or give {code: [name]} in a "
                "vocabulary",
                stacklevel=3,
            )

    def _owners(self, argument: str) -> dict[str, str]:
        """The class or domain that each name means, by its `words`; ValueError where two share a name."""
        options = getattr(self, argument)
        others = self.names if argument == "classes" else [(phrase_of(name),) for name in options]
        owners: dict[str, str] = {}
        for owner, names in zip(options, others, strict=True):
            for text in map(words, (owner, *names)):
                if (other := owners.setdefault(text, owner)) != owner:
                    raise ValueError(
                        f"{argument}: {other!r} and {owner!r} become the same words, {text!r}; expected each once"
                    )
        return owners

    def with_forms(self, forms: str | None) -> "Vocabulary":
        """The same names with their forms, "en", or with None as they are."""
        return Vocabulary(dict(zip(self.classes, self.names, strict=True)), self.domains, forms)  # type: ignore[arg-type]

    def forms_of(self, class_name: str) -> tuple[str, ...]:
        """The forms of all names of a class, () where there are none; those of other classes' names are left to them.

        >>> Vocabulary(["glass", "glasses"], ["photo"]).forms_of("glass")
        ('glass', 'the glass')
        """
        return self.class_forms()[self.places("classes", [class_name])[0]]

    def class_forms(self) -> list[tuple[str, ...]]:
        """`forms_of` each class."""
        owners, forms = self._owners("classes"), []
        for owner, names in zip(self.classes, self.names, strict=True):
            group: list[str] = []
            for name in names if self.forms else ():
                several = plural(name)
                group += english_forms(name, several if owners.get(words(several), owner) == owner else "")
            forms.append(tuple(dict.fromkeys(group)))
        return forms

    @property
    def shape(self) -> tuple[int, int]:
        return len(self.classes), len(self.domains)

    def places(self, argument: str, values: object) -> list[int]:
        """Where names are among the "classes" or "domains" (the argument), however they are spelled (`words`).

        A class is known by all its names. Raises ValueError that names the argument for one that is not known.
        """
        options, owners = getattr(self, argument), self._owners(argument)
        place = {name: i for i, name in enumerate(options)}
        return [
            place[owners.get(words(value)) or one_of(argument, value, options)]
            for value in distinct(argument, values, options)
        ]


def plural(name: str) -> str:
    """The English plural of a name, by the library inflect; the name itself where it is one, or no English word.

    >>> [plural(name) for name in ("dog", "bus", "fire_truck", "scissors", "sheep", "people", "chien-loup", "犬")]
    ['dogs', 'buses', 'fire trucks', 'scissors', 'sheep', 'people', 'chien-loups', '犬']
    """
    noun, english = spaced(name), _inflect().engine()
    is_plural = english.singular_noun(noun) and not noun.endswith(("us", "is", "ss"))  # which are a bus, an iris
    return noun if not noun.isascii() or is_plural else english.plural_noun(noun)


def _inflect() -> Any:
    """The library inflect, without its checks of types: setting them up would take three seconds of every process."""
    checks = mock.patch("typeguard.typechecked", lambda function: function)
    with checks if find_spec("typeguard") else nullcontext():
        import inflect
    return inflect


def english_forms(name: str, several: str | None = None) -> list[str]:
    """FORMS of a name. several: its plural, where it is known; "" for the forms of the singular alone."""
    singular, several = spaced(name), plural(name) if several is None else several
    return [f.replace("{n}", singular).replace("{p}", several) for f in FORMS if several or "{p}" not in f]


def spaced(name: str) -> str:
    """A name as a prompt says it: composed accents, blanks for underscores and between words in camel case.

    >>> [spaced(name) for name in ("Alarm_Clock", "GoldFish", "TVMonitor", "CaféBar", "the+sun", "c++", "TVs", "iPad")]
    ['Alarm Clock', 'Gold Fish', 'TV Monitor', 'Café Bar', 'the sun', 'c++', 'TVs', 'iPad']
    """
    name = re.sub(r"(?<=[^\W_])\+(?=[^\W_])|_", " ", unicodedata.normalize("NFC", name))
    return " ".join(CAMEL.sub(" ", name).split())


def words(name: str) -> str:
    """The normal form of a name, `spaced` in small letters: two names of the same words are one to a text encoder."""
    return spaced(name).lower()


def phrase_of(domain: str) -> str:
    """What a domain is called in a prompt."""
    return DOMAIN_PHRASES.get(domain) or spaced(domain)


def format_prompt(template: str, class_name: str, domain: str = "") -> str:
    """The prompt that a template makes of a class and a domain: {a} with its article, {n} without, {p} its plural.

    >>> format_prompt("a {d} of {a}", "elephant", "art_painting")
    'a painting of an elephant'
    >>> format_prompt("three {p}", "mouse")
    'three mice'
    >>> [format_prompt("{a} in {d} style", name, "ink") for name in ("unicorn", "hourglass", "vitamin a", "{d}")]
    ['a unicorn in ink style', 'an hourglass in ink style', 'a vitamin a in ink style', 'a {d} in ink style']
    """
    noun, phrase = spaced(class_name), phrase_of(domain)
    template = template.replace("a {d}", "{ad}").replace("a {n}", "{a}")
    several = plural(class_name) if "{p}" in template else ""
    return template.format(a=_with_article(noun), n=noun, p=several, ad=_with_article(phrase), d=phrase)


def _with_article(noun: str) -> str:
    """The noun with "a" or "an", by its sound: "a unicorn", "an hour"."""
    return f"{'an' if AN.match(noun) else 'a'} {noun}"


def is_near(name: str, classes: Sequence[str]) -> bool:
    """Whether `name` holds the name of a class as words, is held by one, or is one but for blanks and a plural.

    >>> [is_near(name, ["fire truck", "cat"]) for name in ("truck", "firetrucks", "Cats", "black cat", "cattle")]
    [True, True, True, True, False]
    """
    text = words(name)
    for other in map(words, classes):
        if f" {other} " in f" {text} " or f" {text} " in f" {other} ":
            return True
        if text.replace(" ", "").rstrip("s") == other.replace(" ", "").rstrip("s"):
            return True
    return False


def common_names() -> tuple[str, ...]:
    """Names of common things, most of them animals and objects: first names of ImageNet's 1,000 classes (WordNet).

    From the list that the library timm carries (Apache-2.0), in small letters; without doubles and accents, 997.
    """
    return tuple((Path(__file__).parent / "common_words.txt").read_text(encoding="utf-8").split("\n")[:-1])


@dataclass(frozen=True)
class Forget:
    """A request: forget `classes` in `domains`; leave one out to mean all of them. `a | b` asks for both.

    Classes alone: the *global* paradigm; both: *selective*; domains alone: *complete*, everything in them, which is our
    reading of the paper's abstract. Its other reading, every trace of some classes in some domains, is a selective
    request of which traces stay (lesson 07). also: further requests, as `|` collects them.

    >>> import clipnull as cn
    >>> names = cn.Vocabulary(["cat", "dog"], ["photo", "line"])
    >>> cn.Forget(classes=["dog"]).mask(names)                      # dogs in every domain
    tensor([[False, False],
            [ True,  True]])
    >>> request = cn.Forget(["dog"], ["line"]) | cn.Forget(["cat"], ["photo"])
    >>> print(request, "-", request.paradigm)
    dog in line and cat in photo - selective
    """

    classes: Sequence[str] | None = None
    domains: Sequence[str] | None = None
    also: tuple["Forget", ...] = ()

    def __post_init__(self) -> None:
        if self.classes is None and self.domains is None:
            raise ValueError("classes, domains: neither is given; expected a list of names for at least one of them")
        for argument in ("classes", "domains"):
            values = getattr(self, argument)
            if values is not None:
                object.__setattr__(self, argument, distinct(argument, values))
        if not isinstance(self.also, tuple) or any(not isinstance(o, Forget) or o.also for o in self.also):
            raise ValueError(f"also: {self.also!r} is not valid; expected a flat tuple of Forget, as `|` collects them")

    def __or__(self, other: "Forget") -> "Forget":
        if not isinstance(other, Forget):
            return NotImplemented
        return replace(self, also=(*self.also, replace(other, also=()), *other.also))

    @property
    def paradigm(self) -> str:
        """ "global", "selective" or "complete"; "mixed" for a union of several kinds."""
        first = "global" if self.domains is None else "complete" if self.classes is None else "selective"
        return first if all(other.paradigm == first for other in self.also) else "mixed"

    def mask(self, vocabulary: Vocabulary) -> Tensor:
        """F, the cells to forget: (C, K) bool. Raises ValueError for unknown names and if nothing would be kept."""
        mask = torch.zeros(vocabulary.shape, dtype=torch.bool)
        for part in (self, *self.also):
            rows = vocabulary.places("classes", part.classes or vocabulary.classes)
            columns = vocabulary.places("domains", part.domains or vocabulary.domains)
            mask[torch.tensor(rows)[:, None], torch.tensor(columns)] = True
        if mask.all():
            raise ValueError(
                f"request: all {mask.numel()} cells of the vocabulary would be forgotten; expected at least one to keep"
            )
        return mask

    def as_dict(self) -> dict:
        """The request in JSON's types; `Forget.from_dict` reads it."""
        return json.loads(json.dumps(asdict(self)))

    @classmethod
    def from_dict(cls, request: Any) -> "Forget":
        """The request that `as_dict` wrote; ValueError for anything else."""
        if not isinstance(request, dict) or not {"classes", "domains"} <= {*request} <= {"classes", "domains", "also"}:
            raise ValueError(f"request: {brief(request)}; expected classes, domains and also, as Forget.as_dict gives")
        for argument, values in request.items():
            if values is not None and not isinstance(values, list):
                raise ValueError(f"{argument}: {brief(values)}; expected a list or None")
        also = tuple(map(cls.from_dict, request.get("also") or []))
        return cls(request["classes"], request["domains"], also)

    def __str__(self) -> str:
        what = ", ".join(self.classes) if self.classes else "everything"
        where = f"in {', '.join(self.domains)}" if self.domains else "everywhere"
        return " and ".join([f"{what} {where}", *map(str, self.also)])


DOMAIN = "photo"
"""The only domain of names that come without one."""


def read_vocabulary(path: str | Path) -> Vocabulary:
    """The vocabulary in a text file: one class a line, its other names after commas.

    A line "domain: NAME" names a domain; without any there is one, DOMAIN. Blank lines and those that begin with # do
    not count.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     _ = Path(folder, "names.txt").write_text("cat, kitten\\ndog\\n")
    ...     read_vocabulary(Path(folder, "names.txt")).names
    (('cat', 'kitten'), ('dog',))
    """
    domains, groups = [], []
    for line in read_lines("vocabulary", path):
        if line.lower().startswith("domain:"):
            domains.append(line.partition(":")[2].strip())
        elif not line.startswith("#"):
            groups.append([name.strip() for name in line.rstrip(", ").split(",")])
    try:
        distinct("classes", [names[0] for names in groups])  # a mapping would hide one that comes twice
        classes: Any = {names[0]: names for names in groups}
        return Vocabulary(classes, domains or [DOMAIN])
    except ValueError as error:
        raise ValueError(f"vocabulary: {str(path)!r} is not valid: {error}") from error
