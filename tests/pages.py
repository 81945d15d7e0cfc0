"""What a page of HTML shows and loads: for tests of pages."""

import re
from html.parser import HTMLParser

LOADING = ("script", "link", "img", "iframe", "object", "source", "video", "audio")


class Page(HTMLParser):
    """The addresses that a page loads, how many scripts and formulas it has, and its text, and that beside code."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.loaded, self.scripts, self.formulas, self.inside, self.text, self.prose = [], 0, 0, [], "", ""
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.scripts += tag == "script"
        self.formulas += tag == "math"
        if tag in ("style", "script", "math", "pre", "code"):
            self.inside.append(tag)
        if tag in LOADING:
            self.loaded += [value for name, value in attributes if name in ("src", "href", "data", "srcset") and value]

    def handle_endtag(self, tag):
        if tag in self.inside:
            self.inside.remove(tag)

    def handle_data(self, data):
        if not {"style", "script", "math"} & {*self.inside}:
            self.text += data
            self.prose += "" if self.inside else data


def outside(text: str) -> list[str]:
    """What a page would load from another site: by a tag, a script or a style sheet."""
    loaded = [address for address in Page(text).loaded if re.match(r"(https?:)?//", address)]
    parts = re.findall(r"(?s)<(?:script|style)[^>]*>(.*?)</(?:script|style)>", text)
    return loaded + re.findall(r"(?:import|url)\s*\(?\s*[\"']?https?://\S+", "\n".join(parts))


def page_faults(text: str) -> list[str]:
    """What is wrong with the page of a notebook."""
    page = Page(text)
    faults = [f"loads {address}" for address in outside(text)] + ["has a script"] * (page.scripts > 0)
    return faults + [f"shows a formula as it is written: {formula}" for formula in re.findall(r"\$[^$]+\$", page.prose)]
