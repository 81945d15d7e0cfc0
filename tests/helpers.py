"""What several tests build with: examples in number, small models, edits by hand."""

import io
import json
import os
import struct
import subprocess
import sys
import zipfile
import zlib

import numpy as np
import torch
import torch.nn.functional as F
from hypothesis import settings
from hypothesis import strategies as st

from clipnull.bench.baselines import TrainingData
from clipnull.bench.comparison import EvaluationSet
from clipnull.edit import Edit
from clipnull.evaluate import Others, classify
from clipnull.images import Images
from clipnull.layers import Gate
from clipnull.methods.cells import Cells
from clipnull.models import Clip
from clipnull.prompts import Vocabulary, embed_cells
from clipnull.prototypes import Prototypes
from clipnull.subspace import basis

NIGHTLY = bool(os.environ.get("CLIPNULL_NIGHTLY"))

VIT = {
    "embed_dim": 64,
    "vision_cfg": {"layers": 1, "width": 64, "head_width": 32, "patch_size": 16, "image_size": 32},
    "text_cfg": {"context_length": 8, "vocab_size": 49408, "width": 32, "heads": 1, "layers": 1},
}
BARE = VIT | {  # a tower without a projection
    "vision_cfg": {"timm_model_name": "test_vit", "timm_proj": "none", "timm_pool": "token", "image_size": 160},
    "custom_text": True,
}
SIGLIP = VIT | {  # one that ends in an attention pool, as small as they come: slow
    "embed_dim": 192,
    "vision_cfg": {
        "timm_model_name": "vit_pe_core_tiny_patch16_384",
        "timm_proj": "none",
        "timm_pool": "map",
        "image_size": 384,
    },
    "custom_text": True,
    "init_logit_bias": -10.0,
}
COCA = VIT | {
    "vision_cfg": VIT["vision_cfg"] | {"output_tokens": True, "attentional_pool": True},
    "custom_text": True,
    "text_cfg": VIT["text_cfg"] | {"embed_cls": True, "output_tokens": True},
    "multimodal_cfg": VIT["text_cfg"],
}
RESNET = VIT | {"vision_cfg": {"layers": [1, 1, 1, 1], "width": 16, "patch_size": None, "image_size": 64}}


def examples(n: int) -> settings:
    """`@examples(n)`: so many for a test of hypothesis, 20 times as many in the nightly run."""
    return settings(max_examples=n * (20 if NIGHTLY else 1))


@st.composite
def mangled(draw, content: bytes, length: bool = False) -> bytes:
    """Bytes as chance would change them: bits flipped, the end lost, bytes put in or over others; with `length`, also
    the eight bytes that say how long the head of a safetensors file is."""
    content = bytearray(content)
    for _ in range(draw(st.integers(1, 3))):
        what, at = draw(st.integers(0, 4 if length else 3)), draw(st.integers(0, max(0, len(content) - 1)))
        if what == 0 and content:
            content[at] ^= 1 << draw(st.integers(0, 7))
        elif what == 1:
            del content[at:]
        elif what == 2:
            content[at:at] = draw(st.binary(min_size=1, max_size=16))
        elif what == 4:
            content[:8] = draw(st.integers(0, 2**64 - 1) | st.integers(0, 2_000)).to_bytes(8, "little")
        else:
            content[at : at + 8] = draw(st.binary(max_size=8))
    return bytes(content)


def npy(array: object) -> bytes:
    """A .npy, pickled where it holds objects."""
    content = io.BytesIO()
    np.lib.format.write_array(content, np.asanyarray(array), allow_pickle=True)
    return content.getvalue()


def headed(header: str, body: bytes, version: int) -> bytes:
    """A .npy with the header as given."""
    length = len(header).to_bytes(2 if version == 1 else 4, "little")
    return b"\x93NUMPY" + bytes([version, 0]) + length + header.encode("latin1") + body


def archive(members: dict[str, bytes], method: int = zipfile.ZIP_STORED) -> bytes:
    """A zip archive, as .npz files are."""
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w", method) as file:
        for name, data in members.items():
            file.writestr(name.partition("\x00")[0] or "x", data)
    return content.getvalue()


HEADERS = [  # of .npy files that are damaged or hostile
    f"{{'descr': '{kind}', 'fortran_order': {order}, 'shape': {shape}, }}"
    for kind, order, shape in [
        ("<f4", False, "(-6, 4)"), ("<f4", False, "(6.0, 4)"), ("<f4", False, "(True, 4)"), ("<f4", True, "(6, 4)"),
        ("<f4", False, "(1, 1099511627776)"), ("<f4", False, "(1099511627776, 4)"), ("|O", False, "(6, 4)"),
        ("<f2", False, "(6, 4)"), ("<U999999999", False, "()"),
    ]
] + ["{", "(" * 3_000, "", "__import__('os').abort()"]  # fmt: skip


