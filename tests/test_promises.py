"""What .github/SECURITY.md promises: which tests hold it, and tests of what no other file does."""

import ast
import pickle
import re
import socket
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from conftest import ROOT
from helpers import VIT, plain
from safetensors.torch import save_file

import clipnull as cn
from clipnull.course import goldens, notebooks
from clipnull.files import write_text, written
from clipnull.prototypes import cell_prototypes

SECURITY = (ROOT / ".github" / "SECURITY.md").read_text(encoding="utf-8")
PROMISES = {
    "No file of data runs code": """
        test_sources::test_code_in_a_folder_never_runs
        test_sources::test_a_model_of_the_hub_with_code_is_refused_before_anything_else_is_downloaded
        test_sources::test_a_text_tower_of_the_hub_with_code_is_refused
        test_sources::test_a_checkpoint_that_is_garbage_is_named_and_runs_nothing
        test_sources::test_a_pickle_with_code_is_refused_whatever_open_clip_would_do
        test_promises::test_a_pickle_runs_nothing_whatever_reads_it
        test_stored::test_a_pickle_in_an_archive_is_never_run
    """,
    "What is damaged is refused": """
        test_patch::test_a_truncated_file_is_refused
        test_patch::test_a_damaged_or_foreign_file_is_refused
        test_sources::test_a_damaged_configuration_is_named
        test_sources::test_no_untrained_model_takes_the_place_of_missing_weights
        test_prototypes::test_a_damaged_file_is_named_and_made_again
        test_pictures::test_a_bomb_is_refused_by_its_header
        test_stored::test_an_unfit_file_is_refused_with_its_name_and_the_field
        test_fuzz_stored::test_nothing_but_value_errors_that_name_the_file
    """,
    "Nothing is written outside its target": """
        test_files::test_a_file_appears_whole
        test_files::test_a_file_stays_as_it_was_if_writing_fails
        test_files::test_a_full_disk_leaves_nothing_and_the_next_time_goes_well
        test_prototypes::test_a_full_disk_leaves_what_was_there_and_the_next_run_recovers
        test_prototypes::test_a_killed_run_leaves_a_whole_cache_or_none
        test_exporting::test_a_half_written_file_is_never_left
        test_run::test_a_source_is_never_replaced_by_its_result
        test_run::test_a_notebook_that_no_run_has_written_is_not_replaced
        test_promises::test_a_link_is_replaced_and_not_what_it_leads_to
        test_promises::test_only_the_target_changes
    """,
    "No path is followed out of a folder": """
        test_sources::test_no_path_leads_out_of_a_folder
        test_data::test_no_link_is_followed_out_of_the_folder
        test_data::test_loops_of_links_end
        test_pictures::test_what_is_no_regular_file_is_never_opened
    """,
    "Names and parameters are text": """
        test_run::test_parameters_with_quotes_and_braces_are_values_and_no_code
        test_cards::test_a_name_is_shown_as_it_is_and_is_no_markup
        test_cards::test_a_card_of_odd_names_holds_no_markup_of_theirs
        test_cards::test_no_path_of_the_machine_is_told
    """,
    "Nothing is left running": """
        test_run::test_a_run_that_is_ended_leaves_no_result_and_no_process
        test_run::test_a_notebook_that_is_ended_leaves_no_kernel
        test_run::test_a_notebook_over_its_limit_is_stopped_with_its_kernel
    """,
    "Nothing is sent anywhere": """
        test_promises::test_no_socket_is_opened
    """,
}


@pytest.mark.parametrize("promise", PROMISES)
def test_every_promise_has_its_tests(promise):
    assert f"**{promise}.**" in SECURITY
    for name in PROMISES[promise].split():
        file, _, test = name.partition("::")
        tree = ast.parse((ROOT / "tests" / f"{file}.py").read_text(encoding="utf-8"))
        found = {node.name: node for node in tree.body if isinstance(node, ast.FunctionDef)}
        assert test in found, f"{name} is not there: what holds the promise {promise!r}?"
        marks = [ast.unparse(mark) for mark in found[test].decorator_list]
        assert not [mark for mark in marks if "nightly" in mark], f"{name}: not in `make test`"


def test_every_promise_that_is_made_is_here():
    made = SECURITY.partition("## What is promised")[2].partition("\n## ")[0]
    assert re.findall(r"(?m)^\d\. \*\*(.*?)\.\*\*", made) == list(PROMISES)


# --- promises that no other file tests


class Code:
    """A pickle of it makes the file `marker` when it is read."""

    def __init__(self, marker: Path):
        self.marker = marker

    def __reduce__(self):
        return Path.touch, (self.marker,)


def cached(path, clip):
    """Have the prototypes of `clip` read from `path`."""
    names = cn.Vocabulary(["cat", "dog"], ["photo"])
    cell_prototypes(clip, names, steps=1, progress=False)
    (file,) = path.parent.glob("prototypes-*.safetensors")
    file.write_bytes(path.read_bytes())
    with pytest.warns(UserWarning, match="is damaged"):
        cell_prototypes(clip, names, steps=1, progress=False)


