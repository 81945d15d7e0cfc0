"""Which artworks belong together, and which are held out.

The same design is redrawn in several styles (Fluent 3D / flat / high contrast; OpenMoji colour / black), so
pictures are split by *design family*: set group and drawing, joined where the index found near-duplicates.
No family is in both splits.
"""

import hashlib
import re

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


def splits(rows: list[dict], held_out: float = 0.3) -> list[str]:
    """ "train" or "test" for every row. Test: `held_out` of the families that hold a named class.

    Then every (class, domain) cell with five or more families gets at least two held out, the next ones in
    the same pseudo-random order, and among photos, which are few, no more than that share.
    """
    family = families(rows)
    cells: dict[tuple[str, str], set[str]] = {}
    for f, row in zip(family, rows, strict=False):
        if row["class"]:
            cells.setdefault((row["class"], row["domain"]), set()).add(f)
    test = {f for group in cells.values() for f in group if fraction(f) < held_out}
    for (_, domain), group in sorted(cells.items()):
        ranked = sorted(group, key=fraction)
        if domain == "photo":
            test -= group
            test |= set(ranked[: max(2, round(held_out * len(ranked)))]) if len(ranked) >= 4 else set()
    for _, group in sorted(cells.items()):
        if len(group) >= 5:
            test |= set(sorted(group, key=fraction)[:2])
    return ["test" if f in test else "train" for f in family]
