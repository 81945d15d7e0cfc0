"""Build data/miniworld, the embedded picture set: python miniworld.py PICTURES PACKAGES OUT.

PICTURES is the folder `render.py` wrote, PACKAGES the one `fetch.py` filled. OUT gets
`<split>/<domain>/<class>/<name>.webp`, an index, the licences, the data card and a contact sheet. Which
pictures are held out is decided by `split.py` alone; here they are only chosen, checked and written.
Every class and every cell was looked at: the lists below are what that review decided.
"""

import argparse
import csv
import re
import shutil
import tempfile
import textwrap
from collections import Counter, defaultdict
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote

import numpy as np
import render
import review
import split
from PIL import Image, ImageDraw
from review import ADDED, CLASSES, DOMAINS, DROP, PEOPLE

SPLITS = ("train", "test")
CELL_MAX = 24  # pictures a cell, at most split.TEST_MAX of them held out
CELL_MIN = {"train": split.TRAIN_MIN, "test": 5}  # a cell with fewer is left out
SIZE, QUALITY = 128, 90
INDEX = {
    "file": "file",
    "class": "label",
    "domain": "domain",
    "split": "split",
    "name": "name",
    "source": "source",
    "author": "author",
    "licence": "licence",
    "family": "family",
    "origin": "origin",
}
SHIPPED = (
    "PD",
    "CC0-1.0",
    "MIT",
    "ISC",
    "Apache-2.0",
    "OFL-1.1",
    "free for any use",
    "CC-BY-2.0",
    "CC-BY-3.0",
    "CC-BY-4.0",
    "CC-BY-SA-2.5",
    "CC-BY-SA-3.0",
    "CC-BY-SA-4.0",
)

# Whose work it is, where the icon set's own file does not say.
ERINN_LYNCH = ("Erinn Lynch (Tux Paint stamps)", "CC-BY-SA-2.5")
CREDITS = {
    "openmoji-black": ("OpenMoji", "CC-BY-SA-4.0"),
    "noto-emoji-mono": ("Google Inc", "OFL-1.1"),
    "symbola": ("George Douros", "free for any use"),
    "gcompris-words": ("Art4Apps project", "CC-BY-SA-3.0"),
    "scratch": ("Massachusetts Institute of Technology (Scratch 1.4 media)", "CC-BY-SA-3.0"),
    "tuxpaint-stamps:heron_greatblue": ERINN_LYNCH,
    "tuxpaint-stamps:heron_greatblue_flying": ERINN_LYNCH,
    "tuxpaint-stamps:pelican": ERINN_LYNCH,
}
GAME_ICONS = """Lorc, Delapouite, John Colburn, Felbrigg, John Redman, Carl Olsen, Sbed, PriorBlue,
Willdabeast, Viscious Speed, Lord Berandas, Irongamer, HeavenlyDog, Lucas, Faithtoken, Skoll, Andy
Meneely, Cathelineau, Kier Heyl, Aussiesim, Sparker, Zeromancer, Rihlsul, Quoting, Guard13007,
DarkZaitzev, SpencerDub, GeneralAce135, Zajkonur, Catsu, Starseeker, Pepijn Poolman, Pierre Leducq, Caro
Asercion"""


LICENCES_TEXT = """# Licences and credits of the pictures

The code of this repository is MIT. **The pictures are not**: each keeps the licence of the artwork it was
made from, given for every file in `index.csv`. Every picture was changed: cropped to its drawing, scaled
to 128 pixels, put on white and saved as WebP. Pictures under a CC-BY-SA licence, and what is made from
them, stay under that licence; CC-BY asks for the credit below.

## Sets

{sets}

MIT and ISC: permission to use, copy, modify and distribute is granted provided that the copyright notice
and the permission notice are kept; the works are provided "as is", without warranty of any kind.
Apache-2.0: the works are modified as described above. OFL-1.1 and Symbola are fonts: only drawings of
their glyphs are here.

## Photos from GCompris, file by file

{photos}

PD stands for public domain.
"""

