"""Canonical correlation analysis: the loss that trains two networks, and the linear one that ends them."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor


def cca_loss(h1: Tensor, h2: Tensor, ridge: float) -> Tensor:
    """Negative sum of the canonical correlations of two views (Andrew et al. 2013, equation 10).

    With the centred views' covariances S11, S22 (each with a ridge on its diagonal) and S12, the correlations are the
    singular values of T = S11^(-1/2) S12 S22^(-1/2). Cholesky factors stand for the square roots: they give the same
    singular values, and the gradient of their sum never divides by a difference of two of them, which may be 0. All is
    computed in float64 whatever comes in, and outside autocast.

    Parameters
    ----------
    h1 : Tensor, shape (n, p)
    h2 : Tensor, shape (n, q)
        The two views of the same n rows.
    ridge : float
        Added to the variances, as a share of the view's mean variance: the loss cannot be had by blowing up the views.

    Returns
    -------
    Tensor of float64, shape ()

    Raises
    ------
    ValueError
        If the views have not the same number of rows, or fewer than two.
    """
    with torch.autocast(h1.device.type, enabled=False):
        values: Tensor = torch.linalg.svdvals(_whitened(h1.double(), h2.double(), ridge).between)  # (min(p, q),)
        return -values.sum()  # ()


class LinearCCA(NamedTuple):
    """A linear CCA that was fitted: `project1` and `project2` turn views into canonical variates of unit variance.

    Parameters
    ----------
    mean1, mean2 : Tensor, shape (p,), (q,)
    projection1, projection2 : Tensor, shape (p, k), (q, k)
    correlations : Tensor, shape (k,)
        On the rows it was fitted on, with the ridge, falling.
    """

    mean1: Tensor
    mean2: Tensor
    projection1: Tensor
    projection2: Tensor
    correlations: Tensor

    @classmethod
    def fit(cls, h1: Tensor, h2: Tensor, components: int, ridge: float) -> LinearCCA:
        """Fit on `h1` (n, p) and `h2` (n, q); `components` is at most the narrower view's width.

        Raises
        ------
        ValueError
            If the views have not the same number of rows, or fewer than two, or too few columns.
        """
        if not 1 <= components <= min(h1.shape[1], h2.shape[1]):
            raise ValueError(f"{components} components asked for of views of width {h1.shape[1]} and {h2.shape[1]}")
        with torch.no_grad():
            h1, h2 = h1.double(), h2.double()  # (n, p), (n, q)
            root1, root2, between = _whitened(h1, h2, ridge)  # (p, p), (q, q), (p, q)
            u, values, vh = torch.linalg.svd(between, full_matrices=False)  # (p, r), (r,), (r, q)
            u, v = u[:, :components], vh[:components].mT  # (p, k), (q, k)
            one = torch.linalg.solve_triangular(root1.mT, u, upper=True)  # (p, k)
            two = torch.linalg.solve_triangular(root2.mT, v, upper=True)  # (q, k)
            return cls(h1.mean(0), h2.mean(0), one, two, values[:components])

    def project1(self, h1: Tensor) -> Tensor:
        """Canonical variates of the first view `h1` (n, p); (n, k)."""
        return (h1 - self.mean1.to(h1)) @ self.projection1.to(h1)  # (n, k)

    def project2(self, h2: Tensor) -> Tensor:
        """Canonical variates of the second view `h2` (n, q); (n, k)."""
        return (h2 - self.mean2.to(h2)) @ self.projection2.to(h2)  # (n, k)

    def held_out(self, h1: Tensor, h2: Tensor) -> Tensor:
        """Correlation of each pair of variates on rows that may be new: `h1` (n, p), `h2` (n, q); (k,)."""
        one, two = self.project1(h1.double()), self.project2(h2.double())  # (n, k), (n, k)
        one, two = one - one.mean(0), two - two.mean(0)  # (n, k), (n, k)
        scale = (one.square().sum(0) * two.square().sum(0)).sqrt().clamp_min(1e-12)  # (k,)
        return (one * two).sum(0) / scale  # (k,)


class _Whitened(NamedTuple):
    root1: Tensor  # (p, p), lower triangular
    root2: Tensor  # (q, q), lower triangular
    between: Tensor  # (p, q): root1^-1 S12 root2^-T


def _whitened(h1: Tensor, h2: Tensor, ridge: float) -> _Whitened:
    n = len(h1)
    if n != len(h2) or n < 2:
        raise ValueError(f"CCA needs two views of the same rows, at least two, got {n} and {len(h2)}")
    one, two = h1 - h1.mean(0), h2 - h2.mean(0)  # (n, p), (n, q)
    root1, root2 = _root(one, ridge), _root(two, ridge)  # (p, p), (q, q)
    left = torch.linalg.solve_triangular(root1, one.mT @ two / (n - 1), upper=False)  # (p, q)
    between = torch.linalg.solve_triangular(root2, left.mT, upper=False).mT  # (p, q)
    return _Whitened(root1, root2, between)


def _root(centred: Tensor, ridge: float) -> Tensor:
    covariance = centred.mT @ centred / (len(centred) - 1)  # (p, p)
    variance = covariance.diagonal().mean().clamp_min(1e-20)  # ()
    floor = ridge * variance  # ()
    root: Tensor = torch.linalg.cholesky(covariance + floor * torch.eye(len(covariance)).to(covariance))  # (p, p)
    return root  # (p, p)
