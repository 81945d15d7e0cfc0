"""The names of classes and domains, the prompts made of them, and requests to forget some.

A *cell* is a (class, domain) pair. The prompts that *build* an edit are disjoint from those that *evaluate* it: to set
the score of one prompt to zero and then to measure with the same prompt proves nothing.
"""

import html
import importlib
import json
import re
import unicodedata
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from .errors import brief, distinct, one_line, one_of, shorten

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
    "art_painting": "painting",
    "line": "line drawing",
    "silhouette": "silhouette",
    "flat": "flat icon",
    "shaded": "shaded icon",
    "3d": "3d render",
    "pixel": "pixel art",
    "real": "photo",
    "Real World": "photo",
    "Art": "painting",
    "Clipart": "clip art",
    "Product": "product photo",
    "clipart": "clip art",
    "infograph": "infographic",
    "quickdraw": "quick drawing",
    **dict.fromkeys(("CALTECH", "Caltech101"), "Caltech photo"),
    **dict.fromkeys(("LABELME", "LabelMe"), "LabelMe photo"),
    **dict.fromkeys(("PASCAL", "VOC2007"), "Pascal photo"),
    **dict.fromkeys(("SUN", "SUN09"), "SUN photo"),
}
"""What folder names of well-known data sets become in a prompt; any other name stays, underscores become spaces."""


