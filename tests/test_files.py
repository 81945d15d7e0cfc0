"""Data and caches are where they should be; files appear whole or not at all."""

import errno
import os
import stat
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
from conftest import CACHE, ROOT
from filelock import Timeout
from safetensors.torch import save_file

from clipnull import files


def test_data_is_found_in_the_clone_or_in_the_wheel(tmp_path, monkeypatch):
    assert files.data_folder("miniclip") == ROOT / "data" / "miniclip"
    installed = tmp_path / "clipnull"
    (installed / "_data" / "miniclip").mkdir(parents=True)
    monkeypatch.setattr(files, "__file__", str(installed / "files.py"))
    assert files.data_folder("miniclip") == installed / "_data" / "miniclip"
    with pytest.raises(FileNotFoundError, match="miniworld"):
        files.data_folder("miniworld")


def test_the_cache_is_where_the_variable_says_else_at_home(tmp_path, monkeypatch):
    monkeypatch.setattr(Path, "home", lambda: tmp_path / "home")
    assert files.cache_path() == CACHE  # while tests run
    monkeypatch.setenv("CLIPNULL_CACHE", "")
    assert files.cache_path() == tmp_path / "home" / ".cache" / "clipnull" and not any(tmp_path.iterdir())
    monkeypatch.setenv("CLIPNULL_CACHE", str(tmp_path / "new" / "folder"))
    assert files.cache_folder() == tmp_path / "new" / "folder" and not list((tmp_path / "new" / "folder").iterdir())
    (tmp_path / "file").touch()
    monkeypatch.setenv("CLIPNULL_CACHE", str(tmp_path / "file" / "cache"))
    with pytest.raises(OSError, match=r"cache: '.*file.cache' .*CLIPNULL_CACHE"):
        files.cache_folder()


@pytest.mark.promise("Nothing is written outside its target")
def test_a_file_appears_whole(tmp_path):
    path = tmp_path / "a.txt"
    with files.written(path) as temporary:
        temporary.write_text("half")
        assert not path.exists() and temporary.parent == tmp_path
    assert path.read_text() == "half" and list(tmp_path.iterdir()) == [path]
    assert files.write_text(path, "á\nb\n") == path and path.read_bytes() == "á\nb\n".encode()
    long = path.with_name("x" * 255)  # as long as the system lets
    assert files.write_text(long, "a").read_text() == "a"


@pytest.mark.skipif(os.name == "nt", reason="permissions of POSIX")
def test_a_file_gets_the_permissions_of_any_new_file(tmp_path):
    before = os.umask(0o027)
    try:
        with files.written(tmp_path / "tensors") as temporary:
            save_file({"a": torch.zeros(1)}, temporary)  # of 0600
        files.write_text(tmp_path / "text", "a")
    finally:
        os.umask(before)
    assert {stat.S_IMODE(p.stat().st_mode) for p in tmp_path.iterdir()} == {0o640}


@pytest.mark.parametrize("failing", ["write", "chmod", "replace"])
@pytest.mark.promise("Nothing is written outside its target")
def test_a_full_disk_leaves_nothing_and_the_next_time_goes_well(failing, tmp_path, monkeypatch):
    path = files.write_text(tmp_path / "a.txt", "old")

    def full(*_, **__):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        if failing != "write":
            patch.setattr(os, failing, full)
        with pytest.raises(OSError, match="No space left"), files.written(path) as temporary:
            temporary.write_text("half")
            if failing == "write":
                full()
    assert path.read_text() == "old" and list(tmp_path.iterdir()) == [path]
    assert files.write_text(path, "new").read_text() == "new"


def test_two_writers_of_one_path_do_not_mix(tmp_path):
    path, texts = tmp_path / "a.txt", [letter * 50_000 for letter in "abcd"]
    files.write_text(path, texts[0])

    def write(text):
        return all(files.write_text(path, text).read_text() in texts for _ in range(10))

    with ThreadPoolExecutor(len(texts)) as threads:
        assert all(threads.map(write, texts)) and list(tmp_path.iterdir()) == [path]


def test_only_one_is_alone_in_a_folder(tmp_path):
    with files.alone(tmp_path), pytest.raises(Timeout):
        files.alone(tmp_path / "." / "").acquire(timeout=0)
    assert not list(tmp_path.iterdir())
