"""Compiled linear algebra of implicit steps where groups interact: a dense matrix for every step."""

from __future__ import annotations

from evodyn.solvers.vectors import add, clear, in_wide_vectors, ordered, sums

__all__ = ["MOST_DENSE", "enter_jacobian", "factorize", "solve"]

MOST_DENSE = 300
"""Most groups that interact for which implicit steps are taken: they cost as much as the cube of it."""


@sums
def _product(one, other):
    in_wide_vectors()
    total = 0.0
    for i in range(one.size):
        total += one[i] * other[i]
    return total


@sums
def _enter_row(slopes, interactions, scaled, row):
    in_wide_vectors()
    for j in range(row.size):
        row[j] = slopes[j] - interactions[j] * scaled[j]


@ordered
def enter_jacobian(form, shift, diagonal, scaled, shares, velocity, slopes, matrix):
    """Enter shift - J; return a bound on the size of the eigenvalues of J.

    With B the interactions and s what they act on, J_ij = d_i δ_ij + B_ij s_j - w_j in every block. Slopes of
    its mean are w_j = s_j Σ x_i B_ij + x_j (v_j + d_j), without the last term for groups of others.
    """
    largest = 0.0
    for k in range(form.loss.size):
        a, b = form.starts[k], form.starts[k + 1]
        clear(slopes)
        for i in range(a, b):
            add(slopes, shares[i], form.interaction[i])
        for j in range(slopes.size):
            slopes[j] *= scaled[j]
        for j in range(a, b):
            slopes[j] += shares[j] * (velocity[j] + diagonal[j])
        for i in range(a, b):
            row, whole = matrix[i], 0.0
            _enter_row(slopes, form.interaction[i], scaled, row)
            row[i] -= diagonal[i]
            for j in range(row.size):
                whole += abs(row[j])
            largest = max(largest, whole)
            row[i] += shift
    return largest


@ordered
def factorize(matrix, pivots):
    """Replace a matrix by its factors, with rows exchanged."""
    n = pivots.size
    for k in range(n):
        pivot = k
        for i in range(k + 1, n):
            if abs(matrix[i, k]) > abs(matrix[pivot, k]):
                pivot = i
        pivots[k] = pivot
        if pivot != k:
            for j in range(n):
                matrix[k, j], matrix[pivot, j] = matrix[pivot, j], matrix[k, j]
        inverse = 1.0 / matrix[k, k]
        for i in range(k + 1, n):
            factor = matrix[i, k] * inverse
            matrix[i, k] = factor
            if factor != 0.0:
                add(matrix[i, k + 1 :], -factor, matrix[k, k + 1 :])


@ordered
def solve(matrix, pivots, right):
    """Solve in place, with the factors."""
    n = pivots.size
    for k in range(n):
        pivot = pivots[k]
        right[k], right[pivot] = right[pivot], right[k]
    for i in range(1, n):
        right[i] -= _product(matrix[i, :i], right[:i])
    for i in range(n - 1, -1, -1):
        right[i] = (right[i] - _product(matrix[i, i + 1 :], right[i + 1 :])) / matrix[i, i]
