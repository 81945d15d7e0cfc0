"""Let the CUDA build of torch run where there is no GPU, without NVIDIA's libraries: 2.4 GB less to download.

PyTorch has a CPU build, but on an index of its own. The build on the public package index is linked to CUDA on Linux
and does not load without it, although nothing of CUDA is used where there is no GPU. Here each missing library gets a
stand-in, which has the same functions; all they do is return an error. torch asks the real CUDA runtime (2 MB) first,
hears that there is no GPU, and never calls them. What runs on the CPU is the same build, bit for bit.

    python .ci/cpu_torch.py        makes the stand-ins, takes the libraries out of what torch says it needs, so that
                                   pip does not bring them later, and prints what brings the runtime
    python .ci/cpu_torch.py try    does torch run?
"""

import mmap
import platform
import re
import struct
import subprocess
import sys
from importlib.metadata import distribution
from pathlib import Path

FUNCTION = re.compile(rb"(cu|nccl|nv)(?!da[A-Z])[A-Za-z]")  # how the names of its functions begin, the runtime's aside
LIBRARY = re.compile(rb"lib(cu|nccl|nv)(?!dart\.|da\.)\w*\.so")  # and of its libraries, runtime and driver aside
PACKAGE = re.compile(r"Requires-Dist: (nvidia|cuda|triton)\b")
RETURN_35 = {"x86_64": b"\xb8\x23\0\0\0\xc3", "aarch64": b"\x60\x04\x80\x52\xc0\x03\x5f\xd6"}  # 35: no driver
MACHINE = {"x86_64": 62, "aarch64": 183}
NAME, CODE, PAGE = "stand-in.so", 64 + 4 * 56, 0x10000
DYNAMIC, SYMBOLS, VERSIONS = 6, 11, 0x6FFFFFFE  # kinds of sections of an ELF file
TRY = """import torch, torchvision
x = torch.nn.functional.conv2d(torch.ones(1, 3, 8, 8), torch.ones(4, 3, 3, 3))
assert x.sum() == 3888 and torch.linalg.svdvals(torch.eye(9)).sum() == 9 and not torch.cuda.is_available()"""


def read(path: Path) -> tuple[set[bytes], set[bytes], set[bytes]]:
    """The libraries that a shared library needs of NVIDIA's, their versions, and the functions that it takes."""
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as elf:
        start, size, count = struct.unpack_from("<Q10xHH", elf, 40)[0], *struct.unpack_from("<HH", elf, 58)
        sections = [struct.unpack_from("<IIQQQQIIQQ", elf, start + i * size) for i in range(count)]

        def text(table: int, offset: int) -> bytes:
            begin = sections[table][4] + offset
            return elf[begin : elf.find(b"\0", begin)]

        libraries, versions, functions = set(), set(), set()
        for _, kind, _, _, offset, length, link, entries, _, size in sections:
            if kind == DYNAMIC:
                tags = [struct.unpack_from("<QQ", elf, place) for place in range(offset, offset + length, size)]
                libraries |= {text(link, value) for tag, value in tags if tag == 1}
            elif kind == SYMBOLS:  # those without a section are taken from elsewhere
                symbols = [struct.unpack_from("<IxxH", elf, place) for place in range(offset, offset + length, size)]
                functions |= {text(link, name) for name, section in symbols if not section}
            elif kind == VERSIONS:
                for _ in range(entries):
                    _, names, library, first, following = struct.unpack_from("<HHIII", elf, offset)
                    place = offset + first
                    for _ in range(names if LIBRARY.match(text(link, library)) else 0):
                        name, further = struct.unpack_from("<8xII", elf, place)
                        versions.add(text(link, name))
                        place += further
                    offset += following
    return {n for n in libraries if LIBRARY.match(n)}, versions, {n for n in functions if FUNCTION.match(n)}


def sysv(name: bytes) -> int:
    """The hash by which the loader finds a symbol."""
    value = 0
    for byte in name:
        value = (value << 4) + byte
        value = (value ^ (value & 0xF0000000) >> 24) & 0x0FFFFFFF
    return value


