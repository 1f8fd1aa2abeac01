"""The CCA against scikit-learn, a generalised eigenproblem and correlations that were planted."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.linalg
import torch
from numpy.typing import NDArray
from sklearn.cross_decomposition import CCA
from torch import Tensor

from milmer.models.cca import LinearCCA, cca_loss

PLANTED = (0.9, 0.6, 0.3)


def views(n: int, p: int = 5, q: int = 4, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Two mixed views whose first three pairs of latents correlate as planted."""
    rng = np.random.default_rng(seed)
    one, two = rng.normal(size=(n, p)), rng.normal(size=(n, q))  # (n, p), (n, q)
    for i, rho in enumerate(PLANTED):
        two[:, i] = rho * one[:, i] + np.sqrt(1 - rho**2) * two[:, i]
    one = one @ rng.normal(size=(p, p)) + 3  # (n, p)
    two = 100 * two @ rng.normal(size=(q, q)) - 7  # (n, q)
    return torch.from_numpy(one), torch.from_numpy(two)


def eigenproblem(h1: NDArray[np.float64], h2: NDArray[np.float64], ridge: float) -> NDArray[np.float64]:
    """Canonical correlations from S12 S22^-1 S21 a = rho² S11 a."""
    s = np.cov(h1.T, h2.T)
    p, q = h1.shape[1], h2.shape[1]
    s11, s22, s12 = s[:p, :p].copy(), s[p:, p:].copy(), s[:p, p:]
    s11 += ridge * np.trace(s11) / p * np.eye(p)
    s22 += ridge * np.trace(s22) / q * np.eye(q)
    found = scipy.linalg.eigh(s12 @ np.linalg.inv(s22) @ s12.T, s11, eigvals_only=True)
    return np.sqrt(np.clip(found[::-1][: min(p, q)], 0, None))


def test_finds_the_planted_correlations() -> None:
    h1, h2 = views(100_000)
    found = LinearCCA.fit(h1, h2, 4, 1e-9)
    np.testing.assert_allclose(found.correlations.numpy(), [*PLANTED, 0], atol=0.012)
    assert float(cca_loss(h1, h2, 1e-9)) == pytest.approx(-sum(PLANTED), abs=0.02)


@pytest.mark.parametrize("ridge", [1e-9, 1e-3, 0.3])
def test_agrees_with_a_generalised_eigenproblem(ridge: float) -> None:
    h1, h2 = views(200)
    wanted = eigenproblem(h1.numpy(), h2.numpy(), ridge)
    np.testing.assert_allclose(LinearCCA.fit(h1, h2, 4, ridge).correlations.numpy(), wanted, atol=1e-9)
    np.testing.assert_allclose(float(cca_loss(h1, h2, ridge)), -wanted.sum(), atol=1e-9)


def test_agrees_with_scikit_learn() -> None:
    h1, h2 = views(400)
    theirs = CCA(n_components=3, max_iter=5000, tol=1e-12).fit(h1.numpy(), h2.numpy())
    one, two = theirs.transform(h1.numpy(), h2.numpy())
    ours = LinearCCA.fit(h1, h2, 3, 1e-10)
    mine1, mine2 = ours.project1(h1).numpy(), ours.project2(h2).numpy()
    for i in range(3):
        assert np.corrcoef(one[:, i], two[:, i])[0, 1] == pytest.approx(float(ours.correlations[i]), abs=1e-5)
        assert abs(np.corrcoef(one[:, i], mine1[:, i])[0, 1]) == pytest.approx(1, abs=1e-4)
        assert abs(np.corrcoef(two[:, i], mine2[:, i])[0, 1]) == pytest.approx(1, abs=1e-4)


def test_variates_are_white_and_keep_their_correlation_on_new_rows() -> None:
    h1, h2 = views(4000)
    found = LinearCCA.fit(h1[:2000], h2[:2000], 3, 1e-9)
    one, two = found.project1(h1[:2000]).numpy(), found.project2(h2[:2000]).numpy()
    np.testing.assert_allclose(np.cov(one.T, two.T)[:3, :3], np.eye(3), atol=1e-6)
    np.testing.assert_allclose(np.cov(one.T, two.T)[:3, 3:], np.diag(found.correlations.numpy()), atol=1e-6)
    np.testing.assert_allclose(found.held_out(h1[2000:], h2[2000:]).numpy(), PLANTED, atol=0.06)


def test_the_gradient_is_right_and_finite_where_correlations_are_equal() -> None:
    h1, h2 = (h[:12].clone().requires_grad_() for h in views(12, 4, 3))
    assert torch.autograd.gradcheck(lambda a, b: cca_loss(a, b, 1e-2), (h1, h2))
    same = views(50)[0].requires_grad_()
    cca_loss(same, same * 1.0, 1e-6).backward()  # all correlations are 1
    assert same.grad is not None and torch.isfinite(same.grad).all()
    dead = torch.zeros(50, 3, requires_grad=True)
    cca_loss(dead, torch.randn(50, 3, generator=torch.Generator().manual_seed(0)), 1e-3).backward()
    assert dead.grad is not None and torch.isfinite(dead.grad).all()


def test_half_precision_is_computed_in_double_and_scale_does_not_matter() -> None:
    h1, h2 = views(300)
    whole = cca_loss(h1, h2, 1e-3)
    assert cca_loss(h1.float(), h2.float(), 1e-3).dtype == torch.float64
    with torch.autocast("cpu", torch.bfloat16):
        assert float(cca_loss(h1.float(), h2.float(), 1e-3)) == pytest.approx(float(whole), abs=1e-5)
    assert float(cca_loss(1e-4 * h1, 1e4 * h2, 1e-3)) == pytest.approx(float(whole), abs=1e-5)


def test_what_cannot_be_is_said() -> None:
    h1, h2 = views(10)
    with pytest.raises(ValueError, match="same rows, at least two, got 10 and 9"):
        cca_loss(h1, h2[1:], 1e-3)
    with pytest.raises(ValueError, match="5 components asked for of views of width 5 and 4"):
        LinearCCA.fit(h1, h2, 5, 1e-3)