def random(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def project(rows: torch.Tensor, energy: float = 0.9, **fields) -> Edit:
    """The orthogonal projection away from the leading directions of `rows` (n, d)."""
    u = basis(rows, energy)
    return Edit(u, u, "nullspace", **fields)


def plain(d: int, seed: int = 0, **fields) -> Edit:
    """A linear edit."""
    return project(random(3, d, seed=seed), **fields)


def gated(d: int, seed: int = 0, domains: int = 5, rank: int = 4, **fields) -> Edit:
    """One with a gate. Domain 0 is replaced, nothing is open for the last one."""
    opened = random(domains, rank, seed=seed) > 0
    opened[0], opened[-1] = False, False
    gate = Gate(
        F.normalize(random(domains, d, seed=seed + 1), dim=1).double(),
        opened,
        torch.arange(domains) == 0,
        random(d, seed=seed + 2).double(),
        torch.zeros(domains, dtype=torch.float64),
    )
    left, right = (random(d, rank, seed=seed + i).double() for i in (3, 4))
    return Edit(left, right, "gated", gate=gate, **fields)


def pixels(clip: Clip, n: int = 3) -> torch.Tensor:
    return random(n, 3, clip.image_size, clip.image_size)


def noisy_cells(clip: Clip, vocabulary: Vocabulary, prototypes: object = True, mean: object = None) -> Cells:
    """Texts, and texts with noise in the place of prototypes, which take seconds to make."""
    texts = embed_cells(clip, vocabulary)
    noise = random(*texts.shape) / texts.shape[-1] ** 0.5
    return Cells(texts, F.normalize(texts + noise, dim=-1))


def grey_prototypes(clip: Clip, vocabulary: Vocabulary, mask: torch.Tensor) -> Prototypes:
    """Grey pictures with noise, in the place of synthesized ones, which take a second each."""
    shape, s = vocabulary.shape, clip.image_size
    pixels = (128 + 40 * random(*shape, 3, s, s)).clamp(0, 255).to(torch.uint8)
    return Prototypes(pixels, F.normalize(random(*shape, clip.width), dim=-1) * mask[..., None], mask)


def made_of_numbers(seed: int = 4) -> TrainingData:
    """4 classes and 2 domains that add up, 240 pictures around their cells, and noisy copies that show less."""
    c, k, d, n = 4, 2, 48, 240
    texts = F.normalize(
        random(c, 1, d, seed=1) + 0.7 * random(1, k, d, seed=2) + 0.1 * random(c, k, d, seed=3), dim=-1
    ).double()
    classes, domains = torch.arange(n) % c, torch.arange(n) // c % k
    z = (texts[classes, domains].float() + 0.08 * random(n, d, seed=seed)) * 3
    prototypes = F.normalize(texts + 0.05 * random(c, k, d, seed=5), dim=-1)
    v = prototypes.float()[None, :, :, None].expand(2, c, k, 1, d)
    blurred = 0.4 * v + 0.6 * prototypes.float().mean((0, 1)) + 0.03 * random(2, c, k, 6, d, seed=6)
    return TrainingData(Cells(texts, prototypes), 40.0, z, classes, domains, torch.cat([v, blurred], dim=3))


def evaluation_set_of(data: TrainingData, **changes) -> EvaluationSet:
    """Other pictures like those of `data`, and words and pictures of something else."""
    other = made_of_numbers(seed=9)
    names = Vocabulary(["bird", "car", "dog", "fish"], ["line", "photo"])
    images = Images((), other.classes, other.domains, names, other.z)
    classifier = data.cells.classifier.float().expand(2, -1, -1)
    before = classify(other.z, classifier, other.domains)
    others = Others(random(30, 48, seed=7), F.normalize(random(20, 48, seed=8), dim=-1), ("w",) * 20)
    return EvaluationSet(images, other.z, classifier, before, others, {}, "free", **changes)


def python(code: str, *arguments: object, **environment: str) -> str:
    """What `code` prints in a process of its own."""
    run = subprocess.run(
        [sys.executable, "-c", code, *map(str, arguments)],
        capture_output=True,
        text=True,
        env=os.environ | environment,
    )
    assert not run.returncode, run.stderr[-3000:]
    return run.stdout


def stock(code: str, *arguments: object) -> torch.Tensor:
    """What `code` leaves in `out`, run in a process that has open_clip and no clipnull."""
    head = (
        "import sys; sys.modules['clipnull'] = None\n"
        "import open_clip, torch\nargs = sys.argv[1:]\npixels = torch.load(args[0])\n"
    )
    return torch.tensor(json.loads(python(head + code + "\nimport json; print(json.dumps(out.tolist()))", *arguments)))


def png_header(width: int, height: int) -> bytes:
    """A PNG that says it has so many pixels, and has none."""
    chunk = b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    data = b"IDAT" + zlib.compress(b"")
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(c) - 4) + c + struct.pack(">I", zlib.crc32(c)) for c in (chunk, data, b"IEND")
    )
