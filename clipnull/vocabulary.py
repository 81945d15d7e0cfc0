"""Names of classes and domains, prompts made from them, and requests to forget some of them.

A *cell* is a (class, domain) pair. Edits are *built* from some prompts and *evaluated* with others, because zeroing the
score of a prompt and then measuring with that prompt proves nothing.
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
    "free": ("a picture of {a}",),  # no domain, as in the prompts of most users
    "domain": ("this {d} depicts {a}", "a picture of {a}, drawn as a {d}"),
}
"""The prompt sets. {a} is the class with its article, {d} the domain. Only "build" makes edits; the others evaluate."""

PROMPTS = ("free", "domain", "build")  # in the order of all tables

AN = re.compile(
    r"(?!uni(?!n|m|d)|u(s[aeu]|t[eio]|k|r[aoi]|bi|fo\b|sb\b|v\b)|eu|ewe|on(e|ce)\b)[aeiou]"
    r"|hour|hono|hones|heir|[fhlmnrsx]-|mp3|mri|suv|8|1[18]\b",
    re.IGNORECASE,
)
"""Matches the start of words that take "an"."""

DOMAIN_PROMPTS = ("a {d}", "this is a {d}")  # which name no class

FORMS = ("{n}", "the {n}", "{p}", "the {p}", "two {p}", "many {p}")
"""The forms of a class name {n}, with plural {p}, that edits are also built from."""

DOMAIN_PHRASES = {
    "art_painting": "painting", "line": "line drawing", "silhouette": "silhouette", "flat": "flat icon",
    "shaded": "shaded icon", "3d": "3d render", "pixel": "pixel art", "real": "photo",
    "Real World": "photo", "Art": "painting", "Clipart": "clip art", "Product": "product photo",
    "clipart": "clip art", "infograph": "infographic", "quickdraw": "quick drawing",
    "CALTECH": "Caltech photo", "Caltech101": "Caltech photo", "LABELME": "LabelMe photo", "LabelMe": "LabelMe photo",
    "PASCAL": "Pascal photo", "VOC2007": "Pascal photo", "SUN": "SUN photo", "SUN09": "SUN photo",
}  # fmt: skip
"""Prompt phrases for the domain folders of well-known data sets. Other names are only `spaced`."""

CAMEL = re.compile(r"(?<=[^\W\d_][a-zß-öø-ÿ])(?=[A-ZÀ-ÖØ-Þ])|(?<=[A-ZÀ-ÖØ-Þ])(?=[A-ZÀ-ÖØ-Þ][a-zß-öø-ÿ]{2})")
"""Matches the start of a word in camel case, as in FlipFlops and TVMonitor, but not in iPad and TVs."""

CODE = re.compile(r"[A-Za-z]?\d{4,}|\d")  # such as n01855672, which means nothing to a model


@dataclass(frozen=True)
class Vocabulary:
    """The names of C classes, at least two, and K domains.

    classes: names; or a mapping from each class to all its names, such as {"dog": ("dog", "puppy", "hound")}, whose
    texts are averaged. domains: names. No two classes or domains may share a name, compared as `words`. forms: "en"
    also builds edits from English forms (`forms_of`); use None for other languages. `names` holds a tuple per class.

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
        classes: Any = self.classes
        for argument in ("classes", "domains"):
            object.__setattr__(self, argument, distinct(argument, getattr(self, argument)))
        if len(self.classes) < 2:
            raise ValueError(f"classes: only {self.classes[0]!r} given; expected at least two")
        groups = classes if isinstance(classes, Mapping) else {name: (name,) for name in self.classes}
        object.__setattr__(self, "names", tuple(distinct(f"classes: {c}", groups[c]) for c in self.classes))
        for argument in ("classes", "domains"):
            self._owners(argument)
        if self.forms is not None:
            one_of("forms", self.forms, ["en"])
        if codes := [name for group in self.names for name in group if CODE.fullmatch(name)]:
            warnings.warn(
                f"classes: {shorten(codes, 5)} look like codes; expected words. Rename the folders, list the pictures "
                "in a table with the columns path and class, or give a vocabulary {code: [name]}",
                stacklevel=3,
            )

    def _owners(self, argument: str) -> dict[str, str]:
        """Map the `words` of each name to its class or domain. Raise ValueError if two of them share a name."""
        options = getattr(self, argument)
        groups = self.names if argument == "classes" else [(phrase_of(name),) for name in options]
        owners: dict[str, str] = {}
        for owner, names in zip(options, groups, strict=True):
            for text in map(words, (owner, *names)):
                if (other := owners.setdefault(text, owner)) != owner:
                    raise ValueError(
                        f"{argument}: {other!r} and {owner!r} become the same words, {text!r}; expected each once"
                    )
        return owners

    def with_forms(self, forms: str | None) -> "Vocabulary":
        """Return a copy with other `forms`, "en" or None."""
        return Vocabulary(dict(zip(self.classes, self.names, strict=True)), self.domains, forms)  # type: ignore[arg-type]

    def forms_of(self, class_name: str) -> tuple[str, ...]:
        """Return the FORMS of all names of a class, () without `forms`. A plural that names another class is left out.

        >>> Vocabulary(["glass", "glasses"], ["photo"]).forms_of("glass")
        ('glass', 'the glass')
        """
        return self.class_forms()[self.places("classes", [class_name])[0]]

    def class_forms(self) -> list[tuple[str, ...]]:
        """Return `forms_of` each class."""
        owners, forms = self._owners("classes"), []
        for owner, names in zip(self.classes, self.names, strict=True):
            group: list[str] = []
            for name in names if self.forms else ():
                plural_name = plural(name)
                group += english_forms(name, plural_name if owners.get(words(plural_name), owner) == owner else "")
            forms.append(tuple(dict.fromkeys(group)))
        return forms

    @property
    def shape(self) -> tuple[int, int]:
        return len(self.classes), len(self.domains)

    def places(self, argument: str, values: object) -> list[int]:
        """Return the indices of class or domain names, compared as `words`. A class may go by any of its names.

        argument: "classes" or "domains", which a ValueError for an unknown name mentions.
        """
        options, owners = getattr(self, argument), self._owners(argument)
        index = {name: i for i, name in enumerate(options)}
        return [
            index[owners.get(words(value)) or one_of(argument, value, options)]
            for value in distinct(argument, values, options)
        ]