def library(functions: list[bytes], versions: list[bytes], machine: str) -> bytes:
    """A shared library whose functions all return 35 and answer to every version."""
    strings, places = b"\0stand-in\0", {}
    for name in (*functions, *versions):
        places[name] = len(strings)
        strings += name + b"\0"
    count = len(functions) + 1
    buckets, chains = [0] * count, [0] * count
    for i, name in enumerate(functions, 1):
        bucket = sysv(name) % count
        chains[i], buckets[bucket] = buckets[bucket], i
    defined = b""  # the first is the library itself; a function that carries its number answers to every version
    for i, name in enumerate((b"stand-in", *versions), 1):
        last = 0 if i > len(versions) else 28
        defined += struct.pack("<HHHHIIIII", 1, i == 1, i, 1, sysv(name), 20, last, places.get(name, 1), 0)
    symbols = bytes(24) + b"".join(struct.pack("<IBBHQQ", places[name], 0x12, 0, 1, CODE, 16) for name in functions)

    body, at = RETURN_35[machine].ljust(16, b"\0"), {}
    for tag, part in (
        (6, symbols),
        (4, struct.pack(f"<II{2 * count}I", count, count, *buckets, *chains)),
        (0x6FFFFFFC, defined),
        (0x6FFFFFF0, struct.pack(f"<{count}H", 0, *[1] * len(functions))),
        (5, strings),
    ):
        body = body.ljust(-(-len(body) // 8) * 8, b"\0")
        at[tag] = CODE + len(body)
        body += part
    body = body.ljust(-(-len(body) // 8) * 8, b"\0")
    end = CODE + len(body)
    tags = {**at, 10: len(strings), 11: 24, 14: 1, 0x6FFFFFFD: len(versions) + 1, 0: 0}
    dynamic = b"".join(struct.pack("<QQ", *tag) for tag in tags.items())
    place = (end, end + PAGE, end + PAGE, len(dynamic), len(dynamic))  # on a page of its own, which may be written to
    header = struct.pack(
        "<16sHHIQQQIHHHHHH", b"\x7fELF\2\1\1", 3, MACHINE[machine], 1, 0, 64, 0, 0, 64, 56, 4, 64, 0, 0
    )
    segments = [(1, 5, 0, 0, 0, end, end, PAGE), (1, 6, *place, PAGE), (2, 6, *place, 8), (0x6474E551, 6, *[0] * 5, 16)]
    return header + b"".join(struct.pack("<IIQQQQQQ", *segment) for segment in segments) + body + dynamic


def stand_in(folder: Path, machine: str) -> list[str]:
    """Write the stand-ins that the libraries in `folder` need; returns their names."""
    needs = [read(path) for path in sorted(folder.glob("*.so*")) if not path.is_symlink() and path.name != NAME]
    libraries, versions, functions = (sorted(set().union(*sets)) for sets in zip(*needs, strict=True))
    (folder / NAME).write_bytes(library(functions, versions, machine))
    for name in libraries:
        (folder / name.decode()).unlink(missing_ok=True)
        (folder / name.decode()).symlink_to(NAME)
    return [name.decode() for name in libraries]


def main() -> int:
    if sys.argv[1:] == ["try"]:
        return subprocess.run([sys.executable, "-c", TRY]).returncode
    torch = distribution("torch")
    runtime = [re.match(r"cuda-toolkit\[.*\](==[\d.]+)", line) for line in torch.requires or ()]
    stand_in(Path(str(torch.locate_file("torch/lib"))), platform.machine())
    metadata = next(Path(str(torch.locate_file(file))) for file in torch.files or () if file.name == "METADATA")
    lines = metadata.read_text(encoding="utf-8").splitlines(keepends=True)
    partial = metadata.with_name("METADATA.partial")  # the file itself may be shared with uv's cache
    partial.write_text("".join(line for line in lines if not PACKAGE.match(line)), encoding="utf-8")
    partial.replace(metadata)
    print(*(f"cuda-toolkit[cudart]{match[1]}" for match in runtime if match))
    return 0


if __name__ == "__main__":
    sys.exit(main())
