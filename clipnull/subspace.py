"""Subspaces of the joint space: bases and principal angles, in float64."""

import numpy as np
import scipy.linalg
import torch
from torch import Tensor

from .errors import within

SYRK = scipy.linalg.get_blas_funcs("syrk", dtype="float64")
TRIDIAGONAL, ROTATED = scipy.linalg.get_lapack_funcs(("sytrd", "ormqr"), dtype="float64")


def basis(rows: Tensor, energy: float = 1.0) -> Tensor:
    """An orthonormal basis U of the span of `rows`: (n, d) -> (d, r) float64, leading singular directions first.

    The leading directions that hold the share `energy` of the rows' sum of squares are kept; directions at rounding
    level (below 1e-6 of the largest singular value: embeddings come in float32) never are. They are the eigenvectors
    of X^T X, found through X X^T where that is smaller, at half the time of a singular value decomposition.
    """
    within("energy", energy, 0.0, 1.0)
    if rows.ndim != 2 or not len(rows):
        raise ValueError(f"rows: shape {tuple(rows.shape)} is not valid; expected (n, d) with n of at least 1")
    x = rows.double()
    if not x.sum().isfinite():
        raise ValueError("rows: NaN or infinite values; expected finite embeddings")
    if len(x) > x.shape[1]:
        return leading(gram(x), energy)[1]
    values, vectors = leading(gram(x.T), energy)
    u = ((vectors / values.sqrt()).T @ x).T
    if len(values) and values[-1] < 1e-6 * values[0]:  # else orthonormal to 1e-10 as it is
        u = torch.linalg.qr(u)[0]
    return u


def leading(a: Tensor, energy: float = 1.0) -> tuple[Tensor, Tensor]:
    """The leading eigenvalues (r,) of a = X^T X, (d, d) float64, and eigenvectors (d, r), as `basis` chooses them.

    As LAPACK's `syevd` does: a = Q T Q^T with T tridiagonal, whose eigenvectors Q rotates back. That is half of the
    work, and here only those chosen are rotated. `a` is overwritten.
    """
    n = len(a)
    packed, middle, beside, tau, _ = TRIDIAGONAL(a.cpu().numpy().T, lower=1, lwork=64 * n, overwrite_a=1)
    values, vectors = map(np.asarray, scipy.linalg.eigh_tridiagonal(middle, beside, check_finite=False))
    values = values[::-1].clip(0)  # descending
    share = values.cumsum() / max(values.sum(), 1e-300)
    rank = min(int((share < energy - 1e-12).sum()) + 1, int((values > 1e-12 * values[0]).sum()))
    chosen = np.array(vectors[:, ::-1][:, :rank], order="F")
    if rank and n > 1:
        chosen[1:] = ROTATED("L", "N", packed[1:, :-1], tau, chosen[1:], lwork=64 * n)[0]
    return torch.from_numpy(values[:rank].copy()).to(a.device), torch.from_numpy(chosen).to(a.device)


def gram(x: Tensor) -> Tensor:
    """X^T X of rows (n, d) float64: (d, d). It is symmetric: of many rows only one half is computed."""
    n, d = x.shape
    if 4 * n < d:
        return x.T @ x
    flat = x.T if x.is_contiguous() else x  # column by column, as Fortran has it
    half = torch.from_numpy(SYRK(1.0, flat.cpu().numpy(), trans=flat is x)).T  # the rest is zero
    whole = half + half.T
    whole.diagonal().div_(2)
    return whole.to(x.device)


def ridged_factor(a: Tensor, ridge: float) -> Tensor:
    """L with L L^T = a + ridge I, for `torch.cholesky_solve`. `a` (d, d) is overwritten."""
    a.diagonal().add_(ridge)
    return torch.linalg.cholesky(a)


def principal_angles(a: Tensor, b: Tensor) -> Tensor:
    """The principal angles between the row spans of `a` (n, d) and `b` (m, d): radians, ascending, (min(r_a, r_b),).

    cos of the angles are the singular values of U_a^T U_b; angles under 45 degrees are computed from the sines, as
    the cosine is flat there (Bjorck and Golub 1973, "Numerical methods for computing angles between linear subspaces").
    """
    if a.ndim != 2 or b.ndim != 2 or a.shape[1] != b.shape[1]:
        raise ValueError(f"a, b: shapes {tuple(a.shape)} and {tuple(b.shape)}; expected (n, d) and (m, d)")
    u, v = basis(a), basis(b)
    if u.shape[1] < v.shape[1]:
        u, v = v, u
    cosines = torch.linalg.svdvals(u.T @ v).clamp(max=1.0)  # descending
    sines = torch.linalg.svdvals(v - u @ (u.T @ v)).flip(0).clamp(max=1.0)  # ascending: same order of angles
    return torch.where(cosines > 0.5**0.5, torch.asin(sines), torch.acos(cosines))


def captured_energy(rows: Tensor, u: Tensor) -> Tensor:
    """The share of the squared length of each row that lies in the span of the orthonormal basis `u` (d, r).

    |x U|^2 / |x|^2: (n, d) -> (n,), from 0 to 1.
    """
    rows = rows.double()
    return (rows @ u).square().sum(1) / rows.square().sum(1)
