"""Names in other languages, for text towers that read some: what is forgotten in English may be there in French.

Only names that leave no doubt, with the article that the prompt of the language needs; others come from the user.
"""

import re
from collections.abc import Sequence

from ..models import Clip
from ..vocabulary import words

MULTILINGUAL = re.compile("xlm|nllb|i18n|siglip2|worldwide|multilingual", re.IGNORECASE)
"""Models of open_clip and transformers whose text tower was trained in many languages, by what their names hold."""

PROMPTS = {"German": "ein Bild von {}", "French": "une image avec {}", "Spanish": "una imagen de {}"}
NAMES = {
    "bird": ("einem Vogel", "un oiseau", "un pájaro"),
    "boat": ("einem Boot", "un bateau", "un barco"),
    "book": ("einem Buch", "un livre", "un libro"),
    "car": ("einem Auto", "une voiture", "un coche"),
    "cat": ("einer Katze", "un chat", "un gato"),
    "dog": ("einem Hund", "un chien", "un perro"),
    "elephant": ("einem Elefanten", "un éléphant", "un elefante"),
    "fish": ("einem Fisch", "un poisson", "un pez"),
    "flower": ("einer Blume", "une fleur", "una flor"),
    "giraffe": ("einer Giraffe", "une girafe", "una jirafa"),
    "guitar": ("einer Gitarre", "une guitare", "una guitarra"),
    "horse": ("einem Pferd", "un cheval", "un caballo"),
    "house": ("einem Haus", "une maison", "una casa"),
    "person": ("einer Person", "une personne", "una persona"),
    "shoe": ("einem Schuh", "une chaussure", "un zapato"),
    "train": ("einem Zug", "un train", "un tren"),
    "tree": ("einem Baum", "un arbre", "un árbol"),
    "umbrella": ("einem Regenschirm", "un parapluie", "un paraguas"),
}
"""By class, in the order of PROMPTS."""


def prompts_of(clip: Clip, classes: Sequence[str], forgotten: Sequence[str]) -> dict[str, list[str | None]]:
    """By language the prompt of each class, None where its name is not known; none unless all forgotten ones are.

    Nothing for a tower that is not known to read other languages.
    """
    if not clip.encoder or not MULTILINGUAL.search(clip.name) or any(words(name) not in NAMES for name in forgotten):
        return {}
    return {
        language: [prompt.format(NAMES[words(c)][i]) if words(c) in NAMES else None for c in classes]
        for i, (language, prompt) in enumerate(PROMPTS.items())
    }


def left_out(clip: Clip, forgotten: Sequence[str]) -> str | None:
    """Why no other language is asked; None if some are."""
    if not MULTILINGUAL.search(clip.name):
        return f"other languages: nothing says that the text tower of {clip.name} reads any; `words` takes some"
    unknown = [name for name in forgotten if words(name) not in NAMES]
    return f"other languages: no translation of {unknown[0]!r} is known here; `words` takes some" if unknown else None
