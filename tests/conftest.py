"""What every test shares: no network, no window, a cache of its own, repeatable examples."""

import functools
import hashlib
import http.server
import json
import os
import socket
import sys
import tempfile
import threading
from pathlib import Path

import pytest
from hypothesis import settings

ROOT = Path(__file__).parent.parent
CACHE = ROOT / "build" / "test-cache"  # for all workers: clipnull locks each file in it

LONGEST = ("notebooks", "slow")  # marks
SLOW_EXAMPLES = {"clipnull.audits.audit", "clipnull.bench.cards.release", "clipnull.interop.exporting.export"}

sys.modules.setdefault("rfc3987_syntax", None)  # as `notebooks.import_jupyter` does: nbformat takes a second less
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["MPLBACKEND"] = "agg"
os.environ["CLIPNULL_CACHE"] = str(CACHE)  # whatever it was: tests never touch the user's
CACHE.mkdir(parents=True, exist_ok=True)
if "PYTEST_XDIST_WORKER" in os.environ:
    os.environ.setdefault("OMP_NUM_THREADS", "1")  # for processes that tests start, too

settings.register_profile("clipnull", deadline=None, derandomize=True, max_examples=30)
settings.register_profile("nightly", deadline=None, max_examples=2_000)
settings.load_profile("nightly" if os.environ.get("CLIPNULL_NIGHTLY") else "clipnull")


def pytest_configure(config):
    if "PYTEST_XDIST_WORKER" in os.environ:
        import torch

        torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))


@pytest.hookimpl(wrapper=True)
def pytest_collection_modifyitems(items):
    """Long tests first: no worker waits for a notebook that another one began at the end."""
    for item in items:
        if item.name in SLOW_EXAMPLES:  # a docstring bears no marks
            item.add_marker(pytest.mark.slow)
    yield
    items.sort(key=lambda item: next((i for i, mark in enumerate(LONGEST) if item.get_closest_marker(mark)), 9))


@pytest.fixture(autouse=True, scope="session")
def no_network():
    """A connection to another machine fails at once."""
    connect = socket.socket.connect

    def local(self, address):
        if self.family in (socket.AF_INET, socket.AF_INET6) and self.type == socket.SOCK_STREAM:
            host = address[0]
            if host not in ("localhost", "::1", "0.0.0.0", "::") and not host.startswith("127."):
                raise OSError(f"a test connects to {host}; expected no network")
        return connect(self, address)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(socket.socket, "connect", local)
        yield


@pytest.fixture
def notebook(tmp_path):
    """Write a small notebook: `notebook(name, *sources)`; a source that starts with "# parameters" gets the tag."""
    import nbformat

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
def images():
    """The embedded test pictures."""
    import clipnull

    return clipnull.load_images()


@pytest.fixture(scope="session")
def corner(images):
    """A few of `images`, at most four in each cell of a small vocabulary; there is no photo of a car."""
    import torch

    from clipnull import Vocabulary
    from clipnull.images import Images

    vocabulary, known = Vocabulary(["bird", "car", "person"], ["flat", "line", "photo"]), images.vocabulary
    files, labels = [], []
    for c, name in enumerate(vocabulary.classes):
        for k, domain in enumerate(vocabulary.domains):
            mask = (images.classes == known.classes.index(name)) & (images.domains == known.domains.index(domain))
            for i in mask.nonzero()[:4, 0].tolist():
                files.append(images.files[i])
                labels.append((c, k))
    return Images(tuple(files), *torch.tensor(labels).T.contiguous(), vocabulary)


@pytest.fixture(scope="session")
def z(clip, images):
    """The embeddings of `images` under `clip`, kept for the next run while the code that makes them stays the same."""
    import torch
    from filelock import FileLock

    import clipnull

    code = b"".join((ROOT / "clipnull" / f"{name}.py").read_bytes() for name in ("embedding", "images", "models"))
    path = CACHE / f"z-{hashlib.sha256(clip.fingerprint.encode() + code).hexdigest()[:16]}.pt"
    with FileLock(f"{path}.lock"):
        if not path.is_file():
            torch.save(clipnull.embed(clip, images), path)
    return torch.load(path)


