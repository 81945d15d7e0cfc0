import pytest
import torch

import clipnull as cn
from clipnull.prompts import (
    PROMPTS,
    TEMPLATES,
    embed_cells,
    embed_classes,
    embed_domains,
    format_prompt,
    text_classifiers,
)

VOCABULARY = cn.Vocabulary(["cat", "hot_dog", "elephant"], ["photo", "line"])


def test_prompt_sets_that_evaluate_never_build_edits():
    assert list(TEMPLATES) == ["build", "free", "domain"] and sorted(PROMPTS) == sorted(TEMPLATES)
    built = set(TEMPLATES["build"])
    assert not built & set(TEMPLATES["free"]) and not built & set(TEMPLATES["domain"])
    assert all("{d}" not in t for t in TEMPLATES["free"])
    assert all("{d}" in t for t in (*TEMPLATES["build"], *TEMPLATES["domain"]))


@pytest.mark.parametrize(
    ("template", "class_name", "domain", "prompt"),
    [
        ("a {d} of {a}", "elephant", "art_painting", "a painting of an elephant"),
        ("a {d} of {a}", "hot_dog", "infograph", "an infographic of a hot dog"),
        ("a {d} showing {a}", "owl", "oil_painting", "an oil painting showing an owl"),
        ("the {n}, alone", "hot_dog", "", "the hot dog, alone"),
    ],
)
def test_prompts_are_english(template, class_name, domain, prompt):
    assert format_prompt(template, class_name, domain) == prompt


def test_a_cell_is_the_normalised_mean_of_its_prompts(clip):
    texts = embed_cells(clip, VOCABULARY)
    assert texts.shape == (3, 2, clip.width)
    torch.testing.assert_close(texts.norm(dim=2), torch.ones(3, 2))
    said = clip.embed_texts([format_prompt(t, "hot_dog", "line") for t in TEMPLATES["build"]])
    torch.testing.assert_close(texts[1, 1], said.mean(0) / said.mean(0).norm(), atol=1e-6, rtol=0)


def test_a_prompt_set_gives_each_domain_a_text_classifier(clip):
    free = text_classifiers(clip, VOCABULARY)
    assert free.shape == (2, 3, clip.width) and torch.equal(free[0], free[1])
    assert torch.equal(free[0], embed_classes(clip, VOCABULARY.classes))
    for prompts in ("domain", "build"):
        classifiers = text_classifiers(clip, VOCABULARY, prompts)
        assert torch.equal(classifiers, embed_cells(clip, VOCABULARY, prompts).transpose(0, 1))
        assert not torch.equal(classifiers[0], classifiers[1])


def test_domains_are_told_apart_by_their_names_alone(clip):
    domains = embed_domains(clip, VOCABULARY.domains)
    torch.testing.assert_close(domains.norm(dim=1), torch.ones(2))
    assert (embed_cells(clip, VOCABULARY, "domain") @ domains.T).mean(0).argmax(1).tolist() == [0, 1]


def test_prompt_sets_are_validated(clip):
    with pytest.raises(ValueError, match="prompts: 'held-out' is not known; expected one of 'free', 'domain', 'build'"):
        text_classifiers(clip, VOCABULARY, "held-out")
    with pytest.raises(ValueError, match="prompts: 'free' is not known; expected one of 'build', 'domain'"):
        embed_cells(clip, VOCABULARY, "free")


@pytest.mark.parametrize(
    ("classes", "domains", "message"),
    [
        (("dog",), ("photo",), "classes: only 'dog' given; expected at least two to choose between"),
        (("dog", "dog"), ("photo",), "classes: 'dog' given twice"),
        (("dog", "cat"), (), "domains: the list is empty"),
        (("dog", "cat"), "photo", "domains: 'photo' is not a list of names"),
        (("dog", 3), ("photo",), "classes: 3 is no name; expected text"),
        (("dog", ""), ("photo",), "classes: '' is blank"),
        (("dog", "cat"), (" ",), "domains: ' ' is blank"),
        (("alarm clock", "alarm_clock"), ("photo",), "classes: 'alarm clock' and 'alarm_clock' become the same words"),
        (("Dog", "dog"), ("photo",), "classes: 'Dog' and 'dog' become the same words; expected each class once"),
        (("a  b", "c", " a b"), ("photo",), "classes: 'a  b' and ' a b' become the same words"),
        (("a\nb", "a b"), ("photo",), "become the same words"),
        (("caf\u00e9", "cafe\u0301"), ("photo",), "become the same words"),  # composed or not
        (("dog", "cat"), ("photo", "real"), "domains: 'photo' and 'real' become the same words; expected each domain"),
        (("dog", "cat"), ("Clipart", "clipart"), "domains: 'Clipart' and 'clipart' become the same words"),
        (("dog", "cat"), ("photo\x00", "line"), "domains: 'photo.x00' holds characters that are none to read"),
    ],
)
def test_bad_vocabularies_are_refused(classes, domains, message):
    with pytest.raises(ValueError, match=message):
        cn.Vocabulary(classes, domains)


@pytest.mark.parametrize("name", ["two\nlines", "🐶", "x" * 250, "a{b}c", "{a}", "%s", 'q"uote'])
def test_odd_names_are_embedded(clip, name):
    texts = embed_cells(clip, cn.Vocabulary([name, "cat"], ["photo", name]))
    assert torch.isfinite(texts).all() and texts.shape == (2, 2, clip.width)


@pytest.mark.parametrize(
    "domains",
    [
        ["art_painting", "cartoon", "photo", "sketch"],
        ["Art", "Clipart", "Product", "Real World"],
        ["clipart", "infograph", "painting", "quickdraw", "real", "sketch"],
        ["cartoon", "flat", "line", "photo", "shaded", "silhouette", "3d", "pixel"],
    ],
    ids=["PACS", "Office-Home", "DomainNet", "miniworld"],
)
def test_domains_of_known_data_sets_are_of_different_words(domains):
    assert cn.Vocabulary(["cat", "dog"], domains).domains == tuple(domains)
