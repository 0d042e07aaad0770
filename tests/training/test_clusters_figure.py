"""The figure shows each cluster with its digit."""

import numpy as np
import pytest

from digitsum.figures import write_figure
from digitsum.training.clusters_figure import clusters_figure


@pytest.mark.parametrize("count", [1, 10, 23])
def test_clusters_stand_in_the_order_of_their_digits_with_the_unsure_ones_marked(tmp_path, count):
    rng = np.random.default_rng(0)
    probs = rng.dirichlet(np.full(10, 0.2), count)
    sizes = rng.integers(1, 2_000, count)
    figure = clusters_figure(rng.random((count, 28, 28)), probs, sizes)
    titles = [axes.title for axes in figure.axes if axes.get_title()]
    assert len(titles) == count
    digits = [int(title.get_text()[0]) for title in titles]
    assert digits == sorted(probs.argmax(1).tolist())
    assert sum(title.get_color() != "black" for title in titles) == (probs.max(1) < 0.9).sum()
    assert str(count) in figure.get_suptitle()
    write_figure(tmp_path / "clusters.png", figure)
    assert (tmp_path / "clusters.png").stat().st_size > 1_000
