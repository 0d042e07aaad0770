"""Digits for canvases that are known by their sums alone: glyphs that look alike are one digit, the sums say which.

Glyphs cut out of the canvases fall into clusters. A cluster is an unknown digit `d` with a distribution `q_c(d)`, and a
canvas with glyphs of the clusters `c_1 ... c_D` has the sum `s` with probability

    P(s) = (1 - e) * sum over all d_1 + ... + d_D = s of q_c1(d_1) * ... * q_cD(d_D)  +  e / (9 * D + 1)

where `e` is the share of canvases whose sum has nothing to do with their glyphs. EM (Dempster et al., 1977) finds the
`q` under which the sums are most probable: the posterior of each glyph's digit given the sum is exact, and `q_c` is the
mean posterior of the glyphs in `c`. Then the mean posterior of the glyphs most like it takes the place of a cluster's.
"""

import warnings
from dataclasses import dataclass

import numpy as np
from scipy.ndimage import gaussian_filter
from scipy.optimize import lsq_linear
from scipy.sparse import csr_array

from digitsum.data.components import cut_glyphs
from digitsum.models.lattice import Counts

_MIN_CANVASES = 30  # ten digits are not learned from fewer sums
_MAX_DIGITS = 16  # on a canvas: bounds the memory
_BINS = 8  # of the direction of a stroke's edge
_FEATURES = 50
_NEIGHBOURS = 10
_EMBEDDING = 12  # dimensions in which clusters are apart: about one for each digit
_GLYPHS_PER_CLUSTER = 20
_MAX_CLUSTERS = 100
_RESTARTS = 3
_MAX_ITERATIONS = 100
_OUTLIERS = 1e-3
_UNEXPLAINED = 0.6  # of the sums' entropy: where more is left, the glyphs are no digits, or the sums are others'
_ROUNDS = 5  # in which each glyph is named by its neighbours
_OWN_CLUSTER = 0.3  # what a glyph's cluster counts beside its neighbours


@dataclass(frozen=True)
class PseudoLabels:
    """The digits of `M` out of `N` canvases.

    Attributes:
        index: `(M,)` int64, which of the canvases.
        digits: `(M, D)` int64, from left to right, -1 behind a canvas's last digit; they add up to its sum.
        share: `M / N`.
        log_likelihood: of a canvas's sum given its clusters, the mean in nats.
        probs: `(K, 10)` float64, the clusters' distributions over the digits.
        means: `(K, 28, 28)` float32, the clusters' mean glyphs.
        sizes: `(K,)` int64, how many glyphs each has.
    """

    index: np.ndarray
    digits: np.ndarray
    share: float
    log_likelihood: float
    probs: np.ndarray
    means: np.ndarray
    sizes: np.ndarray


def label_by_sums(
    canvases: np.ndarray, sums: np.ndarray, counts: Counts, seed: int = 0
) -> tuple[PseudoLabels | None, str]:
    """Find the digits of those canvases that fall apart into a possible number of glyphs.

    Where more than one number is possible, a canvas on which digits touch may pass for one with fewer digits: only that
    what hangs together is wider than a glyph gives it away.

    Args:
        canvases: `(N, H, W)`, uint8 in 0..255 or float in [0, 1].
        sums: `(N,)` int64.
        counts: the possible numbers of digits; canvases with more than 16 are left out.
        seed: of the clusters and of EM's starts; the same seed gives the same digits.

    Returns:
        The digits, or None if too few canvases fall apart or their sums do not tell digits apart; and what to tell the
        user of it.
    """
    from threadpoolctl import threadpool_limits  # these and scikit-learn take a second to import

    glyphs = cut_glyphs(canvases)
    number = np.bincount(glyphs.canvas, minlength=len(canvases))
    most = _MAX_DIGITS if counts.max is None else min(counts.max, _MAX_DIGITS)
    clean = (max(1, counts.min) <= number) & (number <= most) & (sums <= 9 * number)
    clean[glyphs.canvas[glyphs.wide]] = False
    index = np.flatnonzero(clean)
    share = f"{len(index):,} of {len(canvases):,}"
    if len(index) < _MIN_CANVASES:
        return None, f"too few canvases fall apart cleanly ({share}): training without a warm start"
    sums = sums[index]
    present = np.arange(number[index].max()) < number[index, None]
    with threadpool_limits(1):  # the order in which several threads add up is chance
        images = glyphs.images[clean[glyphs.canvas]]
        neighbours = _neighbours(_edge_directions(images))
        cluster = _clusters(neighbours, seed)
        probs, log_likelihood = _fit(cluster, present, sums, seed)
        refined = _ask_neighbours(probs[cluster], neighbours, present, sums)
    frequencies = np.bincount(sums) / len(sums)
    entropy = -(frequencies[frequencies > 0] * np.log(frequencies[frequencies > 0])).sum()
    if -log_likelihood / len(sums) > _UNEXPLAINED * entropy:
        return None, f"the sums do not tell what the glyphs of {share} canvases are: training without a warm start"
    digits = np.where(present, most_probable_digits(_on_canvases(refined, present), sums), -1)
    sizes = np.bincount(cluster)
    means = np.stack([images[cluster == number].mean(axis=0) for number in range(len(sizes))])
    labels = PseudoLabels(index, digits, len(index) / len(canvases), log_likelihood / len(index), probs, means, sizes)
    return labels, f"{share} canvases fall apart into {present.sum():,} glyphs in {len(probs)} clusters"