CARD_TEXT = """# miniworld

A small world of {pictures} pictures: {classes} object classes drawn or photographed in {domains} domains,
for trying out what a model knows, forgets and keeps, by class, by domain or by both, without a download.

![Contact sheet: a row a class, a column a domain; in each cell two train and two test pictures]\
(contact_sheet.webp)

`<split>/<domain>/<class>/<name>.webp`, 128 x 128 pixels, RGB on white. `index.csv` gives for every file
its class, domain, split, name, source, author, licence, design family and the file it came from inside
its package.

## Domains

- **photo**: photographs, some with their surroundings, some cut out
- **shaded**: emoji with gradients and shading
- **flat**: emoji and icons in flat colours without outlines
- **cartoon**: coloured drawings with outlines
- **line**: black outlines
- **silhouette**: filled black shapes

## Counts

Pictures for training / held out. {cells} cells are filled; {holes} are left empty, since a cell needs at
least eight pictures, three to train on and five to test with.

{grid}

No cell has more than {cell_max} pictures ({test_max} of them held out); where there were more, the
sources took turns. Two thirds of a cell's pictures are held out until there are {test_max}: with fewer,
one picture would be up to 50 points of a cell's accuracy. `data/build/README.md` says what that costs in training.

## How it was made

From {sources} public sets of icons, emoji and photos, by `data/build/miniworld.py`, which rebuilds this
folder. The same design is often redrawn in several styles, so pictures were split by **design family**
({families} of them): no family is in both train and test, across all domains. Held-out pictures were kept
from the training of the model that comes with this package, too. Within miniworld, each photographed
person is in one split only.

Every class and cell was looked at, and these were thrown out (number of pictures):
{dropped}.
Likewise all pictures of people that show only a face, a symbol or a crowd; two monochrome sets that are
neither lines nor silhouettes; everything under the GPL or without a licence of its own that could be verified
(most of Tux Paint's stamps). There are no flags, no logos and no faces as classes; animals may be shown by
their head.

## Known limits

- Photos of three classes only: birds, fish and people. Photos keep their shape, with white beside them.
- Classes are a little wide: penguins among the birds, carousel and rocking horses among the horses, trams and the
  metro among the trains, taxis and racing cars among the cars, ships and canoes among the boats, boots and sandals
  among the shoes, huts and groups of houses among the houses, palms and Christmas trees among the trees.
- Many of the houses are the "home" button of a set of icons.
- Noto appears in an older and a newer drawing. Both are of one family and thus in one split.
- The people are mostly yellow or plain figures, and the photographed ones a few volunteers from the
  Scratch project: nothing here is a sample of the world's people, places or things.
- The pictures are icons, not scenes: results on them say little about natural images.

## Licences

{licences}

The code is MIT; the pictures keep their own licences, and `LICENSES.md` credits their authors.
"""


@dataclass
class Picture:
    """One chosen picture: its row in the artworks' index and what miniworld says about it."""

    i: int
    key: str
    name: str
    label: str
    domain: str
    split: str
    source: str
    author: str
    licence: str
    title: str
    family: str
    origin: str
    file: str = ""


def photo_credits(packages: str) -> dict[str, tuple[str, str, str]]:
    """Author, licence and title of GCompris's photos, by origin, from the README beside each of them."""
    out = {}
    for path, blob in render.gcompris(packages).items():
        if not path.endswith("/README"):
            continue
        for block in re.split(r"\n\s*\n", blob.decode()):
            entry: dict[str, str] = {}
            field = ""
            for line in block.splitlines():
                if match := re.match(r"(Copyright|Source|License|Comments?|Files):\s*(.*)", line):
                    field, line = match.groups()
                if field:
                    entry[field] = f"{entry.get(field, '')} {line.strip()}".strip()
            licence = {"public domain": "PD"}.get(entry.get("License", "").lower(), entry.get("License", ""))
            page = entry.get("Source", "").rsplit("/", 1)[-1].removeprefix("File:")
            title = unquote(page).replace("_", " ")
            for name in entry.get("Files", "").split():
                origin = f"gcx/{path.rsplit('/', 1)[0]}/{name}"
                out[origin] = (entry.get("Copyright", ""), licence, title)
    return out


def credit(packages: str, row: dict, photos: dict[str, tuple[str, str, str]]) -> tuple[str, str, str]:
    """Author, licence and title of a picture; the licence is empty where none was verified."""
    source = row["source"]
    if source == "gcompris-photos":
        return photos.get(row["origin"], ("", "", ""))
    if known := CREDITS.get(review.key(row)) or CREDITS.get(source):
        return *known, ""
    if row["origin"].startswith(("npm/", "deb/", "gcx/")):
        return "", "", ""
    info = render.iconify(packages, render.SETS.get(source, row["origin"].split(":")[0]))["info"]
    return info["author"]["name"], info["license"]["spdx"], info["name"]


