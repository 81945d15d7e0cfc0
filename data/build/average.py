"""Average the weights of two checkpoints of one lineage: python average.py A.pt B.pt OUT.pt."""

import sys

import torch

if __name__ == "__main__":
    a, b = (torch.load(path, map_location="cpu", weights_only=True) for path in sys.argv[1:3])
    torch.save({k: ((a[k].float() + b[k].float()) / 2).to(a[k].dtype) for k in a}, sys.argv[3])