def plural(name: str) -> str:
    """Return the English plural of a name by the library inflect, or the name if it is a plural or not ASCII.

    >>> [plural(name) for name in ("dog", "bus", "fire_truck", "scissors", "sheep", "people", "chien-loup", "犬")]
    ['dogs', 'buses', 'fire trucks', 'scissors', 'sheep', 'people', 'chien-loups', '犬']
    """
    noun, english = spaced(name), _inflect().engine()
    is_plural = english.singular_noun(noun) and not noun.endswith(("us", "is", "ss"))  # bus and iris are singular
    return noun if not noun.isascii() or is_plural else english.plural_noun(noun)


def _inflect() -> Any:
    """Import inflect without its type checks, whose setup would cost every process three seconds."""
    checks = mock.patch("typeguard.typechecked", lambda function: function)
    with checks if find_spec("typeguard") else nullcontext():
        import inflect
    return inflect


def english_forms(name: str, plural_name: str | None = None) -> list[str]:
    """Return the FORMS of a name. plural_name: by default `plural(name)`; "" leaves out the plural forms."""
    noun, nouns = spaced(name), plural(name) if plural_name is None else plural_name
    return [form.replace("{n}", noun).replace("{p}", nouns) for form in FORMS if nouns or "{p}" not in form]


def spaced(name: str) -> str:
    """Return a name as prompts spell it: composed accents, spaces for underscores and between words in camel case.

    >>> [spaced(name) for name in ("Alarm_Clock", "GoldFish", "TVMonitor", "CaféBar", "the+sun", "c++", "TVs", "iPad")]
    ['Alarm Clock', 'Gold Fish', 'TV Monitor', 'Café Bar', 'the sun', 'c++', 'TVs', 'iPad']
    """
    name = re.sub(r"(?<=[^\W_])\+(?=[^\W_])|_", " ", unicodedata.normalize("NFC", name))
    return " ".join(CAMEL.sub(" ", name).split())


def words(name: str) -> str:
    """Return a name `spaced` and in lower case. Names with equal words are the same to a text encoder."""
    return spaced(name).lower()


def phrase_of(domain: str) -> str:
    """Return the phrase for a domain in prompts."""
    return DOMAIN_PHRASES.get(domain) or spaced(domain)


def format_prompt(template: str, class_name: str, domain: str = "") -> str:
    """Fill a template. {a} is the class with its article, {n} without it, {p} its plural, and {d} the domain.

    >>> format_prompt("a {d} of {a}", "elephant", "art_painting")
    'a painting of an elephant'
    >>> format_prompt("three {p}", "mouse")
    'three mice'
    >>> [format_prompt("{a} in {d} style", name, "ink") for name in ("unicorn", "hourglass", "vitamin a", "{d}")]
    ['a unicorn in ink style', 'an hourglass in ink style', 'a vitamin a in ink style', 'a {d} in ink style']
    """
    noun, phrase = spaced(class_name), phrase_of(domain)
    template = template.replace("a {d}", "{ad}").replace("a {n}", "{a}")
    nouns = plural(class_name) if "{p}" in template else ""
    return template.format(a=_with_article(noun), n=noun, p=nouns, ad=_with_article(phrase), d=phrase)


