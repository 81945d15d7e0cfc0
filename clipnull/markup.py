"""Names of others in Markdown: shown as they are, and never markup of their own."""

import json
import re
from pathlib import Path


def as_text(name: object) -> str:
    """A name as Markdown that shows it as it is: nothing in it is markup, HTML, or the end of a table's cell."""
    line = " ".join(str(name).split())
    line = line.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return re.sub(r"([\\`*_{}\[\]()#+!|~$@:])", r"\\\1", line)


def as_code(name: object) -> str:
    """A name as code in a line of Markdown, whatever quotes of its own it brings."""
    line = " ".join(str(name).split()).replace("<", "‹").replace(">", "›")
    quotes = "`" * (1 + max(map(len, re.findall("`+", line)), default=0))
    blank = " " if line.startswith("`") or line.endswith("`") else ""
    return f"{quotes}{blank}{line}{blank}{quotes}"


def as_json(value: object) -> str:
    """JSON in one line, as YAML and Python read it too, without what Markdown or HTML would take for its own."""
    text = json.dumps(value, ensure_ascii=False)
    return re.sub("[<>&`\x7f-\x9f\u2028\u2029]", lambda found: f"\\u{ord(found.group()):04x}", text)


def public_name(name: str) -> str:
    """A name, tag or hub address as it is; of a path on this machine only the last part."""
    local = name.removeprefix("local-dir:")
    return Path(local).name if local != name or Path(local).exists() else name