def candidates(packages: str) -> list[Picture]:
    """Every picture that survived the review, under its class, with its split from `split.py`."""
    rows = render.read_index()
    photos = photo_credits(packages)
    unseen, out = {k for keys in (*DROP.values(), PEOPLE) for k in keys.split()} | set(ADDED), []
    for row, family, part in zip(rows, split.families(rows), split.splits(rows), strict=False):
        unseen.discard(review.key(row))
        if not review.shown(row):
            continue
        author, licence, title = credit(packages, row, photos)
        if licence in SHIPPED:
            out.append(
                Picture(
                    int(row["i"]),
                    review.key(row),
                    row["name"],
                    review.named(row),
                    row["domain"],
                    part,
                    row["source"],
                    author,
                    licence,
                    title,
                    family,
                    row["origin"],
                )
            )
    if unseen:
        raise ValueError(f"not in the index: {sorted(unseen)}")
    return out


def pick(pictures: list[Picture], n: int) -> list[Picture]:
    """At most n pictures, taking turns among the sources."""
    turn: Counter[str] = Counter()
    ranked = []
    for p in sorted(pictures, key=lambda p: (split.fraction(p.origin), p.origin)):
        ranked.append((turn[p.source], split.fraction(p.source), p.origin, p))
        turn[p.source] += 1
    return [entry[-1] for entry in sorted(ranked, key=lambda e: e[:3])[:n]]


def choose(pictures: list[Picture]) -> list[Picture]:
    """The pictures of every cell that holds enough of them, with their file names."""
    cells: dict[tuple[str, str], dict[str, list[Picture]]] = defaultdict(lambda: {s: [] for s in SPLITS})
    for p in pictures:
        cells[p.label, p.domain][p.split].append(p)
    out: list[Picture] = []
    for cell in cells.values():
        if all(len(cell[s]) >= CELL_MIN[s] for s in SPLITS):
            test = pick(cell["test"], split.TEST_MAX)
            out += test + pick(cell["train"], CELL_MAX - len(test))
    names: Counter[str] = Counter()
    for p in sorted(out, key=lambda p: (p.source, p.origin)):
        drawn = p.source in ("gcompris-photos", "gcompris-words", "scratch", "tuxpaint-stamps")
        text = p.key.split(":", 1)[1] if drawn else p.name
        slug = f"{p.source}-" + re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")
        names[slug] += 1
        slug += f"-{names[slug]}" if names[slug] > 1 else ""
        p.file = f"{p.split}/{p.domain}/{p.label}/{slug}.webp"
    return sorted(out, key=lambda p: p.file)


def on_white(pixels: np.ndarray) -> Image.Image:
    picture = Image.new("RGBA", (SIZE, SIZE), "white")
    picture.alpha_composite(Image.fromarray(np.asarray(pixels)))
    return picture.convert("RGB")