@dataclass(frozen=True)
class Vocabulary:
    """The names a model is asked about: C classes, at least two, and K domains.

    classes: names that differ as `words`. A mapping gives each class all the names it goes by, {"dog": ("dog", "puppy",
    "hound")}: its texts are means over them. `names` holds them, a tuple for each class. domains: names. forms: by
    default each name goes with its English forms (`forms_of`). For another language give those of classes, {"Hund":
    ["Hunde", "die Hunde"]}, or None: an edit then takes the names as they are.

    Raises ValueError for a name that is given twice, is blank or not text, for two names of the same words, and for
    fewer than two classes or one domain. Warns of two classes that most tokenizers read as one text, and of names that
    look like codes, which say nothing to a model.

    >>> import clipnull as cn
    >>> cn.Vocabulary(["cat", "dog"], ["photo", "line"]).shape
    (2, 2)
    >>> cn.Vocabulary(["alarm clock", "Alarm_Clock"], ["photo"])
    Traceback (most recent call last):
    ValueError: classes: 'alarm clock' and 'Alarm_Clock' become the same words; expected each once
    """

    classes: Sequence[str]
    domains: Sequence[str]
    forms: Mapping[str, Sequence[str]] | str | None = field(default="en", compare=False)
    names: tuple[tuple[str, ...], ...] = field(default=(), init=False)

    def __post_init__(self) -> None:
        given: Any = self.classes
        for argument in ("classes", "domains"):
            object.__setattr__(self, argument, distinct(argument, getattr(self, argument)))
        if len(self.classes) < 2:
            raise ValueError(f"classes: only {self.classes[0]!r} given; expected at least two to choose between")
        groups = given.items() if isinstance(given, Mapping) else ((name, (name,)) for name in self.classes)
        object.__setattr__(self, "names", tuple(distinct(f"classes: {name}", value) for name, value in groups))
        _all_differ("classes", [words(name) for name in self.classes], self.classes)
        _all_differ("domains", [words(phrase_of(name)) for name in self.domains], self.domains)
        pairs = {(words(name), c): name for c, names in zip(self.classes, self.names, strict=True) for name in names}
        _all_differ("classes", [text for text, _ in pairs], [f"{name} of {c}" for (_, c), name in pairs.items()])
        if isinstance(self.forms, str):
            one_of("forms", self.forms, ["en"])
        elif self.forms:
            self.places("classes", self.forms)
        first: dict[str, str] = {}
        for (_, c), name in pairs.items():
            if (other := first.setdefault(_read(name), c)) != c:
                warnings.warn(
                    f"classes: {other!r} and {c!r} are one text to most tokenizers; forgetting one forgets the other",
                    stacklevel=3,
                )
        if codes := _codes([name for group in self.names for name in group]):
            warnings.warn(
                f"classes: {shorten(codes, 5)} look like codes, and a model reads words; expected names: rename the "
                "folders, list pictures in a table with the columns path and class, or give {code: [name]} in a "
                "vocabulary",
                stacklevel=3,
            )

    def with_forms(self, forms: Mapping[str, Sequence[str]] | str | None) -> "Vocabulary":
        """The same names with other forms, or with None as they are."""
        return Vocabulary(dict(zip(self.classes, self.names, strict=True)), self.domains, forms)  # type: ignore[arg-type]

    def called(self, class_name: str, name: str) -> "Vocabulary":
        """The same, but that the class goes by this name alone: for prompts that ask with one of its names."""
        if class_name not in self.classes or not isinstance(name, str):
            raise ValueError(f"class_name, name: {class_name!r}, {name!r}; expected a class of the vocabulary, a name")
        names: Any = {c: (name,) if c == class_name else n for c, n in zip(self.classes, self.names, strict=True)}
        return Vocabulary(names, self.domains, self.forms)

    def forms_of(self, class_name: str) -> tuple[str, ...]:
        """The forms of all names of a class, () where there are none; those of other classes' names are left to them.

        >>> Vocabulary(["glass", "glasses"], ["photo"]).forms_of("glass")
        ('glass', 'the glass')
        """
        return self.class_forms()[self.places("classes", [class_name])[0]]

    def class_forms(self) -> list[tuple[str, ...]]:
        """`forms_of` each class."""
        owner = {words(name): c for c, group in enumerate(self.names) for name in group}
        forms: list[list[str]] = [[] for _ in self.classes]
        if isinstance(self.forms, Mapping):
            for c, given in zip(self.places("classes", self.forms), self.forms.values(), strict=True):
                forms[c] += [form for form in given if owner.get(words(form), c) == c]
        elif self.forms:
            for c, name in ((c, name) for c, group in enumerate(self.names) for name in group):
                several = plural(name)
                if (other := owner.get(words(several), c)) != c:
                    warnings.warn(
                        f"classes: {several!r} is the plural of {name!r} and a name of {self.classes[other]!r}; "
                        "it is left to the latter",
                        stacklevel=3,
                    )
                    several = ""
                forms[c] += english_forms(name, several)
        return [tuple(dict.fromkeys(group)) for group in forms]

    @property
    def shape(self) -> tuple[int, int]:
        return len(self.classes), len(self.domains)

    def places(self, argument: str, values: object) -> list[int]:
        """Where names are among the "classes" or "domains" (the argument), however they are spelled (`words`).

        A class is known by all its names. Raises ValueError that names the argument for one that is not known.
        """
        options = getattr(self, argument)
        others = enumerate(self.names) if argument == "classes" else ()
        place = {words(name): i for i, group in others for name in group}
        place |= {words(name): i for i, name in enumerate(options)}
        return [
            place[words(value)] if words(value) in place else options.index(one_of(argument, value, options))
            for value in distinct(argument, values, options)
        ]


def _all_differ(argument: str, texts: Sequence[str], names: Sequence[str]) -> None:
    first: dict[str, str] = {}
    for text, name in zip(texts, names, strict=True):
        if (other := first.setdefault(text, name)) != name:
            raise ValueError(f"{argument}: {other!r} and {name!r} become the same words; expected each once")


def plural(name: str) -> str:
    """The English plural of a name, by the library inflect; the name itself where it is one, or no English word.

    >>> [plural(name) for name in ("dog", "bus", "fire_truck", "scissors", "sheep", "people", "chien-loup", "犬")]
    ['dogs', 'buses', 'fire trucks', 'scissors', 'sheep', 'people', 'chien-loups', '犬']
    """
    noun = spaced(name)
    inflections = importlib.import_module("inflect").engine()  # not at the start: it takes a fifth of a second
    is_plural = inflections.singular_noun(noun) and not noun.endswith(("us", "is", "ss"))  # which are a bus, an iris
    return noun if not noun.isascii() or is_plural else inflections.plural_noun(noun)