@pytest.fixture(scope="session")
def cells(clip, images):
    """The cells of `images`, with noisy texts in the place of prototypes."""
    from helpers import noisy_cells

    return noisy_cells(clip, images.vocabulary)


@pytest.fixture(scope="module")
def data():
    """Training data of numbers, for baselines."""
    from helpers import made_of_numbers

    return made_of_numbers()


@pytest.fixture(scope="module")
def on(data):
    """The evaluation set that belongs to `data`."""
    from helpers import evaluation_set_of

    return evaluation_set_of(data)


@pytest.fixture(scope="module")
def texts_once():
    """The text classifiers that `compare` and `zero_shot` make, once for each vocabulary: edits leave texts alone."""
    from clipnull import evaluate

    classifiers, make = {}, evaluate.text_classifiers

    def remembered(clip, vocabulary, prompts):
        key = clip.fingerprint, vocabulary, prompts
        if key not in classifiers:
            classifiers[key] = make(clip, vocabulary, prompts)
        return classifiers[key].clone()

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(evaluate, "text_classifiers", remembered)
        yield


@pytest.fixture(scope="session")
def small(tmp_path_factory):
    """`small(config)`: a Clip of untrained weights with that configuration of open_clip, the same each time."""
    import open_clip
    import torch

    from clipnull.models import Clip, quiet

    models = {}

    def build(config: dict, precision: str) -> Clip:
        folder = tmp_path_factory.mktemp("model")
        (folder / "open_clip_config.json").write_text(json.dumps({"model_cfg": config}))
        torch.manual_seed(0)
        with quiet():
            model, _, preprocess = open_clip.create_model_and_transforms(f"local-dir:{folder}", precision=precision)
        if hasattr(model, "text_decoder"):  # open_clip leaves this one as memory was, possibly NaN
            torch.nn.init.zeros_(model.text_decoder.text_projection)
        tokenizer = open_clip.get_tokenizer(f"local-dir:{folder}")
        return Clip(model.eval().requires_grad_(False), preprocess, tokenizer, f"local-dir:{folder}", None)

    def once(config: dict, precision: str = "fp32") -> Clip:
        key = json.dumps([config, precision])
        if key not in models:
            models[key] = build(config, precision)
        return models[key]

    return once


@pytest.fixture(scope="session")
def devtools():
    """A browser without a window: the address of its DevTools, for `browsing.tab` and `browsing.visit`."""
    import browsing

    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile, browsing.started(Path(profile)) as address:
        yield address


@pytest.fixture(scope="session")
def browser(devtools):
    """`browser(address)`: load the page in a window of 800 pixels, and what it shows and complains of."""
    import browsing

    return functools.partial(browsing.visit, devtools)


@pytest.fixture(scope="session")
def serve():
    """`serve(folder)`: the address of a server of the files in `folder`."""
    servers = []

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *_):
            pass

    def start(folder: Path) -> str:
        server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=folder))
        threading.Thread(target=server.serve_forever, daemon=True).start()
        servers.append(server)
        return f"http://127.0.0.1:{server.server_address[1]}"

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


@pytest.fixture(scope="session")
def site(tmp_path_factory):
    """The folder of the book of the course, with the demo; all workers of pytest-xdist share it."""
    from filelock import FileLock

    from clipnull.course import book

    folder = tmp_path_factory.getbasetemp()
    folder = folder.parent if "PYTEST_XDIST_WORKER" in os.environ else folder
    pages = [path for kind in ("*.ipynb", "*.md") for path in sorted((ROOT / "notebooks").glob(kind))]
    with FileLock(folder / "book.lock"):
        if not (folder / "book" / "index.html").is_file():
            book.build(pages, folder / "book", whole=True)
    return folder / "book"
