"""Write trained weights as a model folder that stock open_clip loads: python export.py CKPT OUT [--image-size 112].

The folder has the hub's layout: open_clip_config.json and open_clip_model.safetensors (float16).
"""

import argparse
import json
import os
from pathlib import Path

import torch
from safetensors.torch import save_file
from train import CONFIG


def export(checkpoint: Path, out: Path, image_size: int) -> None:
    weights = torch.load(checkpoint, map_location="cpu", weights_only=True)
    halves = {
        k: (v.half() if v.is_floating_point() else v).contiguous()
        for k, v in weights.items()
        if not k.endswith("attn_mask")
    }
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
    out.mkdir(parents=True, exist_ok=True)
    save_file(halves, out / "weights.tmp", metadata={"format": "pt"})
    (out / "weights.tmp").chmod(0o644)
    os.replace(out / "weights.tmp", out / "open_clip_model.safetensors")
    (out / "open_clip_config.json").write_text(json.dumps(config, indent=2) + "\n")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--image-size", type=int, default=112, help="of the pictures it will take [112]")
    args = parser.parse_args()
    export(args.checkpoint, args.out, args.image_size)
