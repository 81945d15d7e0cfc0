"""Any bytes at all as an index, as queries or as a record: sound rows come out, or ValueError that names the file.

50 inputs by day, 10,000 at night. Run with -s, it prints what came of them.
"""

import io
import json
import struct
import time
import warnings
import zipfile
from collections import Counter

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from helpers import HEADERS, archive, examples, headed, mangled, npy
from hypothesis import given
from hypothesis import strategies as st

from clipnull.errors import printable
from clipnull.index.checking import read_queries
from clipnull.index.files import open_vectors
from clipnull.index.rewriting import ENTRY, content_of, read_record, record_of

N, D = 6, 4
Z = np.random.default_rng(0).normal(size=(N, D)).astype("f4")
NUMBERS = [-1, 0, 1, 3, D, N, 7, 2**20, 2**31, 2**40, 2**63, 2**70, 1.5, True, None, "6", [], {}, 1e400]
JSONS = [
    "", "{", "[]", "null", "1", "{}", "[" * 50_000, '{"__metadata__": 3}', '{"a": 1}', "\ud800", '{"a": {"shape": 5}}',
]  # fmt: skip
WORDS = ["ViT-B-16", "", "\x1b[2J", "a\x00", "x" * 9_000, "\u202e", "🐶"]
METHODS = [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA]


def parquet(table: pa.Table, **settings) -> bytes:
    content = io.BytesIO()
    pq.write_table(table, content, **settings)
    return content.getvalue()


def lists(rows, kind=None) -> pa.Table:
    return pa.table({"embedding": pa.array(rows, kind), "caption": [f"row {i}" for i in range(len(rows))]})


ARRAYS = [
    Z, Z.astype("f2"), Z.astype("f8"), Z.astype(">f4"), Z[:0], Z[:, :0], Z[0], Z[None], Z.astype("c8"), Z.astype("U3"),
    np.asfortranarray(Z), Z * np.nan, np.array([{}] * N), np.array("ViT"), np.arange(N),
]  # fmt: skip
LISTS = [
    lists(Z.tolist(), pa.list_(pa.float32())), lists(Z.tolist(), pa.list_(pa.float32(), D)),
    lists(Z.tolist(), pa.large_list(pa.float64())), lists([[1.0], [1.0, 2.0, 3.0], [1.0, 2.0]] * 2),
    lists([[1.0, 2.0], None] * 3), lists([[1.0, None], [1.0, 2.0]] * 3), lists([[]] * N, pa.list_(pa.float32())),
    lists([], pa.list_(pa.float32())), lists([[1, 2]] * N), lists([["a"]] * N), lists([[[1.0]]] * N),
]  # fmt: skip


@st.composite
def files(draw):
    """An ending, and bytes that may stand in such a file."""
    kind = draw(st.sampled_from([".npy", ".npz", ".safetensors", ".parquet"]))
    if kind == ".npy":
        made = npy(draw(st.sampled_from(ARRAYS)))
        if draw(st.booleans()):
            made = headed(draw(st.sampled_from(HEADERS)), Z.tobytes(), draw(st.integers(0, 4)))
    elif kind == ".npz":
        members = {"images.npy": npy(Z), "texts.npy": npy(Z), "captions.npy": npy(np.array(list("abcdef")))}
        members["model.npy"] = npy(np.array(draw(st.sampled_from(WORDS))))
        for name in draw(st.lists(st.sampled_from([*members, "class_texts.npy", "class_names.npy", "a"]), max_size=3)):
            body = npy(draw(st.sampled_from(ARRAYS)))
            made = headed(draw(st.sampled_from(HEADERS)), Z.tobytes(), draw(st.integers(0, 4)))
            members[name] = draw(st.sampled_from([body, made]) | mangled(body))
        made = archive(members, draw(st.sampled_from(METHODS)))
    elif kind == ".safetensors":
        entry = {"dtype": draw(st.sampled_from(["F32", "F32", "F16", "I8", "", 3, []])), "shape": [N, D]}
        entry["data_offsets"] = [0, Z.nbytes]
        for key in draw(st.lists(st.sampled_from(["shape", "data_offsets"]), max_size=2)):
            entry[key] = draw(st.lists(st.sampled_from(NUMBERS), max_size=3) | st.sampled_from(NUMBERS))
        said = {"model": draw(st.sampled_from(WORDS))}
        head = json.dumps({"images": entry, "__metadata__": draw(st.sampled_from([said, [], 3, {"model": [1]}]))})
        head = draw(st.sampled_from([head, head, head, *JSONS])).encode("utf-8", "surrogatepass")
        size = draw(st.sampled_from([len(head)] * 4 + [0, 2**20, 2**63]))
        made = struct.pack("<Q", size) + head + Z.tobytes()
    else:
        table = draw(st.sampled_from(LISTS)).replace_schema_metadata({"model": draw(st.sampled_from(WORDS))})
        made = parquet(table, compression=draw(st.sampled_from(["none", "snappy", "zstd"])), row_group_size=4)
    return kind, draw(mangled(made)) if draw(st.integers(0, 3)) == 0 else made


