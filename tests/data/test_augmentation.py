"""Augmented images: how far each setting goes, that each image gets its own, and that the seed fixes all of it."""

from dataclasses import fields

import pytest
import torch
import torch.nn.functional as F

from digitsum.data.augmentation import Augmentation
from digitsum.errors import InputError

HEIGHT, WIDTH = 40, 168
RECIPE = {"scale": 0.1, "shear": 0.2, "shift": 2.0, "elastic": 1.2}  # conf/experiment/reader.yaml
PICTURES = {"stroke": 0.8, "blur": 1.0, "noise": 0.1}  # conf/experiment/reader_pictures.yaml has these, too


@pytest.fixture
def images():
    return torch.randint(0, 256, (5, HEIGHT, WIDTH), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


def augmented(images, seed=0, **settings):
    torch.manual_seed(seed)
    return Augmentation(**settings)(images)


def copies(image, count=200):
    return image.expand(count, -1, -1)


def spot():
    """A spot in the middle of an image."""
    image = torch.zeros(HEIGHT, WIDTH)
    image[18:22, 82:86] = 1
    return image


def centre(images, axis):
    """Centres of mass in pixels, along the last axis or the last but one."""
    mass = images.sum(-1 if axis == -2 else -2)
    return (mass * torch.arange(mass.shape[-1])).sum(-1) / mass.sum(-1)


def test_no_settings_change_nothing_and_are_false(images):
    assert not Augmentation()
    assert torch.allclose(augmented(images), images.float() / 255, atol=1e-4)


@pytest.mark.parametrize("size", [(1, 1), (3, 5), (28, 28), (41, 77)])
def test_images_of_any_size_keep_it_and_their_pixels(size):
    images = torch.rand(2, *size)
    assert torch.allclose(augmented(images), images, atol=1e-4)
    assert augmented(images, **RECIPE).shape == (2, *size)


@pytest.mark.parametrize("name", [*RECIPE, *PICTURES])
def test_each_setting_alone_is_true_and_distorts_each_image_by_itself(images, name):
    settings = {name: (RECIPE | PICTURES)[name]}
    assert Augmentation(**settings)
    results = augmented(copies(images[0], 20), **settings)
    assert not torch.allclose(results[0], images[0] / 255, atol=1e-2)
    differences = (results[:, None] - results).abs().amax((2, 3))
    alike = (differences + torch.eye(20) <= 1e-4).sum() / 2
    assert alike <= (10 if name == "blur" else 0), "but two that are hardly blurred"


def test_a_shift_moves_by_at_most_so_many_pixels_in_each_direction():
    image = spot()
    results = augmented(copies(image), shift=3)
    for axis in (-1, -2):
        moved = centre(results, axis) - centre(image, axis)
        assert moved.abs().max() <= 3 + 1e-3
        assert moved.min() < -2.7
        assert moved.max() > 2.7
    assert torch.allclose(results.sum((1, 2)), image.sum(), rtol=1e-3)


def test_both_directions_are_shifted_independently():
    results = augmented(copies(spot()), shift=3)
    sideways, up = (centre(results, axis) for axis in (-1, -2))
    assert torch.corrcoef(torch.stack([sideways, up]))[0, 1].abs() < 0.2


def test_a_scale_shrinks_and_grows_by_at_most_its_share():
    image = torch.zeros(HEIGHT, WIDTH)
    image[:, 134:136] = image[:, 32:34] = 1  # two lines, as far from the middle
    results = augmented(copies(image), scale=0.1)
    right, left = results.clone(), results.clone()
    right[:, :, :84], left[:, :, 84:] = 0, 0
    ratio = (centre(right, -1) - centre(left, -1)) / 102
    assert ratio.min() >= 1 / 1.1 - 1e-2
    assert ratio.max() <= 1 / 0.9 + 1e-2
    assert ratio.min() < 0.93
    assert ratio.max() > 1.08


def test_height_and_width_are_scaled_each_by_itself():
    image = torch.zeros(HEIGHT, WIDTH)
    image[10:30, 60:108] = 1
    results = augmented(copies(image), scale=0.1)
    width, height = results[:, 20].sum(1), results[:, :, 84].sum(1)
    assert torch.corrcoef(torch.stack([width, height]))[0, 1].abs() < 0.2


def test_shear_leans_by_so_many_pixels_for_each_pixel_of_height():
    image = torch.zeros(HEIGHT, WIDTH)
    image[:, 83:85] = 1
    results = augmented(copies(image), shear=0.2)
    rows = (results * torch.arange(WIDTH)).sum(2) / results.sum(2)  # where the line is in each row
    lean = (rows[:, -1] - rows[:, 0]) / (HEIGHT - 1)
    assert lean.abs().max() <= 0.2 + 1e-3
    assert lean.min() < -0.18
    assert lean.max() > 0.18
    straight = torch.linspace(0, 1, HEIGHT) * (rows[:, -1:] - rows[:, :1]) + rows[:, :1]
    assert torch.allclose(rows, straight, atol=0.05)


def test_elastic_moves_points_by_about_its_deviation():
    ramp = (torch.arange(WIDTH) + 0.5).expand(HEIGHT, -1) / WIDTH
    results = augmented(copies(ramp), elastic=1.2)
    moved = (results - ramp)[:, 8:-8, 16:-16] * WIDTH  # a ramp says of each pixel where it comes from
    assert 0.6 < moved.std() < 1.3
    assert moved.mean().abs() < 0.1


def test_a_smaller_elastic_spacing_distorts_more_locally():
    ramp = (torch.arange(WIDTH) + 0.5).expand(HEIGHT, -1) / WIDTH

    def likeness(spacing):
        moved = augmented(copies(ramp), elastic=1.2, elastic_spacing=spacing) - ramp
        here, there = moved[:, 20, 60], moved[:, 20, 70]
        return torch.corrcoef(torch.stack([here, there]))[0, 1]

    assert likeness(40) > 0.6 > 0.3 > likeness(7)


def test_values_stay_between_0_and_1():
    images = torch.rand((50, HEIGHT, WIDTH), generator=torch.Generator().manual_seed(0)).round()
    results = augmented(images, scale=0.5, shear=1, shift=20, elastic=5)
    assert results.dtype == torch.float32
    assert results.min() >= 0
    assert results.max() <= 1 + 1e-6


def test_what_moves_in_is_black():
    results = augmented(torch.ones(50, HEIGHT, WIDTH), shift=10)
    assert results[:, 12:-12, 12:-12].min() > 0.999
    assert results[:, 0, 0].min() == 0


def test_uint8_and_float_images_agree(images):
    assert torch.equal(augmented(images, **RECIPE), augmented(images.float() / 255, **RECIPE))


def test_the_images_given_are_left_alone(images):
    floats = images.float() / 255
    before = floats.clone()
    augmented(floats, **RECIPE)
    assert torch.equal(floats, before)


def test_the_seed_decides(images):
    assert torch.equal(augmented(images, seed=1, **RECIPE), augmented(images, seed=1, **RECIPE))
    assert not torch.equal(augmented(images, seed=1, **RECIPE), augmented(images, seed=2, **RECIPE))


def test_each_call_is_another_augmentation(images):
    augment = Augmentation(**RECIPE)
    assert not torch.equal(augment(images), augment(images))


def test_over_the_second_half_of_a_training_distortions_shrink_to_their_final_share():
    augment = Augmentation(**RECIPE, **PICTURES, elastic_spacing=9, final=0.4)
    for progress, share in ((0, 1), (0.5, 1), (0.75, 0.7), (1, 0.4)):
        then = augment.at(progress)
        assert {name: getattr(then, name) for name in RECIPE | PICTURES} == pytest.approx(
            {name: share * value for name, value in (RECIPE | PICTURES).items()}
        )
        assert (then.elastic_spacing, then.final) == (9, 1.0)
    assert Augmentation(**RECIPE, final=0.0).at(1)(torch.ones(1, 5, 5)).allclose(torch.ones(1, 5, 5))
    assert not Augmentation(final=0.4)


@pytest.mark.parametrize("name", [entry.name for entry in fields(Augmentation)])
@pytest.mark.parametrize("value", [-0.1, float("nan"), float("inf")])
def test_a_value_out_of_range_is_refused_by_its_name(name, value):
    with pytest.raises(InputError, match=f"^augmentation.{name}: expected .*, got {value}$"):
        Augmentation(**{name: value})


@pytest.mark.parametrize(("name", "value"), [("scale", 1.0), ("elastic_spacing", 0), ("final", 1.5)])
def test_a_value_beyond_its_own_bound_is_refused(name, value):
    with pytest.raises(InputError, match=f"^augmentation.{name}: expected .*, got {value}$"):
        Augmentation(**{name: value})


def test_strokes_grow_by_up_to_a_share_of_a_pixel_and_shrink_by_half_of_that():
    image = torch.zeros(HEIGHT, WIDTH)
    image[:, 80:84] = 1
    widths = augmented(copies(image), stroke=1.0).sum(2)[:, 20]
    assert 2.9 < widths.min() < 3.2
    assert 5.8 < widths.max() < 6.1


@pytest.mark.parametrize("size", [(5, 7), (1, 4), (3, 1)])
def test_a_stroke_grows_towards_the_brightest_neighbour_and_shrinks_towards_the_darkest(size):
    image = torch.rand(size, generator=torch.Generator().manual_seed(0))
    brightest, darkest = (sign * F.max_pool2d(sign * image[None], 3, 1, 1)[0] for sign in (1, -1))
    results = augmented(copies(image), stroke=1.0)
    for result in results:
        end = brightest if result.sum() > image.sum() else darkest
        share = (result.sum() - image.sum()) / (end.sum() - image.sum())
        assert torch.allclose(result, image.lerp(end, share), atol=1e-4)
    assert results.sum((1, 2)).min() < image.sum() < results.sum((1, 2)).max()


def test_a_blur_is_of_a_strength_of_its_own_on_each_image_and_keeps_the_brightest():
    image = torch.zeros(HEIGHT, WIDTH)
    image[18:22, 60:64] = 1
    results = augmented(copies(image), blur=2.0)
    assert results.amax((1, 2)) == pytest.approx(1, abs=1e-5)
    widths = (results[:, 20] > 0.5).sum(1)
    assert widths.min() == 4
    assert widths.max() > 5
    assert results[:, 19:21, 61:63].mean() > results[:, 18, 60].mean(), "the middle is brightest"


def test_a_blank_image_stays_blank_when_blurred():
    assert augmented(torch.zeros(3, HEIGHT, WIDTH), blur=2.0).abs().max() == 0


def test_noise_is_of_a_strength_of_its_own_on_each_image_and_stays_in_range():
    results = augmented(torch.full((200, HEIGHT, WIDTH), 0.5), noise=0.1)
    strengths = results.std((1, 2))
    assert strengths.min() < 0.01
    assert 0.09 < strengths.max() < 0.11
    assert results.min() >= 0
    assert results.max() <= 1


@pytest.mark.parametrize("settings", [{"stroke": 1.5}, {"blur": 2.5}, {"noise": 2.0}, {"noise": -1.0}])
def test_a_setting_for_pictures_out_of_range_is_refused(settings):
    (name,) = settings
    with pytest.raises(InputError, match=rf"^augmentation\.{name}: expected"):
        Augmentation(**settings)