def _with_article(noun: str) -> str:
    """Return the noun with "a" or "an" by its sound: "a unicorn", "an hour"."""
    return f"{'an' if AN.match(noun) else 'a'} {noun}"


def is_near(name: str, classes: Sequence[str]) -> bool:
    """Return True if `name` contains a class name as words, is contained in one, or differs only in spaces and "s".

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
    """Return 997 names of animals and things: ImageNet's classes in lower case, from the library timm (Apache-2.0)."""
    return tuple((Path(__file__).parent / "common_words.txt").read_text(encoding="utf-8").split("\n")[:-1])


@dataclass(frozen=True)
class Forget:
    """A request to forget `classes` in `domains`. Leave one out to mean all of them; join requests by `a | b`.

    The paradigm is *global* for classes only, *selective* for both, and *complete* for domains only, which forgets
    everything in them. This is our reading of the paper's abstract. Another reading, every trace of some classes in
    some domains, is a selective request; lesson 07 shows which traces stay. also: further requests, joined by `|`.

    >>> import clipnull as cn
    >>> names = cn.Vocabulary(["cat", "dog"], ["photo", "line"])
    >>> cn.Forget(classes=["dog"]).mask(names)                      # dogs in all domains
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
            if (values := getattr(self, argument)) is not None:
                object.__setattr__(self, argument, distinct(argument, values))
        if not isinstance(self.also, tuple) or any(not isinstance(o, Forget) or o.also for o in self.also):
            raise ValueError(f"also: {self.also!r} is not valid; expected a flat tuple of Forget, as `|` makes")

    def __or__(self, other: "Forget") -> "Forget":
        if not isinstance(other, Forget):
            return NotImplemented
        return replace(self, also=(*self.also, replace(other, also=()), *other.also))

    @property
    def paradigm(self) -> str:
        """The kind of request: "global", "selective" or "complete"; "mixed" for a union of several kinds."""
        first = "global" if self.domains is None else "complete" if self.classes is None else "selective"
        return first if all(other.paradigm == first for other in self.also) else "mixed"

    def mask(self, vocabulary: Vocabulary) -> Tensor:
        """Return the cells to forget, (C, K) bool. Raise ValueError for unknown names or if nothing would be kept."""
        mask = torch.zeros(vocabulary.shape, dtype=torch.bool)
        for part in (self, *self.also):
            rows = vocabulary.places("classes", part.classes or vocabulary.classes)
            columns = vocabulary.places("domains", part.domains or vocabulary.domains)
            mask[torch.tensor(rows)[:, None], torch.tensor(columns)] = True
        if mask.all():
            raise ValueError(f"request: all {mask.numel()} cells would be forgotten; expected at least one to keep")
        return mask

    def as_dict(self) -> dict:
        """Return the request as JSON types, for `Forget.from_dict`."""
        return json.loads(json.dumps(asdict(self)))

    @classmethod
    def from_dict(cls, request: Any) -> "Forget":
        """Return the request that `as_dict` wrote. Raise ValueError for anything else."""
        if not isinstance(request, dict) or not {"classes", "domains"} <= {*request} <= {"classes", "domains", "also"}:
            raise ValueError(f"request: {brief(request)}; expected classes, domains and also (see Forget.as_dict)")
        for argument, values in request.items():
            if values is not None and not isinstance(values, list):
                raise ValueError(f"{argument}: {brief(values)}; expected a list or None")
        also = tuple(map(cls.from_dict, request.get("also") or []))
        return cls(request["classes"], request["domains"], also)

    def __str__(self) -> str:
        classes = ", ".join(self.classes) if self.classes else "everything"
        domains = f"in {', '.join(self.domains)}" if self.domains else "everywhere"
        return " and ".join([f"{classes} {domains}", *map(str, self.also)])


DOMAIN = "photo"
"""The domain of a vocabulary that names none."""


def read_vocabulary(path: str | Path) -> Vocabulary:
    """Read a vocabulary from a text file with one class per line, followed by its other names after commas.

    Each line "domain: NAME" adds a domain; the default is DOMAIN. Blank lines and lines that start with # are skipped.

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
        distinct("classes", [names[0] for names in groups])  # a mapping would hide duplicates
        classes: Any = {names[0]: names for names in groups}
        return Vocabulary(classes, domains or [DOMAIN])
    except ValueError as error:
        raise ValueError(f"vocabulary: {str(path)!r} is not valid: {error}") from error
