"""The copies of an image over which test-time augmentation averages."""

import pytest
import torch

from digitsum.models.views import VIEWS, View


def middle_of(image):
    """The middle of an image's ink, in pixels from its upper left corner: down and to the right."""
    rows, columns = (torch.arange(length) + 0.5 for length in image.shape)
    return float((image.sum(1) * rows).sum() / image.sum()), float((image.sum(0) * columns).sum() / image.sum())


def spot(down, right, height=40, width=168):
    image = torch.zeros(1, height, width)
    image[0, down - 2 : down + 2, right - 2 : right + 2] = 1
    return image


def test_the_first_view_is_the_image():
    images = torch.rand(3, 40, 168)
    assert torch.allclose(VIEWS[0].of(images, 168), images, atol=1e-4)


def test_a_moved_view_is_the_image_moved():
    images = torch.rand(3, 40, 168)
    found = View(4, 2).of(images, 176)
    assert found.shape == (3, 42, 176)
    assert torch.allclose(found[:, 2:, 4:172], images, atol=1e-4)
    assert found[:, :2].abs().max() < 1e-4
    assert found[:, :, :4].abs().max() < 1e-4
    assert found[:, :, 172:].abs().max() < 1e-4


@pytest.mark.parametrize("view", VIEWS)
@pytest.mark.parametrize("place", [(20, 10), (20, 160), (10, 80), (32, 80)])
def test_ink_comes_where_the_formula_says(view, place):
    down, right = place
    found = view.of(spot(*place), view.width(168))
    expected = (
        view.down + view.higher * down,
        view.right + view.wider * (right - view.lean * (down - 20)),
    )
    assert middle_of(found[0]) == pytest.approx(expected, abs=0.1)


@pytest.mark.parametrize("view", VIEWS)
@pytest.mark.parametrize("width", [8, 168, 3999])
def test_no_ink_is_cut_off(view, width):
    image = torch.zeros(1, 40, width)
    image[0, :, 1:-1] = 1
    lean = abs(view.lean) * 20
    found = view.of(image, view.width(width))
    assert found.sum() >= view.wider * view.higher * 40 * (width - 2 - 2 * lean) - 80
