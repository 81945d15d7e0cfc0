"""Bases of subspaces and the angles between them, in float64."""

import torch
from torch import Tensor

from .errors import within


def basis(rows: Tensor, energy: float = 1.0) -> Tensor:
    """Return an orthonormal basis U of the span of `rows`: (n, d) -> (d, r) float64, leading directions first.

    energy: the share of the sum of squares to keep. Singular values below 1e-6 of the largest are float32 rounding and
    always dropped. U holds eigenvectors of X^T X, computed from X X^T if that is smaller, in half the time of an SVD.
    """
    within("energy", energy, 0.0, 1.0)
    if rows.ndim != 2 or not len(rows):
        raise ValueError(f"rows: shape {tuple(rows.shape)} is not valid; expected (n, d) with n of at least 1")
    x = rows.double()
    if not x.sum().isfinite():
        raise ValueError("rows: some values are NaN or infinite; expected finite embeddings")
    if len(x) > x.shape[1]:
        return leading(gram(x), energy)[1]
    values, vectors = leading(gram(x.T), energy)
    u = ((vectors / values.sqrt()).T @ x).T
    if len(values) and values[-1] < 1e-6 * values[0]:  # otherwise u is already orthonormal to 1e-10
        u = torch.linalg.qr(u)[0]
    return u


def leading(a: Tensor, energy: float = 1.0) -> tuple[Tensor, Tensor]:
    """Return the eigenvalues (r,) and eigenvectors (d, r) of a = X^T X that `basis` keeps, largest first."""
    values, vectors = torch.linalg.eigh(a)
    values, vectors = values.flip(0).clamp(min=0), vectors.flip(1)
    share = values.cumsum(0) / values.sum().clamp(min=1e-300)
    rank = min(int((share < energy - 1e-12).sum()) + 1, int((values > 1e-12 * values[0]).sum()))
    return values[:rank], vectors[:, :rank]


def gram(x: Tensor) -> Tensor:
    """Return X^T X for rows (n, d): (d, d)."""
    return x.T @ x


def ridged_factor(a: Tensor, ridge: float) -> Tensor:
    """Return L with L L^T = a + ridge I, for `torch.cholesky_solve`."""
    return torch.linalg.cholesky(a + ridge * torch.eye(len(a), dtype=a.dtype, device=a.device))


def principal_angles(a: Tensor, b: Tensor) -> Tensor:
    """Compute the principal angles between the row spans of `a` (n, d) and `b` (m, d), in radians, smallest first.

    Their min(r_a, r_b) cosines are the singular values of U_a^T U_b. Angles under 45 degrees come from sines, as the
    cosine is flat there (Bjorck and Golub 1973, "Numerical methods for computing angles between linear subspaces").
    """
    if a.ndim != 2 or b.ndim != 2 or a.shape[1] != b.shape[1]:
        raise ValueError(f"a, b: shapes {tuple(a.shape)} and {tuple(b.shape)}; expected (n, d) and (m, d)")
    u, v = basis(a), basis(b)
    if u.shape[1] < v.shape[1]:
        u, v = v, u
    cosines = torch.linalg.svdvals(u.T @ v).clamp(max=1.0)  # descending
    sines = torch.linalg.svdvals(v - u @ (u.T @ v)).flip(0).clamp(max=1.0)  # ascending: the same order of angles
    return torch.where(cosines > 0.5**0.5, torch.asin(sines), torch.acos(cosines))


def captured_energy(rows: Tensor, u: Tensor) -> Tensor:
    """Return |x U|^2 / |x|^2 for each row x: (n, d) -> (n,). u: an orthonormal basis (d, r)."""
    rows = rows.double()
    return (rows @ u).square().sum(1) / rows.square().sum(1)