@st.composite
def records(draw):
    entry = {key: "ab" for key in ENTRY} | {"side": "images", "normalize": False}
    for key in draw(st.lists(st.sampled_from(sorted(entry)), max_size=2)):
        entry[key] = draw(st.sampled_from([*NUMBERS, "queries"]))
    edits = draw(st.sampled_from([[entry], entry, [1], "ab", None, []]))
    whole = {"format": "clipnull-applied", "content": "CONTENT", "edits": edits}
    said = draw(st.sampled_from([json.dumps(whole), json.dumps(whole), *JSONS]))
    content = said.encode("utf-8", "surrogatepass")
    return draw(mangled(content)) if content and draw(st.integers(0, 3)) == 0 else content


def assert_sound(path, counts):
    """As many finite or broken rows as the table says, of its width and type; words to print."""
    table = open_vectors(path)
    chunks = [chunk.clone() for chunk in table.chunks()]
    assert sum(map(len, chunks)) == table.shape[0] > 0
    assert all(chunk.shape[1] == table.shape[1] and chunk.dtype == table.dtype for chunk in chunks)
    assert all(printable(word) for word in (table.name, *table.words.values()))
    counts["rows"] += 1


def assert_asked(path, counts):
    queries = read_queries(path, N)
    assert queries.vectors.shape[0] == len(queries.texts) == len(queries.rows) > 0
    assert queries.vectors.isfinite().all() and all(isinstance(text, str) for text in queries.texts)
    counts["queries"] += 1


@pytest.mark.parametrize("n", [50, pytest.param(500, marks=pytest.mark.nightly)])
def test_nothing_but_value_errors_that_name_the_file(n, tmp_path):
    counts, slowest = Counter(), [0.0]

    def tried(read, path):
        start = time.perf_counter()
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("error")
                read(path, counts)
        except ValueError as error:
            counts["ValueError"] += 1
            assert "fuzzed" in str(error) and len(str(error)) < 2_000 and printable(str(error)), str(error)
        slowest[0] = max(slowest[0], time.perf_counter() - start)

    @examples(n)
    @given(files(), records())
    def fuzz(file, record):
        kind, content = file
        path = tmp_path / f"fuzzed{kind}"
        path.write_bytes(content)
        tried(assert_sound, path)
        tried(assert_asked, path)
        record_of(path).write_bytes(record.replace(b"CONTENT", content_of(path).encode()))
        tried(lambda path, counts: counts.update(records=bool(read_record(path))), path)
        counts["inputs"] += 1

    fuzz()
    print(f"\nindices: {dict(counts)}; slowest {1e3 * slowest[0]:.0f} ms")
    assert counts["inputs"] >= 0.9 * n and counts["ValueError"] > counts["inputs"] / 4, counts
    if n > 50:  # of fewer, chance may leave none
        assert counts["rows"] > counts["inputs"] / 20 and counts["queries"] and counts["records"], counts
