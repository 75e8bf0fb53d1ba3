"""The Hessian of a two-layer linear network, assembled in full: what its closed form saves."""

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


def dense_hessian(W1: Array, W2: Array, x: Array, y: Array) -> Array:
    """Second derivatives of (1/2n) sum |W2 W1 x_i - y_i|^2 in (W1, W2), each row by row: (m (D + K), m (D + K)).

    With S = mean(x x^T) and Omega = mean(delta x^T): W2^T W2 (x) S, I (x) W1 S W1^T, and between them
    W2_ka (S W1^T)_db + Omega_kd I_ab.

    Args:  W1 (m, D), W2 (K, m), x (n, D), y (n, K).
    """
    width, num_inputs = W1.shape
    num_outputs = len(W2)
    S = x.T @ x / len(x)
    Omega = (x @ (W2 @ W1).T - y).T @ x / len(x)
    cross = np.einsum("ka,db->adkb", W2, S @ W1.T) + np.einsum("kd,ab->adkb", Omega, np.eye(width))
    cross = cross.reshape(width * num_inputs, num_outputs * width)
    return np.block([[np.kron(W2.T @ W2, S), cross], [cross.T, np.kron(np.eye(num_outputs), W1 @ S @ W1.T)]])
