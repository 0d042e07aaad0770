"""Glyphs have one form whatever their source, and the pools of a split share none."""

import os
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest

from digitsum.data.glyphs import GLYPH_SIZE, SPLITS, load_glyph_pools
from digitsum.errors import InputError

MNIST_FILES = ("train-images-idx3-ubyte", "train-labels-idx1-ubyte", "t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte")
# how often each digit is among the 60,000 training and the 10,000 test digits, as published
MNIST_TRAIN_COUNTS = [5923, 6742, 5958, 6131, 5842, 5421, 5918, 6265, 5851, 5949]
MNIST_TEST_COUNTS = [980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009]


@contextmanager
def refused(*words):
    """The block is refused with one line that has all `words`."""
    with pytest.raises(InputError) as caught:
        yield
    assert all(str(word) in str(caught.value) for word in words), caught.value
    assert "\n" not in str(caught.value)


def joined(pools):
    """Images, labels and index of all pools, in the order of the source."""
    order = np.argsort(np.concatenate([pool.index for pool in pools.values()]))
    return [
        np.concatenate([getattr(pool, name) for pool in pools.values()])[order]
        for name in ("images", "labels", "index")
    ]


def assert_disjoint(pools):
    seen = np.concatenate([pool.index for pool in pools.values()])
    assert len(np.unique(seen)) == len(seen)


@pytest.fixture(scope="module")
def bundled():
    return load_glyph_pools("bundled")


@pytest.fixture(scope="module")
def mnist_root():
    root = os.environ.get("DIGITSUM_MNIST")
    if not root:
        pytest.skip("needs MNIST: set DIGITSUM_MNIST to the folder that holds MNIST/raw")
    return root


@pytest.fixture(scope="module")
def mnist(mnist_root):
    return load_glyph_pools("mnist", mnist_root=mnist_root)


# --- bundled


def test_bundled_glyphs_are_1797_split_80_10_10(bundled):
    assert {split: len(pool.labels) for split, pool in bundled.items()} == {"train": 1439, "val": 179, "test": 179}
    assert tuple(bundled) == SPLITS


def test_bundled_glyphs_are_28x28_uint8_with_int64_labels(bundled):
    for pool in bundled.values():
        assert pool.images.shape == (len(pool.labels), GLYPH_SIZE, GLYPH_SIZE)
        assert (pool.images.dtype, pool.labels.dtype, pool.index.dtype) == (np.uint8, np.int64, np.int64)


def test_bundled_pools_are_disjoint_and_complete(bundled):
    assert_disjoint(bundled)
    assert np.array_equal(joined(bundled)[2], np.arange(1797))


def test_bundled_labels_are_those_of_the_source(bundled):
    from sklearn.datasets import load_digits

    assert np.array_equal(joined(bundled)[1], load_digits().target)


def test_bundled_glyphs_are_bright_strokes_on_a_background_of_exactly_0(bundled):
    images = joined(bundled)[0]
    assert images[:, [0, 0, -1, -1], [0, -1, 0, -1]].max() == 0
    assert (images == 0).mean((1, 2)).min() > 0.5
    assert images.max((1, 2)).min() >= 200


def test_bundled_ink_is_centred_on_its_tile(bundled):
    images = joined(bundled)[0].astype(float)
    places = np.arange(GLYPH_SIZE) + 0.5
    for axis in (1, 2):
        centres = (images.sum(3 - axis) * places).sum(1) / images.sum((1, 2))
        assert np.abs(centres - GLYPH_SIZE / 2).max() < 0.5


def test_bundled_ink_fits_a_box_of_about_20_pixels(bundled):
    ink = joined(bundled)[0] > 76  # three tenths of full ink

    def extent(profile):
        return GLYPH_SIZE - profile.argmax(1) - profile[:, ::-1].argmax(1)

    sides = np.maximum(extent(ink.any(2)), extent(ink.any(1)))
    assert sides.min() >= 19
    assert sides.max() <= 21


def test_bundled_glyphs_look_like_their_neighbours_of_the_same_label(bundled):
    train, test = bundled["train"], bundled["test"]
    known, asked = (pool.images.reshape(len(pool.images), -1).astype(np.float32) for pool in (train, test))
    distances = (known**2).sum(1) - 2 * asked @ known.T
    assert (train.labels[distances.argmin(1)] == test.labels).mean() > 0.95


