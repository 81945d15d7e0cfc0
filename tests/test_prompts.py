"""Names become text embeddings."""

import warnings
from functools import partial

import pytest
import torch
import torch.nn.functional as F

import clipnull as cn
from clipnull.prompts import common_words, embed_cells, embed_classes, embed_domains, kept_names, near, text_classifiers
from clipnull.vocabulary import TEMPLATES, format_prompt

VOCABULARY = cn.Vocabulary(["cat", "hot_dog", "elephant"], ["photo", "line"])
NAMES = cn.Vocabulary(["cat", "dog", "fish"], ["photo", "line"])


def test_a_cell_is_the_normalised_mean_of_its_prompts(clip):
    texts = embed_cells(clip, VOCABULARY)
    assert texts.shape == (3, 2, clip.width)
    torch.testing.assert_close(texts.norm(dim=2), torch.ones(3, 2))
    prompts = clip.embed_texts([format_prompt(t, "hot_dog", "line") for t in TEMPLATES["build"]])
    torch.testing.assert_close(texts[1, 1], F.normalize(prompts.mean(0), dim=0), atol=1e-6, rtol=0)


def test_a_prompt_set_gives_each_domain_a_text_classifier(clip):
    free = text_classifiers(clip, VOCABULARY)
    assert free.shape == (2, 3, clip.width) and torch.equal(free[0], free[1])
    assert torch.equal(free[0], embed_classes(clip, VOCABULARY.classes))
    for prompts in ("domain", "build"):
        classifiers = text_classifiers(clip, VOCABULARY, prompts)
        assert torch.equal(classifiers, embed_cells(clip, VOCABULARY, prompts).transpose(0, 1))
        assert not torch.equal(classifiers[0], classifiers[1])


def test_names_alone_separate_domains(clip):
    domains = embed_domains(clip, VOCABULARY.domains)
    assert (embed_cells(clip, VOCABULARY, "domain") @ domains.T).mean(0).argmax(1).tolist() == [0, 1]
    with pytest.raises(ValueError, match="prompts: 'held-out'"):
        text_classifiers(clip, VOCABULARY, "held-out")


# --- common words, near words, classes of several names


def test_common_words_are_kept_unless_they_are_near(clip):
    names = cn.Vocabulary(("dog", "kettle", "trombone"), ("photo", "line"))
    candidates, words = kept_names(clip), common_words(clip, names)
    texts = clip.embed_texts([format_prompt("{a}", name) for name in candidates])
    classes = embed_cells(clip, names).mean(1)
    assert 200 < len(candidates) <= 260 and 100 < len(words) < len(candidates)
    near = [name for name, text in zip(candidates, texts, strict=True) if not (words == text).all(1).any()]
    assert any("terrier" in name or "hound" in name or "dog" in name for name in near), near
    centred = F.normalize(words - texts.mean(0), dim=-1) @ F.normalize(classes - classes.mean(0), dim=-1).T
    assert centred.max() < 0.5


def test_each_forgotten_class_has_its_near_words(clip):
    words = near(clip, cn.Forget(["dog"]) | cn.Forget(["cat"], ["line"]), NAMES, ["puppy", "kettle", "kitten"])
    assert list(words) == ["cat", "dog"]
    assert dict(words["dog"])["puppy"] > dict(words["dog"])["kettle"]
    cosines = [cosine for _, cosine in words["cat"]]
    assert cosines == sorted(cosines, reverse=True) and -1 <= cosines[-1] <= cosines[0] <= 1
    assert "dog" in dict(words["cat"]) and "cat" not in dict(words["cat"])
    with pytest.raises(ValueError, match="most: 0"):
        near(clip, cn.Forget(["dog"]), NAMES, most=0)


LONG = "a very long name of a thing that has no end " * 8


@pytest.mark.parametrize(("name", "twin"), [("lion's tail", "lion\u2019s tail"), (LONG + "one", LONG)])
def test_two_names_of_one_text_are_named_wherever_names_meet(clip, name, twin):
    names = cn.Vocabulary([name, "boat", twin], ["photo", "line"])
    unlearn = partial(cn.unlearn, prototypes=False, method="nullspace")
    for use in (unlearn, partial(near, candidates=["kettle", "church", "pear"])):
        with pytest.warns(UserWarning, match="classes: the text tower barely distinguishes .* \\(0 % of the"):
            use(clip, cn.Forget([name]), names)
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # both go, or neither
        unlearn(clip, cn.Forget([name, twin]), names)


def test_a_class_of_several_names_is_the_mean_of_them(clip):
    named = cn.Vocabulary({"cat": ["cat"], "dog": ["dog", "puppy", "hound"], "fish": ["fish"]}, NAMES.domains)
    assert named.classes == NAMES.classes and named.names[1] == ("dog", "puppy", "hound")
    texts, plain = embed_cells(clip, named), embed_cells(clip, NAMES)
    torch.testing.assert_close(texts[[0, 2]], plain[[0, 2]])
    alone = embed_cells(clip, cn.Vocabulary(named.names[1], NAMES.domains)).sum(0)
    torch.testing.assert_close(texts[1], F.normalize(alone, dim=-1), atol=1e-3, rtol=0)
    edit = cn.unlearn(clip, cn.Forget(["dog"]), named, "gated", prototypes=False)
    for name in named.names[1]:  # each of the names goes down
        forgotten, kept = embed_classes(clip, [name, "cat"])
        before, after = ((z @ (forgotten - kept)) for z in (texts[1], edit.images(texts[1])))
        assert (after < before - 0.1).all(), name
    assert embed_classes(clip, named.names).shape == (3, clip.width)