def contact_sheet(chosen: list[Picture], folder: Path, size: int = 52, each: int = 4) -> Image.Image:
    """A row a class, a column a domain, in every cell two train and two test pictures."""
    left, top, gap = 74, 20, 10
    width = left + len(DOMAINS) * (each * size + gap)
    sheet = Image.new("RGB", (width, top + len(CLASSES) * (size + 4)), "white")
    draw = ImageDraw.Draw(sheet)
    for x, domain in enumerate(DOMAINS):
        draw.text((left + x * (each * size + gap), 4), domain, fill="black")
    for y, label in enumerate(CLASSES):
        draw.text((4, top + y * (size + 4) + size // 2 - 6), label, fill="black")
        for x, domain in enumerate(DOMAINS):
            cell = [p for p in chosen if (p.label, p.domain) == (label, domain)]
            shown = [p for s in SPLITS for p in pick([p for p in cell if p.split == s], each // 2)]
            for n, p in enumerate(shown):
                tile = Image.open(folder / p.file).resize((size - 2, size - 2), Image.Resampling.LANCZOS)
                sheet.paste(tile, (left + x * (each * size + gap) + n * size, top + y * (size + 4)))
    return sheet


def table(head: list[str], rows: list[list[object]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(str(c) for c in line) + " |" for line in lines)


def licences(chosen: list[Picture]) -> str:
    """LICENSES.md: who made what, under which licence."""
    sets = Counter((p.source, p.author, p.licence, p.title) for p in chosen if p.source != "gcompris-photos")
    several = {"game-icons": GAME_ICONS.replace("\n", " ")}
    rows = [
        [source, title, several.get(source, author), licence, n]
        for (source, author, licence, title), n in sorted(sets.items())
    ]
    photos = [
        [p.file.rsplit("/", 1)[-1], p.title.replace("|", " "), p.author, p.licence]
        for p in chosen
        if p.source == "gcompris-photos"
    ]
    return LICENCES_TEXT.format(
        sets=table(["source", "title", "author", "licence", "pictures"], rows),
        photos=table(["file", "title", "author", "licence"], photos),
    )


def card(chosen: list[Picture]) -> str:
    """README.md: the data card."""
    n = Counter((p.label, p.domain, p.split) for p in chosen)

    def count(labels: tuple[str, ...], domains: tuple[str, ...]) -> str:
        train, test = (sum(n[c, d, s] for c in labels for d in domains) for s in SPLITS)
        return f"{train}/{test}" if train else ""

    grid = [[c, *(count((c,), (d,)) for d in DOMAINS), count((c,), DOMAINS)] for c in CLASSES]
    grid.append(["all", *(count(CLASSES, (d,)) for d in DOMAINS), count(CLASSES, DOMAINS)])
    by_licence = Counter(p.licence for p in chosen)
    dropped = ", ".join(f"{reason} {len(keys.split())}" for reason, keys in sorted(DROP.items()))
    cells = {(p.label, p.domain) for p in chosen}
    return CARD_TEXT.format(
        pictures=len(chosen),
        classes=len(CLASSES),
        domains=len(DOMAINS),
        cells=len(cells),
        holes=len(CLASSES) * len(DOMAINS) - len(cells),
        families=len({p.family for p in chosen}),
        sources=len({p.source for p in chosen}),
        dropped="\n".join(textwrap.wrap(dropped, 104)),
        grid=table(["class", *DOMAINS, "all"], grid),
        cell_max=CELL_MAX,
        test_max=split.TEST_MAX,
        licences=table(["licence", "pictures"], [list(x) for x in by_licence.most_common()]),
    )


def verify(folder: Path) -> None:
    """Read the written set back and raise if a promise of the data card does not hold."""
    with open(folder / "index.csv", newline="") as f:
        rows = list(csv.DictReader(f))
    files = sorted(str(p.relative_to(folder)) for p in folder.glob("*/*/*/*.webp"))
    if files != [r["file"] for r in rows] or len(set(files)) != len(files):
        raise ValueError("the index and the files differ")
    held_out = {r["family"] for r in rows if r["split"] == "test"}
    if both := held_out & {r["family"] for r in rows if r["split"] == "train"}:
        raise ValueError(f"families in both splits: {sorted(both)}")
    if bad := {r["licence"] for r in rows} - set(SHIPPED):
        raise ValueError(f"licences that may not be shipped: {bad}")
    pixels = Counter(
        Image.open(folder / r["file"]).tobytes() + r["class"].encode() + r["domain"].encode() for r in rows
    )
    if len(pixels) != len(rows):
        raise ValueError("the same picture twice in a cell")
    for label, domain in sorted({(r["class"], r["domain"]) for r in rows}):
        cell = Counter(r["split"] for r in rows if (r["class"], r["domain"]) == (label, domain))
        if any(cell[s] < CELL_MIN[s] for s in SPLITS) or cell.total() < 5:
            raise ValueError(f"{label} {domain}: only {dict(cell)}")
    size = sum(p.stat().st_size for p in folder.rglob("*") if p.is_file())
    if size > 25e6 or not all(r["author"] for r in rows):
        raise ValueError(f"{size / 1e6:.1f} MB, or a picture without an author")
    print(f"{len(rows)} pictures, {len(held_out)} held-out families, {size / 1e6:.2f} MB: verified")


def build(pictures: Path, packages: str, out: Path) -> None:
    """Write the whole folder beside OUT, check it, then put it in OUT's place."""
    chosen = choose(candidates(packages))
    pixels = np.load(pictures / "pictures.npy", mmap_mode="r")
    folder = Path(tempfile.mkdtemp(prefix=f".{out.name}-", dir=out.parent))
    try:
        for p in chosen:
            (folder / p.file).parent.mkdir(parents=True, exist_ok=True)
            on_white(pixels[p.i]).save(folder / p.file, quality=QUALITY, method=6)
        with open(folder / "index.csv", "w", newline="") as f:
            writer = csv.writer(f, lineterminator="\n")
            writer.writerow(INDEX)
            writer.writerows([getattr(p, INDEX[column]) for column in INDEX] for p in chosen)
        (folder / "LICENSES.md").write_text(licences(chosen))
        (folder / "README.md").write_text(card(chosen))
        contact_sheet(chosen, folder).save(folder / "contact_sheet.webp", quality=80, method=6)
        verify(folder)
        folder.chmod(0o755)
        if out.exists():
            shutil.rmtree(out)
        folder.rename(out)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("pictures", type=Path)
    parser.add_argument("packages")
    parser.add_argument("out", type=Path)
    args = parser.parse_args()
    build(args.pictures, args.packages, args.out)