def english_forms(name: str, several: str | None = None) -> list[str]:
    """FORMS of a name. several: its plural, where it is known; "" for the forms of the singular alone.

    >>> english_forms("dog")
    ['dog', 'the dog', 'dogs', 'the dogs', 'two dogs', 'many dogs']
    """
    singular, several = spaced(name), plural(name) if several is None else several
    return [f.replace("{n}", singular).replace("{p}", several) for f in FORMS if several or "{p}" not in f]


def _codes(names: Sequence[str]) -> list[str]:
    """The names that are a letter and many digits; those of few digits count if there are no others."""
    codes = [name for name in names if re.fullmatch(r"[A-Za-z]?\d{4,}", name)]
    short = [name for name in names if re.fullmatch(r"[A-Za-z]?\d+", name)]
    return short if len(short) == len(names) else codes


def spaced(name: str) -> str:
    """A name as a prompt says it: composed accents, blanks for underscores and between words in camel case.

    >>> [spaced(name) for name in ("Alarm_Clock", "GoldFish", "TVMonitor", "CaféBar", "the+sun", "c++", "TVs", "iPad")]
    ['Alarm Clock', 'Gold Fish', 'TV Monitor', 'Café Bar', 'the sun', 'c++', 'TVs', 'iPad']
    """
    name = re.sub(r"(?<=[^\W_])\+(?=[^\W_])|_", " ", unicodedata.normalize("NFC", name))
    return " ".join("".join(f" {c}" if _begins_word(name, i) else c for i, c in enumerate(name)).split())


def _begins_word(name: str, i: int) -> bool:
    """Whether a capital begins a word in camel case, as in FlipFlops and TVMonitor, but not in iPad and TVs."""
    before, after = name[max(0, i - 2) : i], name[i + 1 : i + 3]
    if not name[i].isupper() or not before:
        return False
    if before[-1].islower():
        return len(before) == 2 and before[0].isalpha()
    return before[-1].isupper() and len(after) == 2 and after.isalpha() and after.islower()


def words(name: str) -> str:
    """The normal form of a name, `spaced` in small letters: two names of the same words are one to a text encoder.

    >>> words("AlarmClock") == words("Alarm_clock") == words("alarm  clock")
    True
    """
    return spaced(name).lower()


