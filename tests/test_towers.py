"""Where a model keeps its projection; text embeddings without the padding are those with it, in every text tower.

tests/test_architectures.py finds the projection of every image tower of open_clip.
"""

import json

import open_clip
import pytest
import torch
from open_clip.coca_model import CoCa

from clipnull.towers import encode_texts, ends_of, find_projection, find_text_projection, reads_at_end

SMALL = {"width": 32, "heads": 2, "layers": 2, "vocab_size": 100}
VISION = {"image_size": 32, "layers": 1, "width": 32, "head_width": 16, "patch_size": 32}
ENDS, EOS = [4, 7, 2, 9, 5], 99
CPU = torch.device("cpu")


def towers() -> list:
    """One text tower of open_clip's, small, for each way in which they differ but for their size."""
    kinds = {}
    for name in open_clip.list_models():
        config = open_clip.get_model_config(name)
        text = {k: v for k, v in config["text_cfg"].items() if not k.startswith(("hf_tokenizer", "tokenizer"))}
        kind = "CoCa" if "multimodal_cfg" in config else "CustomTextCLIP" if config.get("custom_text") else "CLIP"
        if "hf_model_name" not in text:
            text |= SMALL | ({"eos_id": EOS} if text.get("pool_type") == "eos" else {})
            kinds.setdefault((kind, json.dumps(text, sort_keys=True)), name)
    return [pytest.param(kind, json.loads(text), id=name) for (kind, text), name in kinds.items()]


def build(kind, text):
    torch.manual_seed(0)
    if kind == "CoCa":
        return CoCa(32, SMALL | {"context_length": 76}, text, VISION).eval()
    return getattr(open_clip, kind)(32, VISION, text).eval()


def tokens_of(length):
    tokens = torch.randint(1, 90, (len(ENDS), length), generator=torch.Generator().manual_seed(1))
    tokens[range(len(ENDS)), ENDS] = EOS
    return tokens


@pytest.mark.parametrize(("kind", "text"), towers())
@torch.inference_mode()
def test_what_a_tower_reads_does_not_depend_on_the_padding(kind, text):
    model, tokens = build(kind, text), tokens_of(text.get("context_length", 77) - (kind == "CoCa"))
    lengths = []
    tower = getattr(model, "text", model)
    tower.transformer.register_forward_hook(lambda module, inputs, _: lengths.append(inputs[0].shape[1]))
    short, expected = encode_texts(model, tokens, CPU), model.encode_text(tokens)
    torch.testing.assert_close(short, expected, atol=1e-5, rtol=0)
    causal = not text.get("no_causal_mask") and text.get("pool_type", "argmax") in ("argmax", "eos")
    assert reads_at_end(model) is (causal and kind != "CoCa")
    assert lengths[0] == (max(ENDS) + 1 if reads_at_end(model) else lengths[1]) and expected.std() > 0.1


def test_a_text_ends_at_its_largest_token_or_at_the_first_that_is_named():
    tokens = torch.tensor([[1, 9, 3, 9], [1, 3, 5, 3]])
    assert ends_of(tokens).tolist() == [1, 2] and ends_of(tokens, 3).tolist() == [2, 1]


def test_a_model_of_ones_own_is_asked_itself():
    class Own(open_clip.CLIP):
        def encode_text(self, text, normalize=False):
            return text[:, -1:].float()

    assert encode_texts(Own(32, VISION, SMALL).eval(), tokens_of(77), CPU).equal(tokens_of(77)[:, -1:].float())


def test_a_tower_without_a_linear_end_is_refused():
    for find in (find_projection, find_text_projection):
        with pytest.raises(ValueError, match=r"model: .*Conv2d"):
            find(torch.nn.Conv2d(3, 4, 1))
