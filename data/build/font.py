"""The font of formulas, `clipnull/course/fonts/formulas.woff2`, a part of STIX Math; its result is in the tree.

Asks for fontTools and brotli. The original is in Debian's package fonts-stix (1.1.1): STIXMath-Regular.otf, under the
SIL Open Font License, whose text is beside the result. A part of a font must not bear its reserved name, so that this
one is called "Clipnull Formulas".

    python data/build/font.py STIXMath-Regular.otf
"""

import sys
from pathlib import Path

from fontTools import subset, ttLib

NAME = "Clipnull Formulas"
RANGES = (
    (0x20, 0x7E), (0xA0, 0xB7), (0xD7, 0xD7), (0xF7, 0xF7), (0x131, 0x131), (0x237, 0x237), (0x2C6, 0x2DD),
    (0x300, 0x30C), (0x391, 0x3A9), (0x3B1, 0x3D6), (0x3F0, 0x3F5), (0x2013, 0x2016), (0x2018, 0x201D),
    (0x2020, 0x2026), (0x2032, 0x2034), (0x2061, 0x2064), (0x210B, 0x2131), (0x2190, 0x2199), (0x21A6, 0x21A6),
    (0x21D0, 0x21D4),
    (0x2200, 0x22A5), (0x22C0, 0x22C6), (0x22EE, 0x22F1), (0x2308, 0x230B), (0x239B, 0x23B3), (0x23DC, 0x23DF),
    (0x27E8, 0x27E9), (0x27F5, 0x27FA), (0x2A7D, 0x2A7E), (0x1D400, 0x1D467), (0x1D49C, 0x1D4CF), (0x1D538, 0x1D56B),
    (0x1D6A4, 0x1D6DA), (0x1D6E2, 0x1D714), (0x1D7CE, 0x1D7E1),
)  # fmt: skip
"""What formulas are written with: Latin, Greek, operators, arrows, fences, and the italic, bold, script and
double-struck letters of mathematics. What a fence grows to comes with it."""


def main(source: Path, out: Path) -> None:
    options = subset.Options()
    options.flavor, options.hinting, options.layout_features = "woff2", False, ["ssty"]
    options.drop_tables += ["FFTM", "GPOS", "GDEF"]
    font = ttLib.TTFont(source, recalcTimestamp=False)
    chosen = subset.Subsetter(options)
    chosen.populate(unicodes=[code for first, last in RANGES for code in range(first, last + 1)])
    chosen.subset(font)
    for record in font["name"].names:
        if record.nameID in (1, 4, 6):
            record.string = NAME.replace(" ", "") if record.nameID == 6 else NAME
    font["CFF "].cff.fontNames[0] = NAME.replace(" ", "")
    top = font["CFF "].cff.topDictIndex[0]
    top.FullName = top.FamilyName = NAME
    font.flavor = "woff2"
    font.save(out)
    print(f"{out}: {out.stat().st_size} bytes, {len(font.getGlyphOrder())} glyphs")


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(__file__).parents[2] / "clipnull" / "course" / "fonts" / "formulas.woff2")
