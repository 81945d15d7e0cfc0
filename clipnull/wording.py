"""What is said to a text encoder: the names of classes and domains, and the prompts made of them.

A *cell* is a (class, domain) pair. The prompts that *build* an edit are disjoint from those that *evaluate* it: to set
the score of one prompt to zero and then to measure with the same prompt proves nothing.
"""

import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass

from .errors import distinct

TEMPLATES = {
    "build": ("a {d} of {a}", "{a} in {d} style", "the {d} of {a}", "a {d} showing {a}", "{a}, {d}"),
    "free": ("a picture of {a}",),  # no domain: what zero-shot users type
    "domain": ("this {d} depicts {a}", "a picture of {a}, drawn as a {d}"),
}
"""The prompt sets. {a} is the class with its article, {d} the domain's phrase. "free" and "domain" only evaluate."""

PROMPTS = ("free", "domain", "build")
"""The prompt sets in the order in which results are told."""

DOMAIN_PROMPTS = ("a {d}", "this is a {d}")
"""What names a domain and no object."""

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
}
"""What folder names of well-known data sets become in a prompt; any other name stays, underscores become spaces."""


@dataclass(frozen=True)
class Vocabulary:
    """The names a model is asked about: C classes, at least two, and K domains.

    Parameters
    ----------
    classes, domains : sequence of str
        Names of distinct words: an underscore stands for a space, capitals and the number of blanks do not count.

    Raises
    ------
    ValueError
        If a name is given twice, is blank or no text, if two names become the same words, if there is no domain, and if
        there is only one class.

    Examples
    --------
    >>> import clipnull as cn
    >>> cn.Vocabulary(["cat", "dog"], ["photo", "line"]).shape
    (2, 2)
    >>> cn.Vocabulary(["alarm clock", "alarm_clock"], ["photo"])
    Traceback (most recent call last):
    ValueError: classes: 'alarm clock' and 'alarm_clock' become the same words; expected each class once
    """

    classes: Sequence[str]
    domains: Sequence[str]

    def __post_init__(self) -> None:
        for argument in ("classes", "domains"):
            object.__setattr__(self, argument, distinct(argument, getattr(self, argument)))
        if len(self.classes) < 2:
            raise ValueError(f"classes: only {self.classes[0]!r} given; expected at least two to choose between")
        for argument, kind, said in (("classes", "class", str), ("domains", "domain", phrase_of)):
            known: dict[str, str] = {}
            for name in getattr(self, argument):
                other = known.setdefault(words(said(name)), name)
                if other is not name:
                    raise ValueError(
                        f"{argument}: {other!r} and {name!r} become the same words; expected each {kind} once"
                    )

    @property
    def shape(self) -> tuple[int, int]:
        return len(self.classes), len(self.domains)


def words(name: str) -> str:
    """What a text encoder reads of a name: two names of the same words are one and the same to it.

    >>> words("Alarm_clock") == words("alarm  clock")
    True
    """
    return " ".join(unicodedata.normalize("NFC", name).replace("_", " ").split()).casefold()


def phrase_of(domain: str) -> str:
    """What a domain is called in a prompt."""
    return DOMAIN_PHRASES.get(domain, domain.replace("_", " "))


def format_prompt(template: str, class_name: str, domain: str = "") -> str:
    """The prompt that a template makes of a class and a domain.

    >>> format_prompt("a {d} of {a}", "elephant", "art_painting")
    'a painting of an elephant'
    """
    noun = class_name.replace("_", " ")
    article = "an" if noun[:1].lower() in "aeiou" else "a"
    text = template.format(a=f"{article} {noun}", n=noun, d=phrase_of(domain))
    return re.sub(r"\ba (?=[aeiou])", "an ", text)