def test_pools_are_the_same_each_time(bundled):
    for split, pool in load_glyph_pools("bundled").items():
        assert np.array_equal(pool.index, bundled[split].index)
        assert np.array_equal(pool.images, bundled[split].images)


def test_shared_pools_are_one_and_hold_everything(bundled):
    pools = load_glyph_pools("bundled", shared=True)
    assert tuple(pools) == SPLITS
    for pool in pools.values():
        assert np.array_equal(pool.index, np.arange(1797))
        assert np.array_equal(pool.images, joined(bundled)[0])


# --- the user's own


@pytest.fixture
def own(tmp_path):
    """Write glyphs and labels, and load them as pools."""

    def load(images, labels, **options):
        np.save(tmp_path / "ink.npy", images)
        np.save(tmp_path / "digits.npy", labels)
        paths = {"glyph_images": str(tmp_path / "ink.npy"), "glyph_labels": str(tmp_path / "digits.npy")}
        return load_glyph_pools("arrays", **(paths | options))

    return load


def some_glyphs(count=30):
    rng = np.random.default_rng(0)
    return rng.integers(256, size=(count, 28, 28), dtype=np.uint8), np.arange(count) % 10


@pytest.mark.parametrize("dtype", [np.uint8, np.int64, np.float32, ">i4"])
def test_own_glyphs_are_split_80_10_10_and_keep_their_labels(own, dtype):
    images, labels = some_glyphs()
    pools = own(images, labels.astype(dtype))
    assert {split: len(pool.labels) for split, pool in pools.items()} == {"train": 24, "val": 3, "test": 3}
    assert_disjoint(pools)
    for pool in pools.values():
        assert np.array_equal(pool.images, images[pool.index])
        assert np.array_equal(pool.labels, labels[pool.index])
        assert pool.labels.dtype == np.int64


def test_few_own_glyphs_can_be_shared_but_not_split(own):
    images, labels = some_glyphs(9)
    assert all(len(pool.labels) == 9 for pool in own(images, labels, shared=True).values())
    with refused("ink.npy", "at least 10", "9"):
        own(images, labels)


IMAGES, LABELS = some_glyphs()


@pytest.mark.parametrize(
    ("images", "labels", "culprit"),
    [
        (IMAGES.astype(np.float32) / 255, LABELS, "ink.npy"),
        (IMAGES.astype(np.int32), LABELS, "ink.npy"),
        (IMAGES[:, :20], LABELS, "ink.npy"),
        (IMAGES[:, None], LABELS, "ink.npy"),
        (IMAGES.reshape(30, -1), LABELS, "ink.npy"),
        (IMAGES[0, 0, 0], LABELS, "ink.npy"),
        ((IMAGES > 127).astype(np.uint8), LABELS, "ink.npy"),
        (IMAGES[:0], LABELS[:0], "ink.npy"),
        (IMAGES, LABELS[:-1], "digits.npy"),
        (IMAGES, LABELS[:, None], "digits.npy"),
        (IMAGES, LABELS + 1, "digits.npy"),
        (IMAGES, LABELS - 1, "digits.npy"),
        (IMAGES, LABELS + 0.5, "digits.npy"),
        (IMAGES, np.where(LABELS == 3, np.nan, LABELS), "digits.npy"),
        (IMAGES, LABELS > 4, "digits.npy"),
        (IMAGES, LABELS.astype(str), "digits.npy"),
        (IMAGES, np.array([{}] * 30), "digits.npy"),
    ],
    ids=[
        "float ink",
        "int32 ink",
        "not square",
        "a channel",
        "flat",
        "one number",
        "ink of 1",
        "none",
        "too few labels",
        "a column of labels",
        "a label of 10",
        "a label of -1",
        "half a digit",
        "not a number",
        "true and false",
        "text",
        "objects",
    ],
)
def test_own_glyphs_that_are_wrong_are_refused(own, images, labels, culprit):
    with refused(culprit):
        own(images, labels)