def sum_posteriors(probs: np.ndarray, sums: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The probability of each digit at each place together with the sum.

    Args:
        probs: `(M, D, 10)` float64, the digits' probabilities at each place.
        sums: `(M,)` int64.

    Returns:
        `(M, D, 10)`, P(the digit there, and the sum); and `(M,)`, P(the sum), 0 where no digits have it. In the first
        the digits of a place add up to the second.
    """
    count, places, _ = probs.shape
    width = 9 * places + 1
    before = np.zeros((places + 1, count, width))  # P(the places before have this sum)
    before[0, :, 0] = 1
    for place in range(places):
        for digit in range(10):
            before[place + 1, :, digit:] += probs[:, place, digit, None] * before[place, :, : width - digit]
    after = np.zeros_like(before)  # P(the places from here on bring this sum to the canvas's)
    possible = np.flatnonzero(sums < width)
    after[places, possible, sums[possible]] = 1
    joint = np.empty_like(probs)
    for place in reversed(range(places)):
        for digit in range(10):
            rest = after[place + 1, :, digit:]
            after[place, :, : width - digit] += probs[:, place, digit, None] * rest
            joint[:, place, digit] = probs[:, place, digit] * (before[place, :, : width - digit] * rest).sum(1)
    return joint, after[0, :, 0]


def most_probable_digits(probs: np.ndarray, sums: np.ndarray) -> np.ndarray:
    """The most probable digits `(M, D)` int64 with the sums `(M,)` int64, each at most `9 * D`, by dynamic programming.

    `probs` `(M, D, 10)` are the digits' probabilities at each place, independent of one another.
    """
    count, places, _ = probs.shape
    width = 9 * places + 1
    with np.errstate(divide="ignore"):
        logs = np.log(probs)
    best = np.full((count, width), -np.inf)  # of the places from here on, given the sum of those before
    best[np.arange(count), sums] = 0
    choices = np.empty((places, count, width), np.int8)
    for place in reversed(range(places)):
        ways = np.full((10, count, width), -np.inf)
        for digit in range(10):
            ways[digit, :, : width - digit] = logs[:, place, digit, None] + best[:, digit:]
        choices[place], best = ways.argmax(0), ways.max(0)
    digits = np.empty((count, places), np.int64)
    total = np.zeros(count, np.int64)
    for place in range(places):
        digits[:, place] = choices[place, np.arange(count), total]
        total += digits[:, place]
    return digits


def _edge_directions(glyphs: np.ndarray) -> np.ndarray:
    """Histograms of oriented gradients (Dalal and Triggs, 2005) of `(G, 28, 28)`, reduced to `(G, 50)`."""
    down, right = np.gradient(gaussian_filter(glyphs, (0, 0.7, 0.7)), axis=(1, 2))
    strength, direction = np.hypot(down, right), np.arctan2(down, right) * _BINS / (2 * np.pi)
    bins = []
    for number in range(_BINS):
        away = np.abs((direction - number + _BINS / 2) % _BINS - _BINS / 2)  # from the bin's middle, round the circle
        cells = gaussian_filter(strength * np.clip(1 - away, 0, None), (0, 2, 2))[:, 2::4, 2::4]
        bins.append(cells.reshape(len(glyphs), -1))
    histograms = np.concatenate(bins, axis=1)
    histograms = np.sqrt(histograms / np.linalg.norm(histograms, axis=1, keepdims=True).clip(1e-12))
    centred = histograms - histograms.mean(axis=0)
    components = np.linalg.eigh(centred.T @ centred)[1][:, -_FEATURES:]
    reduced: np.ndarray = centred @ components
    return reduced


def _neighbours(features: np.ndarray) -> csr_array:
    """`(G, G)`, 1 where one is among the nearest of another and the other among its own, a half where not both are."""
    from sklearn.neighbors import kneighbors_graph

    nearest = kneighbors_graph(features, min(_NEIGHBOURS, len(features) - 1), include_self=False)
    return csr_array((nearest + nearest.T) / 2)


def _clusters(neighbours: csr_array, seed: int) -> np.ndarray:
    """The cluster of each glyph, `(G,)` from 0 to `K - 1`: spectral clustering (Ng et al., 2001)."""
    from sklearn.cluster import spectral_clustering

    number = neighbours.shape[0] // _GLYPHS_PER_CLUSTER
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # glyphs that are neighbours of no others, or equal to them, are no trouble
        labels = spectral_clustering(
            neighbours,
            n_clusters=min(max(number, 10), _MAX_CLUSTERS, neighbours.shape[0] // 2),
            n_components=min(_EMBEDDING, neighbours.shape[0] // 2),
            random_state=seed,
        )
    numbered: np.ndarray = np.unique(labels, return_inverse=True)[1]
    return numbered


def _fit(cluster: np.ndarray, present: np.ndarray, sums: np.ndarray, seed: int) -> tuple[np.ndarray, float]:
    """EM from several starts: the clusters' distributions `(K, 10)`, and the logarithm of the sums' likelihood.

    It starts at distributions around the values that, added up, come nearest to the sums in the sense of least squares.
    """
    rng = np.random.default_rng(seed)
    members = csr_array((np.ones(len(cluster)), (cluster, np.arange(len(cluster)))))
    canvases = csr_array((np.ones(len(cluster)), (np.nonzero(present)[0], cluster)), (len(sums), members.shape[0]))
    values = lsq_linear(canvases.toarray(), sums, bounds=(0, 9)).x
    fits = []
    for restart in range(_RESTARTS):
        start = values + (restart > 0) * rng.standard_normal(len(values))
        probs = _normalised(np.exp(-((np.arange(10) - start[:, None]) ** 2) / 8) + 1e-3)
        last = -np.inf
        for _ in range(_MAX_ITERATIONS):
            posteriors, log_likelihood = _posteriors(probs[cluster], present, sums)
            probs = _normalised(members @ posteriors + 0.01)
            if log_likelihood - last < 1e-5 * len(sums):
                break
            last = log_likelihood
        fits.append((probs, log_likelihood))
    return max(fits, key=lambda fit: fit[1])


def _ask_neighbours(own: np.ndarray, neighbours: csr_array, present: np.ndarray, sums: np.ndarray) -> np.ndarray:
    """Each glyph's distribution `(G, 10)` from its neighbours' posteriors, some from its cluster's, `own`."""
    weights = neighbours / neighbours.sum(axis=1)[:, None]
    probs = own
    for _ in range(_ROUNDS):
        posteriors, _ = _posteriors(probs, present, sums)
        probs = _normalised(weights @ posteriors + _OWN_CLUSTER * own + 1e-4)
    return probs


def _posteriors(probs: np.ndarray, present: np.ndarray, sums: np.ndarray) -> tuple[np.ndarray, float]:
    """Each glyph's posterior `(G, 10)`, times the probability that its canvas is no outlier; and the log-likelihood."""
    joint, likelihood = sum_posteriors(_on_canvases(probs, present), sums)
    total = (1 - _OUTLIERS) * likelihood + _OUTLIERS / (9 * present.shape[1] + 1)
    return ((1 - _OUTLIERS) * joint / total[:, None, None])[present], float(np.log(total).sum())


def _on_canvases(probs: np.ndarray, present: np.ndarray) -> np.ndarray:
    """The glyphs' `(G, 10)` as `(M, D, 10)`; where no glyph is `present` there is a zero for sure."""
    placed = np.zeros((*present.shape, 10))
    placed[..., 0] = 1
    placed[present] = probs
    return placed


def _normalised(weights: np.ndarray) -> np.ndarray:
    normalised: np.ndarray = weights / weights.sum(axis=1, keepdims=True)
    return normalised