def pictures(path, clip):
    for k in range(2):
        for c in range(2):
            folder = path.parent / "pictures" / f"d{k}" / f"c{c}"
            folder.mkdir(parents=True)
            (folder / "a.png").write_bytes(path.read_bytes())
    with pytest.raises(ValueError, match="left out: 'd0/c0/a.png"):
        cn.load_images(path.parent / "pictures")


def fails(read):
    def check(path, _):
        with pytest.raises(ValueError):
            read(path)

    return check


READERS = {
    "patch": fails(cn.Edit.load),
    "pictures": pictures,
    "prototypes": cached,
    "model": fails(lambda path: cn.load("RN50", str(path), device="cpu")),
    "notebook": fails(notebooks.read),
    "goldens": fails(lambda path: goldens.read(path, "mini")),
    "metrics": fails(goldens.stored),
}


@pytest.mark.parametrize("reader", READERS)
@pytest.mark.parametrize("kind", ["plain", "of torch"])
def test_a_pickle_runs_nothing_whatever_reads_it(small, tmp_path, monkeypatch, reader, kind):
    monkeypatch.setenv("CLIPNULL_CACHE", str(tmp_path))
    clip, marker, path = small(VIT), tmp_path / "ran", tmp_path / "file"
    content = {"a": Code(marker)}
    torch.save(content, path) if kind == "of torch" else path.write_bytes(pickle.dumps(content))
    READERS[reader](path, clip)
    assert not marker.exists()
    torch.load(path, weights_only=False) if kind == "of torch" else pickle.loads(path.read_bytes())
    assert marker.exists()  # it would have run


def text(path, _):
    write_text(path, "new")


def tensors(path, _):
    with written(path) as temporary:
        save_file({"a": torch.zeros(1)}, temporary)


def fused(path, clip):
    (path.parent / "open_clip_config.json").symlink_to(path.resolve())
    (path.parent / "open_clip_model.safetensors").symlink_to(path.resolve())
    cn.fuse(plain(clip.width).apply(clip), path.parent)


WRITERS = {
    "text": text,
    "tensors": tensors,
    "patch": lambda path, clip: plain(clip.width).save(path),
    "fused": fused,
}


@pytest.mark.parametrize("writer", WRITERS)
def test_a_link_is_replaced_and_not_what_it_leads_to(small, tmp_path, writer):
    outside, inside = tmp_path / "outside", tmp_path / "inside"
    outside.write_text("of somebody else")
    inside.mkdir()
    (inside / "link").symlink_to(outside)
    WRITERS[writer](inside / "link", small(VIT))
    assert outside.read_text() == "of somebody else"
    assert writer == "fused" or not (inside / "link").is_symlink()
    assert not [file for file in inside.iterdir() if file.is_symlink() and file.name != "link"]


class Tokenizer:
    """Writes as those of transformers do: into what a link leads to."""

    def save_pretrained(self, folder):
        Path(folder, "tokenizer.json").write_text("{}")


def test_a_tokenizer_is_written_into_its_folder(small, tmp_path):
    outside, folder = tmp_path / "outside", tmp_path / "fused"
    outside.write_text("of somebody else")
    folder.mkdir()
    (folder / "tokenizer.json").symlink_to(outside)
    cn.fuse(replace(small(VIT), tokenizer=Tokenizer()), folder)
    assert outside.read_text() == "of somebody else" and (folder / "tokenizer.json").read_text() == "{}"


def test_only_the_target_changes(small, tmp_path, monkeypatch):
    """Not the folder in which one works, not the home, and no temporary file stays."""
    here, home, temporary = (tmp_path / name for name in ("here", "home", "temporary"))
    for folder in (here, home, temporary):
        folder.mkdir()
    monkeypatch.chdir(here)
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.setattr("tempfile.tempdir", str(temporary))
    clip, target = small(VIT), tmp_path / "target"
    edited = plain(clip.width).apply(clip)
    target.mkdir()
    edited.edits[0].save(target / "edit.safetensors")
    cn.fuse(edited, target / "fused")
    cn.load(f"local-dir:{target / 'fused'}", device="cpu")
    cn.Edit.load(target / "edit.safetensors")
    assert sorted(str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*")) == sorted(
        ["here", "home", "temporary", "target", "target/edit.safetensors", "target/fused"]
        + [f"target/fused/{name}" for name in ("open_clip_config.json", "open_clip_model.safetensors")]
    )


def test_no_socket_is_opened(small, monkeypatch, tmp_path):
    def refuse(*_, **__):
        pytest.fail("something is sent or asked for")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    monkeypatch.delenv("HF_HUB_OFFLINE")
    clip = cn.load(device="cpu")
    images = cn.load_images()
    edit = cn.unlearn(clip, cn.Forget(["dog"]), images.vocabulary, "oblique", prototypes=False)
    edit.save(tmp_path / "edit.safetensors")
    after = cn.Edit.load(tmp_path / "edit.safetensors", clip).apply(clip)
    assert after.embed_texts(["a dog"]).shape == (1, 256)
    assert len(images)
