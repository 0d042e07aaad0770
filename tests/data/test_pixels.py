"""What images are taken at the door, and what is refused there."""

import numpy as np
import pytest
import torch

from digitsum.data.pixels import as_float, checked_images
from digitsum.errors import InputError


def test_uint8_and_float_are_the_same_images():
    whole = torch.arange(256, dtype=torch.uint8)
    assert torch.equal(as_float(whole), as_float(whole.float() / 255))
    assert as_float(whole, torch.float64).dtype == torch.float64


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64], ids=str)
def test_every_float_becomes_float32(dtype):
    images = torch.rand((2, 3, 4)).to(dtype)
    found = checked_images(images, (3, 4))
    assert found.dtype == torch.float32
    assert torch.equal(found, images.float())


@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.int32, np.int64], ids=str)
def test_whole_numbers_in_the_range_of_pixels_become_uint8(dtype):
    images = np.array([[[0, 17, 255]]], dtype)
    found = checked_images(images, (1, 3))
    assert found.dtype == torch.uint8
    assert found.tolist() == images.tolist()


def test_no_images_are_images():
    assert checked_images(np.empty((0, 3, 4)), (3, 4)).shape == (0, 3, 4)


def test_other_widths_are_for_networks_that_read_them():
    images = torch.zeros((1, 3, 9), dtype=torch.uint8)
    assert checked_images(images, (3, 4), variable_width=True).shape == (1, 3, 9)
    with pytest.raises(InputError, match=r"^images: expected shape \(N, 3, 4\), got \(1, 3, 9\)"):
        checked_images(images, (3, 4))


@pytest.mark.parametrize(
    ("images", "message"),
    [
        (torch.zeros((3, 4), dtype=torch.uint8), r"expected shape \(N, 3, 4\), got \(3, 4\)"),
        (torch.zeros((1, 1, 3, 4)), r"expected shape \(N, 3, 4\), got \(1, 1, 3, 4\)"),
        (torch.zeros((1, 4, 3)), r"expected shape \(N, 3, 4\), got \(1, 4, 3\)"),
        (torch.full((1, 3, 4), 255.0), r"expected float pixels in \[0, 1\], got 255 to 255; divide them by 255\?"),
        (torch.full((1, 3, 4), -0.1), r"expected float pixels in \[0, 1\], got -0.1 to -0.1"),
        (torch.full((1, 3, 4), torch.nan), r"expected float pixels in \[0, 1\], got nan to nan"),
        (torch.full((1, 3, 4), 256), r"expected whole pixels in 0\.\.255, got 256 to 256"),
        (torch.full((1, 3, 4), -1), r"expected whole pixels in 0\.\.255, got -1 to -1"),
        (torch.eye(3, 4, dtype=torch.uint8)[None], r"got nothing but 0 and 1; multiply them by 255"),
        (torch.ones((1, 3, 4), dtype=torch.bool), r"expected uint8 in 0\.\.255 or float in \[0, 1\], got torch\.bool"),
        (torch.ones((1, 3, 4), dtype=torch.complex64), r"got torch\.complex64"),
        ("photo.png", r"expected a tensor or an array of numbers, got str"),
        (None, r"expected a tensor or an array of numbers, got NoneType"),
        (np.array([["a"]]), r"expected a tensor or an array of numbers, got ndarray"),
    ],
)
def test_what_is_no_image_is_refused_in_one_line(images, message):
    with pytest.raises(InputError, match=rf"^images: .*{message}") as caught:
        checked_images(images, (3, 4))
    assert "\n" not in str(caught.value)
