"""What a page of HTML shows and loads: for tests of pages."""

import re

from bs4 import BeautifulSoup

LOADING = ("script", "link", "img", "iframe", "object", "source", "video", "audio")


class Page:
    """The addresses that a page loads, how many scripts and formulas it has, its text, and its text beside code."""

    def __init__(self, text: str) -> None:
        soup = BeautifulSoup(text, "html.parser")
        values = [tag.get(name) for tag in soup(LOADING) for name in ("src", "href", "data", "srcset")]
        self.loaded, self.scripts, self.formulas = [*filter(None, values)], len(soup("script")), len(soup("math"))
        for hidden in soup(["style", "script", "math"]):
            hidden.decompose()
        self.text = soup.get_text()
        for code in soup(["pre", "code"]):
            code.decompose()
        self.prose = soup.get_text()


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
