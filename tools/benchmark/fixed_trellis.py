"""A trellis of fixed rate after a random rotation, as in QTIP and EXL3: how good such a file can be, simulated.

The weights of a linear layer are rotated on both sides, so that they are nearly independent Gaussian numbers, and quantized with
error feedback (Tseng et al., QTIP, arXiv 2406.11235; LDLQ of QuIP, arXiv 2307.13304). The quantization error then is noise
in front of the feedback, so a file is simulated by adding such noise, rotated back, to the original weights. Its variance is
that of the weights times 0.069 * 4^(2-k) at k bits: QTIP's table 1 has 0.069 for 2 bits and 2^16 states, 0.07 bits above the
Gaussian bound. The same distance is granted at other rates. All weights of a file take k bits, and no bytes are charged
for scales. The embedding, which is the head, takes 4 or 6 bits, with white noise. What such a file takes is what it
takes in memory.
"""

import numpy as np

import hf_folder
import ours
import rounding
from overhead import Inputs

FAMILY = "fixed-rate trellis, simulated"
AT_2_BITS = 0.069
CHOICES = [(2, 4), (2, 6), (3, 4), (3, 6), (4, 6), (5, 6)]


def noise_level(bits):
    """The mean square error over the variance."""
    return AT_2_BITS * 4.0 ** (2 - bits)


def rotation(n, generator):
    """A random orthogonal matrix: what a randomized Hadamard transform stands for."""
    q, r = np.linalg.qr(generator.standard_normal((n, n)))
    return q * np.sign(np.diag(r))


def noisy(w, factor, bits, generator):
    """`w` (rows x columns) plus the error that remains: H = factor factor^T is the covariance of the inputs.

    With H = L D L^T in rotated columns (L unit lower triangular), feedback makes the error e = eta L^-1, whose weighted square is
    eta D eta^T. A rotation of rows does not change white noise.
    """
    u = rotation(w.shape[1], generator)
    lower = np.linalg.cholesky(u @ (factor @ factor.T) @ u.T)
    unit = lower / np.diag(lower)
    eta = generator.standard_normal(w.shape) * np.sqrt(noise_level(bits) * np.mean(w.astype(np.float64) ** 2))
    return (w + np.linalg.solve(unit.T, eta.T).T @ u).astype(np.float32)


def points(bench, model):
    """Files of 2 to 5 bits for linear layers."""
    names = {f"{bits} bits, embedding {head}": (bits, head) for bits, head in CHOICES}
    if all(bench.scored(FAMILY, name, model) for name in names):
        return
    weights = hf_folder.tensors(model.folder)
    inputs = Inputs(ours.statistics(bench, model)[0])
    for name, (bits, head) in names.items():
        if bench.scored(FAMILY, name, model):
            continue
        generator, changed, bare = np.random.default_rng(1), {}, 0
        for tensor, w in sorted(weights.items()):
            if rounding.is_linear(tensor, w):
                changed[tensor] = noisy(w, inputs.factor(tensor), bits, generator)
                bare += w.size * bits // 8
            elif w.ndim == 2:
                scale = np.sqrt(noise_level(head) * np.mean(w.astype(np.float64) ** 2))
                changed[tensor] = w + (generator.standard_normal(w.shape) * scale).astype(np.float32)
                bare += w.size * head // 8
            else:
                changed[tensor] = w
                bare += w.size * 2
        folder = hf_folder.write(bench.folder("trellis"), model.folder, changed)
        bench.score(FAMILY, name, model, folder, bare + ours.assets(bench, model), bare)
