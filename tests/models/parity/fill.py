"""Deterministic weights and inputs for the parity kit. Needs numpy and torch only.

    layout = load_layout("layouts/generator_256.json")
    state  = fill(layout, seed=1)          # dict[str, torch.Tensor], official key names
    images = make_images(seed=11, n=2, size=256)
    inputs = {k: make_input(r) for k, r in case["inputs"].items()}

Every random number is drawn from numpy's PCG64, seeded with the pair
(seed, crc32(name)); the arithmetic is done in float64 and rounded to float32 once.
"""

import json
import zlib

import numpy as np
import torch

_BLOCK = 1 << 22


def _generator(seed, name):
    return np.random.Generator(np.random.PCG64([int(seed), zlib.crc32(name.encode("utf-8"))]))


def normal(seed, name, shape, mean=0.0, std=1.0, absolute=False):
    """float32 tensor: mean + std * N(0, 1), drawn in C order from the stream (seed, name)."""
    rng = _generator(seed, name)
    total = int(np.prod(shape, dtype=np.int64))
    out = np.empty(total, dtype=np.float32)
    for lo in range(0, total, _BLOCK):  # in blocks only to bound memory; the stream is the same
        hi = min(lo + _BLOCK, total)
        x = mean + std * rng.standard_normal(hi - lo)
        out[lo:hi] = np.abs(x) if absolute else x
    return torch.from_numpy(out).reshape(tuple(shape))


def load_layout(path):
    with open(path) as f:
        return json.load(f)


def fill(layout, seed):
    """Give every key of a layout its tensor. Aliased keys share one tensor, as in the checkpoint."""
    tensors = layout["tensors"]
    out = {}
    for key, r in tensors.items():
        if "alias_of" in r:
            out[key] = None
        elif "values" in r:
            out[key] = torch.tensor(r["values"], dtype=getattr(torch, r["dtype"])).reshape(tuple(r["shape"]))
        else:
            out[key] = normal(seed, key, r["shape"], r["mean"], r["std"], r.get("abs", False))
    for key, r in tensors.items():
        if "alias_of" in r:
            out[key] = out[r["alias_of"]]
    return out


def _smooth_upsample(grid, height, width):
    """Interpolate (..., g, g) to (..., height, width) with raised-cosine weights."""

    def matrix(size, g):
        pos = (np.arange(size) + 0.5) / size * (g - 1)
        lo = np.minimum(np.floor(pos).astype(int), g - 2)
        t = 0.5 - 0.5 * np.cos(np.pi * (pos - lo))
        m = np.zeros((size, g))
        m[np.arange(size), lo] = 1.0 - t
        m[np.arange(size), lo + 1] = t
        return m

    g = grid.shape[-1]
    return matrix(height, g) @ grid @ matrix(width, g).T


def make_images(seed, n, size):
    """n RGB pictures, float32 in [-1, 1], shape (n, 3, H, W); size is H=W or (H, W)."""
    height, width = (size, size) if np.isscalar(size) else (int(size[0]), int(size[1]))
    total = 0.0
    for g, amplitude in ((4, 0.8), (9, 0.4), (24, 0.2), (56, 0.1)):
        grid = _generator(seed, f"images/{g}").standard_normal((n, 3, g, g))
        total = total + amplitude * _smooth_upsample(grid, height, width)
    fine = _generator(seed, "images/fine").standard_normal((n, 3, height, width))
    return torch.from_numpy(np.tanh(total + 0.05 * fine).astype(np.float32))


def make_input(recipe):
    """Build one input from its recipe in cases.json."""
    if recipe is None:
        return None
    kind = recipe["kind"]
    if kind == "normal":
        return normal(
            recipe["seed"], recipe["name"], recipe["shape"], recipe.get("mean", 0.0), recipe.get("std", 1.0), recipe.get("absolute", False)
        )
    if kind == "images":
        return make_images(recipe["seed"], recipe["n"], recipe["size"])
    if kind == "values":
        return torch.tensor(recipe["values"], dtype=torch.float32).reshape(tuple(recipe["shape"]))
    if kind == "list":
        return [make_input(r) for r in recipe["items"]]
    raise ValueError(kind)


def take(tensor, grid):
    """Sub-sample a tensor the way the golden files were: grid is None or [start, step] per dimension."""
    if grid is None:
        return tensor
    return tensor[tuple(slice(a, None, s) for a, s in grid)]


def errors(a, b):
    """(‖a−b‖/‖b‖, max|a−b|/max|b|) in float64; a is yours, b is the golden value."""
    a = torch.as_tensor(a).double()
    b = torch.as_tensor(b).double()
    if tuple(a.shape) != tuple(b.shape):
        raise ValueError(f"shape {tuple(a.shape)} != {tuple(b.shape)}")
    d = a - b
    return (float(d.norm() / b.norm().clamp_min(1e-30)), float(d.abs().max() / b.abs().max().clamp_min(1e-30)))