def _read(name: str) -> str:
    """What is left of a name in a tokenizer that unfolds HTML, wide letters and curly quotes, as CLIP's."""
    plain = unicodedata.normalize("NFKC", html.unescape(html.unescape(words(name))))
    return words(re.sub("[\u2018\u2019\u201a\u201b\u02bc\u00b4`]", "'", re.sub("[\u201c-\u201f]", '"', plain)))


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

    classes, domains: distinct names of a vocabulary. Classes alone: the *global* paradigm; both: *selective*; domains
    alone: *complete*, everything in them, which is our reading of the paper's abstract. Its other reading, every trace
    of some classes in some domains, is a selective request of which traces stay (lesson 07). also: further requests, as
    `|` collects them. Raises ValueError if neither is given or a list is not valid.

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
        if not isinstance(self.also, tuple | list) or not all(isinstance(other, Forget) for other in self.also):
            raise ValueError(f"also: {self.also!r} is not valid; expected a tuple of Forget, as `|` collects them")
        flat = tuple(
            part for other in self.also for part in (replace(other, also=()) if other.also else other, *other.also)
        )
        object.__setattr__(self, "also", flat)

    def __or__(self, other: "Forget") -> "Forget":
        if not isinstance(other, Forget):
            return NotImplemented
        return replace(self, also=(*self.also, other))

    @property
    def paradigm(self) -> str:
        """ "global", "selective" or "complete"; "mixed" for a union of several kinds."""
        first = "global" if self.domains is None else "complete" if self.classes is None else "selective"
        return first if all(other.paradigm == first for other in self.also) else "mixed"

    def mask(self, vocabulary: Vocabulary) -> Tensor:
        """F, the cells to forget: (C, K) bool. Raises ValueError for unknown names and if nothing would be kept."""
        mask = torch.zeros(vocabulary.shape, dtype=torch.bool)
        for part in (replace(self, also=()), *self.also):
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
        return {
            "classes": self.classes and list(self.classes),
            "domains": self.domains and list(self.domains),
            "also": [other.as_dict() for other in self.also],
        }

    @classmethod
    def from_dict(cls, request: Any) -> "Forget":
        """The request that `as_dict` wrote; ValueError for anything else."""
        if not isinstance(request, dict) or not {"classes", "domains"} <= {*request} <= {"classes", "domains", "also"}:
            raise ValueError(f"request: {brief(request)}; expected classes, domains and also, as Forget.as_dict gives")
        classes, domains, also = (request.get(key) for key in ("classes", "domains", "also"))
        for argument, values in (("classes", classes), ("domains", domains), ("also", also)):
            if values is not None and not isinstance(values, list):
                raise ValueError(f"{argument}: {brief(values)}; expected a list or None")
        if any(isinstance(other, dict) and other.get("also") for other in also or []):
            raise ValueError("also: a request in it has further ones; expected a flat list, as Forget.as_dict gives it")
        return cls(classes, domains, tuple(map(cls.from_dict, also or [])))

    def __str__(self) -> str:
        what = ", ".join(self.classes) if self.classes else "everything"
        where = f"in {', '.join(self.domains)}" if self.domains else "everywhere"
        return " and ".join([f"{what} {where}", *map(str, self.also)])


DOMAIN = "photo"
"""The only domain of names that come without one."""


def read_vocabulary(path: str | Path) -> Vocabulary:
    """The vocabulary in a text file: one class a line, its other names after commas.

    A line "domain: NAME" names a domain; without any there is one, DOMAIN. Blank lines and those that begin with # do
    not count. A file that ends in .json holds {"classes": [...] or {...}, "domains": [...]}, as for `Vocabulary`.

    Raises ValueError that names the file, for fewer than two classes, or a name twice.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     _ = Path(folder, "names.txt").write_text("cat, kitten\\ndog\\n")
    ...     read_vocabulary(Path(folder, "names.txt")).names
    (('cat', 'kitten'), ('dog',))
    """
    path = Path(path)
    if not path.is_file():
        raise ValueError(f"vocabulary: {str(path)!r} is not there; expected a text file with one class name a line")
    try:
        text = path.read_text(encoding="utf-8-sig")
        return _from_json(text) if path.suffix == ".json" else _from_lines(text)
    except ValueError as error:
        raise ValueError(f"vocabulary: {str(path)!r} is not valid: {one_line(error)}") from error


def _from_json(text: str) -> Vocabulary:
    content = json.loads(text)
    if not isinstance(content, dict) or not {"classes"} <= content.keys() <= {"classes", "domains"}:
        raise ValueError("it is not of the form {classes: ..., domains: ...}")
    return Vocabulary(content["classes"], content.get("domains", [DOMAIN]))


def _from_lines(text: str) -> Vocabulary:
    lines = [line.strip() for line in text.splitlines() if line.strip() and not line.lstrip().startswith("#")]
    domains = [line.partition(":")[2].strip() for line in lines if line.lower().startswith("domain:")]
    named = [line for line in lines if not line.lower().startswith("domain:")]
    groups = [tuple(name.strip() for name in line.split(",") if name.strip()) for line in named]
    firsts = [group[0] if group else "" for group in groups]
    if len({*firsts}) < len(firsts) or not firsts:
        return Vocabulary(firsts, domains or [DOMAIN])  # raises: a dictionary would hide a name that comes twice
    classes: Any = dict(zip(firsts, groups, strict=True))
    return Vocabulary(classes, domains or [DOMAIN])
