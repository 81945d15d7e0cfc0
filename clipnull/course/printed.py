"""What a cell has printed, as HTML: sentences that may wrap, and tables where columns were printed."""

import html
import re

GAP = re.compile(r"\S {2,}\S")
WIDE = re.compile(r"\S {3,}(?=\S)")
NUMBER = re.compile(r"[-+±]?[\d.,]+( ?%)?|nan|-")


def tabled(text: str) -> str:
    """Escaped text of a `<pre>`: neighbouring lines with two blanks inside are a table, the others text as it is.

    Lines whose columns cannot be told apart stay as they are, and scroll.
    """
    text = re.sub(r"<span></span>", "", text)
    if "<" in text:  # colours or the like
        return f'<pre tabindex="0">{text}</pre>' if GAP.search(text) else f'<pre class="prose">{text}</pre>'
    parts: list[tuple[bool, list[str]]] = []
    for line in html.unescape(text).rstrip("\n").split("\n"):
        columned = bool(GAP.search(line) or re.match(r" {3,}\S", line))
        if not parts or parts[-1][0] != columned:
            parts.append((columned, []))
        parts[-1][1].append(line.rstrip())
    return "".join(_table(lines) if columned else _pre(lines, 'class="prose"') for columned, lines in parts)


def _pre(lines: list[str], kind: str) -> str:
    return f"<pre {kind}>{html.escape(chr(10).join(lines))}</pre>"


def _table(lines: list[str]) -> str:
    if len(lines) == 1:
        return _pre(lines, 'class="prose"')
    rows = _cells(lines)
    if len(rows[0]) < 2 or any(WIDE.search(cell) for row in rows for cell in row):
        return _pre(lines, 'tabindex="0"')
    headed = any(rows[0]) and not any(NUMBER.fullmatch(cell) for cell in rows[0][1:])
    headed = headed and any(NUMBER.match(cell) for row in rows[1:] for cell in row[1:])
    found = ""
    for i, (first, *others) in enumerate(rows):
        kind, scope = ("th", ' scope="col"') if headed and not i else ("td", "")
        cells = "".join(f"<{kind}{scope}>{html.escape(cell)}</{kind}>" if cell else "<td></td>" for cell in others)
        scope = "col" if headed and not i else "row"
        found += f'<tr>{f"""<th scope="{scope}">{html.escape(first)}</th>""" if first else "<td></td>"}{cells}</tr>'
    return f'<div class="table-wrapper"><table>{found}</table></div>'


def _cells(lines: list[str]) -> list[list[str]]:
    """The lines cut where all have two blanks; what three blanks still divide, where all have one."""
    width = max(map(len, lines))
    padded = [line.ljust(width) for line in lines]
    marks = "".join(" " if all(line[i] == " " for line in padded) else "x" for i in range(width))
    columns = [[line[slice(*found.span())] for line in padded] for found in re.finditer(r"x+(?: x+)*", marks)]
    columns = [part for i, column in enumerate(columns) for part in _parts(column, first=not i)]
    return [[cell.strip() for cell in row] for row in zip(*columns, strict=True)]


def _parts(column: list[str], first: bool) -> list[list[str]]:
    if not any(WIDE.search(cell) for cell in column):
        return [column]
    for i in range(1, len(column[0]) - 1):
        left, right = [cell[:i] for cell in column], [cell[i + 1 :] for cell in column]
        if all(cell[i] == " " for cell in column) and all(map(str.strip, [*left[first:], *right])):
            return [left, *_parts(right, False)]
    return [column]
