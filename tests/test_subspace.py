"""Bases, angles and shares of energy, against scipy and by hand."""

import numpy as np
import pytest
import scipy.linalg
import torch
from helpers import examples, random
from hypothesis import given
from hypothesis import strategies as st

from clipnull.subspace import basis, captured_energy, principal_angles


@examples(30)
@given(st.integers(0, 10**6), st.integers(1, 6), st.integers(1, 6), st.integers(8, 40))
def test_principal_angles_agree_with_scipy(seed, n, m, d):
    a, b = random(n, d, seed=seed), random(m, d, seed=seed + 1)
    expected = np.sort(scipy.linalg.subspace_angles(a.double().T.numpy(), b.double().T.numpy()))
    np.testing.assert_allclose(principal_angles(a, b).numpy(), expected, atol=1e-7)


@examples(30)
@given(st.integers(0, 10**6), st.integers(1, 6), st.integers(1, 6))
def test_captured_energy_is_the_squared_length_of_the_projection(seed, n, m):
    x, u = random(n, 16, seed=seed).double(), basis(random(m, 16, seed=seed + 1))
    share = captured_energy(x, u)
    torch.testing.assert_close(share, (x @ u @ u.T).norm(dim=1) ** 2 / x.norm(dim=1) ** 2)
    assert share.shape == (n,) and (share >= 0).all() and (share <= 1 + 1e-12).all()


def test_small_angles_are_not_lost_to_rounding():
    for angle in (1e-9, 1e-6, 0.1, np.pi / 4, 1.5, np.pi / 2):
        a = torch.tensor([[1.0, 0, 0], [0, 1.0, 0]], dtype=torch.float64)
        b = torch.tensor([[1.0, 0, 0], [0, np.cos(angle), np.sin(angle)]], dtype=torch.float64)
        assert principal_angles(a, b)[1].item() == pytest.approx(angle, rel=1e-6)


def test_a_subspace_makes_no_angle_with_itself_whatever_spans_it():
    a = random(4, 32)
    mixed = random(9, 4, seed=1) @ a
    assert principal_angles(a, mixed).max() < 1e-5


@given(st.integers(0, 10**6), st.integers(2, 8))
@examples(20)
def test_basis_is_orthonormal_and_spans_the_rows(seed, n):
    a = random(n, 24, seed=seed)
    u = basis(torch.cat([a, a[:1] + a[1:2]]))  # one row more than the rank
    assert u.shape == (24, n)
    torch.testing.assert_close(u.T @ u, torch.eye(n, dtype=torch.float64))
    torch.testing.assert_close(a.double() @ u @ u.T, a.double())


def test_energy_orders_what_is_kept():
    a = torch.diag(torch.tensor([3.0, 2.0, 1.0]))  # shares 9/14, 4/14, 1/14
    assert [basis(a, e).shape[1] for e in (0.0, 0.6, 9 / 14, 0.9, 13 / 14, 1.0)] == [1, 1, 1, 2, 2, 3]
    assert captured_energy(a, basis(a, 0.6)).tolist() == pytest.approx([1, 0, 0])
    assert basis(torch.zeros(3, 24)).shape == basis(torch.zeros(30, 24)).shape == (24, 0)


def test_bad_arguments_are_refused():
    for rows in (torch.zeros(0, 4), torch.zeros(3), torch.tensor([[torch.nan, 1.0]])):
        with pytest.raises(ValueError, match="rows: "):
            basis(rows)
    with pytest.raises(ValueError, match="energy: 1.5"):
        basis(random(2, 4), 1.5)
    with pytest.raises(ValueError, match="a, b: "):
        principal_angles(random(2, 4), random(2, 5))
