"""What every test shares: no network, no window, repeatable examples."""
import os
from pathlib import Path

import nbformat
import pytest
from hypothesis import settings

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ["MPLBACKEND"] = "agg"
settings.register_profile("clipnull", deadline=None, derandomize=True)
settings.load_profile("clipnull")

ROOT = Path(__file__).parent.parent


@pytest.fixture
def notebook(tmp_path):
    """Write a small notebook: `notebook(name, *sources)`; a source that starts with "# parameters" gets the tag."""

    def write(name: str, *sources: str) -> Path:
        cells = [nbformat.v4.new_code_cell(source, id=f"cell-{i}") for i, source in enumerate(sources)]
        for cell in cells:
            if cell.source.startswith("# parameters"):
                cell.metadata["tags"] = ["parameters"]
        nb = nbformat.v4.new_notebook(cells=cells)
        nb.metadata["kernelspec"] = {"name": "python3", "display_name": "Python 3", "language": "python"}
        path = tmp_path / "notebooks" / f"{name}.ipynb"
        path.parent.mkdir(exist_ok=True)
        nbformat.write(nb, path)
        return path

    return write


@pytest.fixture(scope="session")
def clip():
    """The embedded model, on the CPU."""
    import clipnull
    return clipnull.load(device="cpu")


@pytest.fixture(scope="session")
def world():
    """The embedded test pictures."""
    import clipnull
    return clipnull.load_images()
