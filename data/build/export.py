"""Write trained weights as a model folder that stock open_clip loads: python export.py CKPT OUT [--image-size 112].

The folder has the hub's layout: open_clip_config.json and open_clip_model.safetensors (float16). With --base FOLDER,
OUT is one file, the difference to the model in FOLDER (see `difference`). With --stage, CKPT is the checkpoint of a
stage, and OUT one file of its weights, for train.py --common.
"""

import argparse
import json
import os
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from train import CONFIG

WEIGHTS, TABLE = "open_clip_model.safetensors", "token_embedding.weight"
ROUNDING = 2.0**-9
"""Weights come in float16, of 11 bits: two that differ by no more than this share went through other roundings."""


def difference(base: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """What of the weights `other` differs from `base`, for `clipnull.models.restore`; rows of tokens by > ROUNDING.

    Raises ValueError if the two differ in names or shapes.
    """
    shapes = [{key: tuple(value.shape) for key, value in weights.items()} for weights in (base, other)]
    if shapes[0] != shapes[1]:
        key = min(key for key in {*shapes[0], *shapes[1]} if shapes[0].get(key) != shapes[1].get(key))
        raise ValueError(f"other: {key} is {shapes[1].get(key)}; expected {shapes[0].get(key)}, as in base")
    changed = {key: value for key, value in other.items() if key != TABLE and not torch.equal(value, base[key])}
    mine, theirs = base[TABLE].float(), other[TABLE].float()
    rows = ((theirs - mine).abs() > ROUNDING * mine.abs()).any(1).nonzero()[:, 0]
    return changed | {"rows": rows.to(torch.int32), TABLE: other[TABLE][rows]}


def halves_of(checkpoint: Path) -> dict[str, torch.Tensor]:
    weights = torch.load(checkpoint, map_location="cpu", weights_only=True)
    weights = weights.get("ema", weights)  # of a stage, the moving average is what the next one starts from
    return {
        k: (v.half() if v.is_floating_point() else v).contiguous()
        for k, v in weights.items()
        if not k.endswith("attn_mask")
    }


def write(weights: dict[str, torch.Tensor], path: Path, **metadata: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(".tmp")
    save_file(weights, partial, metadata={"format": "pt", **metadata})
    partial.chmod(0o644)
    os.replace(partial, path)


def export(checkpoint: Path, out: Path, image_size: int) -> None:
    model = {**CONFIG, "vision_cfg": {**CONFIG["vision_cfg"], "image_size": image_size}}
    config = {
        "model_cfg": model,
        "preprocess_cfg": {
            "mean": [0.5] * 3,
            "std": [0.5] * 3,
            "size": image_size,
            "interpolation": "bicubic",
            "resize_mode": "squash",
        },
    }
    write(halves_of(checkpoint), out / WEIGHTS)
    (out / "open_clip_config.json").write_text(json.dumps(config, indent=2) + "\n")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--image-size", type=int, default=112, help="of the pictures it will take [112]")
    parser.add_argument(
        "--base", type=Path, help="write only the difference to the model in this folder, to the file OUT"
    )
    parser.add_argument(
        "--stage", action="store_true", help="write only the weights of a finished stage, to the file OUT"
    )
    args = parser.parse_args()
    if args.stage:
        recipe = torch.load(args.checkpoint, map_location="cpu", weights_only=True)["recipe"]
        write(halves_of(args.checkpoint), args.out, recipe=recipe)
    elif args.base:
        write(difference(load_file(args.base / WEIGHTS), halves_of(args.checkpoint)), args.out)
    else:
        export(args.checkpoint, args.out, args.image_size)
