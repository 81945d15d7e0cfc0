"""Which artworks belong together, and which are held out.

The same design is redrawn in several styles (Fluent 3D / flat / high contrast; OpenMoji colour / black), so
pictures are split by *design family*: set group and drawing, joined where the index found near-duplicates.
No family is in both splits.
"""

import hashlib
import re

from review import named, shown

TEST_MAX, TEST_SHARE, TRAIN_MIN = 10, 0.65, 3  # of a cell of miniworld
GROUPS = {
    "fluent-emoji-3d": "fluent",
    "fluent-emoji-flat": "fluent",
    "fluent-emoji-high-contrast": "fluent",
    "openmoji-color": "openmoji",
    "openmoji-black": "openmoji",
    "emojione-v1": "emojione",
    "emojione-monotone": "emojione",
    "noto-v1": "noto",
    "noto-emoji-mono": "noto",
    "icon-park-outline": "icon-park",
    "icon-park-solid": "icon-park",
    "streamline-freehand-color": "streamline-freehand",
    "gcompris-photos": "gcompris",
    "gcompris-words": "gcompris",
}
STYLE_WORDS = r"\b(outline|outlined|line|linear|fill|filled|bold|light|thin|duotone|solid|twotone|color|\d+|[a-d])\b"


def drawing(row: dict) -> str:
    """The name of the drawing without words for its style, variant numbers and file suffixes."""
    if row["source"] in ("gcompris-photos", "gcompris-words", "scratch", "tuxpaint-stamps"):
        stem = row["origin"].rsplit("/", 1)[-1].rsplit(".", 1)[0].lower()
        if row["domain"] == "photo" and row["class"] == "person":
            return re.split(r"\d|-", stem)[0]  # cassy-jumping-1 and cassy-phone-1 are one person
        return re.sub(r"-[a-z]$|\d+-[a-z]+$|_[a-z]$", "", stem)  # boy4-walking-a and -b are one artwork
    name = re.sub(STYLE_WORDS, " ", row["name"].lower().replace("-", " ").replace("_", " "))
    return " ".join(name.split()) or row["name"]


def families(rows: list[dict]) -> list[str]:
    """A design family for every row of the index."""
    parent: dict[str, str] = {}

    def find(key: str) -> str:
        parent.setdefault(key, key)
        while parent[key] != key:
            parent[key] = parent[parent[key]]
            key = parent[key]
        return key

    keys = []
    for row in rows:
        group = GROUPS.get(row["source"], row["source"])
        key = f"{group}:{drawing(row)}"
        keys.append(key)
        others = [f"dup:{row['dup_group']}"]
        if row["codepoint"] and group not in ("symbola",):
            others.append(f"{group}:u+{row['codepoint'].lower().replace('-fe0f', '')}")
        for other in others:
            a, b = sorted((find(key), find(other)))
            parent[b] = a
    names: dict[str, str] = {}
    for key in sorted(set(keys)):  # a readable name: the first drawing of the family
        names.setdefault(find(key), key)
    return [names[find(key)] for key in keys]


def fraction(text: str) -> float:
    return int(hashlib.sha256(text.encode()).hexdigest()[:8], 16) / 2**32


def splits(rows: list[dict], held_out: float = 0.3, more: bool = True) -> list[str]:
    """ "train" or "test" for every row. Test: `held_out` of the families that hold a named class.

    Then every (class, domain) cell with five or more families gets at least two held out, the next ones in
    the same pseudo-random order, and among photos, which are few, no more than that share. In the cells that
    miniworld shows, two thirds of the pictures are held out until there are ten, unless `more` is False.
    """
    family = families(rows)
    cells: dict[tuple[str, str], list[str]] = {}  # a family as often as it has pictures there
    for f, row in zip(family, rows, strict=True):
        if named(row):
            cells.setdefault((named(row), row["domain"]), []).append(f)
    test = {f for group in cells.values() for f in group if fraction(f) < held_out}
    for (_, domain), group in sorted(cells.items()):
        ranked = sorted(set(group), key=fraction)
        if domain == "photo":
            test -= set(group)
            test |= set(ranked[: max(2, round(held_out * len(ranked)))]) if len(ranked) >= 4 else set()
    for _, group in sorted(cells.items()):
        if len(set(group)) >= 5:
            test |= set(sorted(set(group), key=fraction)[:2])
    cells = {}
    for f, row in zip(family, rows, strict=True):
        if shown(row):
            cells.setdefault((named(row), row["domain"]), []).append(f)
    for _, group in sorted(cells.items(), key=lambda cell: (len(cell[1]), cell[0])) if more else ():  # thin ones first
        for f in sorted(set(group), key=fraction):
            if sum(g in test for g in group) >= min(TEST_MAX, round(TEST_SHARE * len(group))):
                break
            if all(sum(g not in test and g != f for g in other) >= TRAIN_MIN for other in cells.values() if f in other):
                test.add(f)
    return ["test" if f in test else "train" for f in family]