@pytest.mark.parametrize("missing", ["glyph_images", "glyph_labels"])
def test_own_glyphs_need_both_files(own, tmp_path, missing):
    with refused("data.glyph_images", "data.glyph_labels"):
        own(IMAGES, LABELS, **{missing: None})
    with refused("none.npy"):
        own(IMAGES, LABELS, **{missing: str(tmp_path / "none.npy")})


def test_an_unknown_source_is_refused_with_the_known_ones():
    with refused("data.glyphs", "bundled, mnist or arrays", "fonts"):
        load_glyph_pools("fonts")


# --- MNIST


def test_mnist_pools_are_55000_5000_and_10000(mnist):
    assert {split: len(pool.labels) for split, pool in mnist.items()} == {"train": 55000, "val": 5000, "test": 10000}
    assert tuple(mnist) == SPLITS


def test_mnist_pools_share_no_glyph(mnist):
    assert_disjoint(mnist)
    drawings = [image.tobytes() for pool in mnist.values() for image in pool.images]
    assert len(set(drawings)) == 70_000


def test_mnist_counts_its_test_digits_from_60000_and_tests_on_them_alone(mnist):
    assert np.array_equal(mnist["test"].index, np.arange(60_000, 70_000))


def test_mnist_glyphs_are_those_of_the_files_unchanged(mnist, mnist_root):
    raw = Path(mnist_root, "MNIST", "raw")
    images, labels = (
        np.concatenate(
            [np.frombuffer((raw / name).read_bytes(), np.uint8, offset=skip) for name in MNIST_FILES[kind::2]]
        )
        for kind, skip in ((0, 16), (1, 8))
    )
    loaded_images, loaded_labels, _ = joined(mnist)
    assert np.array_equal(loaded_images, images.reshape(-1, 28, 28))
    assert np.array_equal(loaded_labels, labels)


def test_mnist_digits_come_as_often_as_published(mnist):
    assert np.bincount(mnist["test"].labels).tolist() == MNIST_TEST_COUNTS
    training = np.concatenate([mnist["train"].labels, mnist["val"].labels])
    assert np.bincount(training).tolist() == MNIST_TRAIN_COUNTS


def test_shared_mnist_is_its_60000_training_digits(mnist_root):
    for pool in load_glyph_pools("mnist", mnist_root=mnist_root, shared=True).values():
        assert np.array_equal(pool.index, np.arange(60_000))
        assert np.bincount(pool.labels).tolist() == MNIST_TRAIN_COUNTS


def test_missing_mnist_is_refused_with_how_to_get_it_and_makes_no_folder(tmp_path):
    with refused(tmp_path, "data.mnist_root", "data.download=true"):
        load_glyph_pools("mnist", mnist_root=str(tmp_path))
    assert list(tmp_path.iterdir()) == []


def test_mnist_without_a_folder_is_refused_with_how_to_name_it():
    with refused("data.mnist_root"):
        load_glyph_pools("mnist")


def changed(content, place):
    damaged = bytearray(content)
    damaged[place] ^= 1
    return bytes(damaged)


@pytest.mark.parametrize(
    ("name", "damage"),
    [
        ("t10k-images-idx3-ubyte", lambda content: changed(content, -400)),
        ("t10k-labels-idx1-ubyte", lambda content: changed(content, 100)),
        ("t10k-labels-idx1-ubyte", lambda content: changed(content, 2)),
        ("t10k-images-idx3-ubyte", lambda content: changed(content, 7)),
        ("t10k-images-idx3-ubyte", lambda content: content[:-400]),
        ("t10k-labels-idx1-ubyte", lambda content: content[:6]),
        ("t10k-images-idx3-ubyte", lambda content: b""),
    ],
    ids=["a pixel", "a label", "the type", "the count", "cut short", "cut in the header", "empty"],
)
def test_a_damaged_mnist_file_is_refused(tmp_path, mnist_root, name, damage):
    folder = tmp_path / "MNIST" / "raw"
    folder.mkdir(parents=True)
    for file in MNIST_FILES:
        (folder / file).symlink_to(Path(mnist_root, "MNIST", "raw", file).resolve())
    content = (folder / name).read_bytes()
    (folder / name).unlink()
    (folder / name).write_bytes(damage(content))
    with refused(tmp_path, "delete it"):
        load_glyph_pools("mnist", mnist_root=str(tmp_path))
