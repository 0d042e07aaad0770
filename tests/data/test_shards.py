"""Shards of the user's own: every form that is allowed is read alike, and whatever is wrong is said in one line."""

import io
import mmap
from contextlib import contextmanager

import numpy as np
import pytest
import torch

import digitsum.data.pixels
from digitsum.data.shards import MemmapImages, SumDataset, open_array, open_shards, open_splits, read_images, read_sums
from digitsum.errors import InputError

RNG = np.random.default_rng(0)
IMAGES = RNG.integers(256, size=(12, 4, 6), dtype=np.uint8)
SUMS = RNG.integers(37, size=12)


@contextmanager
def refused(*words):
    """The block is refused with one line that has all `words`."""
    with pytest.raises(InputError) as caught:
        yield
    assert all(str(word) in str(caught.value) for word in words), caught.value
    assert "\n" not in str(caught.value)


def write(folder, **files):
    """Write each array as `.npy`, bytes as they are; drop what is None."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        path = folder / f"{name}.npy"
        if content is None:
            path.unlink()
        elif isinstance(content, bytes):
            path.write_bytes(content)
        else:
            np.save(path, content)
    return folder


def everything(split):
    """A split's images and sums, read through its index."""
    return split.images.gather(split.index), split.sums[split.index]


def npy(array):
    buffer = io.BytesIO()
    np.save(buffer, array)
    return buffer.getvalue()


# --- what is allowed


@pytest.mark.parametrize("label", ["lab", "label"])
def test_shards_are_joined_in_natural_order(tmp_path, label):
    for number in (10, 2, 0, 1, 11):
        write(tmp_path, **{f"data{number}": np.full((2, 4, 6), number, np.uint8), f"{label}{number}": [number, number]})
    images, sums = everything(open_shards(tmp_path))
    assert sums.tolist() == [0, 0, 1, 1, 2, 2, 10, 10, 11, 11]
    assert torch.equal(images, sums.to(torch.uint8)[:, None, None].expand(-1, 4, 6))


def test_lab_and_label_may_be_mixed_over_shards(tmp_path):
    write(tmp_path, data0=IMAGES, lab0=SUMS, data1=IMAGES, label1=SUMS + 1)
    assert open_shards(tmp_path).sums.tolist() == [*SUMS, *(SUMS + 1)]


def test_other_files_in_the_folder_are_passed_over(tmp_path):
    write(tmp_path, data0=IMAGES, lab0=SUMS, data=SUMS, mydata1=SUMS, data1_old=SUMS, lab=SUMS, weights7=SUMS)
    (tmp_path / "data2.npz").write_text("not ours")
    assert len(open_shards(tmp_path)) == 12


@pytest.mark.parametrize(
    "shape", [(12, 4, 6), (12, 1, 4, 6), (12, 4, 6, 1)], ids=["no channel", "channel first", "channel last"]
)
@pytest.mark.parametrize("dtype", [np.uint8, np.float16, np.float32, np.float64])
def test_images_of_every_allowed_shape_and_dtype_are_read_alike(tmp_path, shape, dtype):
    stored = IMAGES if dtype == np.uint8 else (IMAGES / 255).astype(dtype)
    arrays = open_shards(write(tmp_path, data0=stored.reshape(shape), lab0=SUMS))
    images = arrays.images.gather(torch.tensor([5, 0, 11]))
    assert images.dtype == (torch.uint8 if dtype == np.uint8 else torch.float32)
    assert arrays.images.image_size == (4, 6)
    assert np.array_equal(images.numpy(), stored[[5, 0, 11]].astype(np.uint8 if dtype == np.uint8 else np.float32))


def test_images_stored_by_columns_are_read_alike(tmp_path):
    arrays = open_shards(write(tmp_path, data0=np.asfortranarray(IMAGES), lab0=SUMS))
    assert np.array_equal(arrays.images.gather(torch.arange(12)).numpy(), IMAGES)


@pytest.mark.parametrize("shape", [(12,), (12, 1)])
@pytest.mark.parametrize("dtype", ["u1", "u2", "u8", "i1", "i4", "i8", ">i4", "f2", "f4", "f8", ">f8"])
def test_sums_of_every_allowed_shape_and_dtype_are_read_as_int64(tmp_path, shape, dtype):
    arrays = open_shards(write(tmp_path, data0=IMAGES, lab0=SUMS.astype(dtype).reshape(shape)))
    assert arrays.sums.dtype == torch.int64
    assert arrays.sums.tolist() == SUMS.tolist()


def test_uint8_sums_do_not_wrap(tmp_path):
    write(tmp_path, lab0=np.array([200, 100, 255], np.uint8))
    sums = torch.from_numpy(read_sums(tmp_path / "lab0.npy"))
    assert (sums[0] + sums[1]).item() == 300
    assert (sums[1] - sums[2]).item() == -155


@pytest.mark.parametrize("dtype", [np.uint8, np.float32])
def test_gathering_over_shards_equals_indexing_the_joined_array(tmp_path, dtype):
    stored = IMAGES if dtype == np.uint8 else IMAGES.astype(dtype) / 255
    cuts = {0: stored[:5], 1: stored[5:6], 2: stored[6:]}
    for number, part in cuts.items():
        write(tmp_path, **{f"data{number}": part, f"lab{number}": SUMS[: len(part)]})
    images = open_shards(tmp_path).images
    assert len(images) == 12
    index = torch.tensor([11, 0, 5, 4, 6, 5, 11, 1])  # with repeats, and both sides of each seam
    assert np.array_equal(images.gather(index).numpy(), stored[index])
    assert images.gather(index[:0]).shape == (0, 4, 6)


@pytest.mark.parametrize("parts", [1, 3])
def test_gathered_images_are_copies(parts):
    stored = IMAGES.copy()
    gathered = MemmapImages(np.array_split(stored, parts)).gather(torch.arange(12))
    gathered.zero_()
    assert np.array_equal(stored, IMAGES)


def test_images_are_mapped_read_only(tmp_path):
    array = read_images(write(tmp_path, data0=IMAGES) / "data0.npy")
    assert isinstance(array, np.memmap)
    assert not array.flags.writeable


class Spy:
    """Stands in for an array's map and remembers the parts of the file that it was asked to read ahead."""

    def __init__(self, mapped):
        self._mapped, self.asked = mapped, []

    def madvise(self, advice, start, length):
        assert advice == mmap.MADV_WILLNEED
        self._mapped.madvise(advice, start, length)
        self.asked.append((start, start + length))


@pytest.mark.skipif(not hasattr(mmap, "MADV_WILLNEED"), reason="this operating system takes no advice")
@pytest.mark.parametrize("shape", [(50, 40, 30), (50, 1, 40, 30), (50, 40, 30, 1)])
def test_reading_ahead_asks_for_the_pages_of_the_images_in_every_shard(tmp_path, shape):
    stored = RNG.integers(256, size=(3, *shape), dtype=np.uint8)
    write(tmp_path, **{f"data{number}": images for number, images in enumerate(stored)})
    arrays = [read_images(tmp_path / f"data{number}.npy") for number in range(3)]
    spies = [Spy(array._mmap) for array in arrays]
    for array, spy in zip(arrays, spies, strict=True):
        array._mmap = spy
    MemmapImages(arrays).read_ahead(30, 120)
    wanted = [slice(30, 50), slice(0, 50), slice(0, 20)]
    for number, (spy, rows) in enumerate(zip(spies, wanted, strict=True)):
        ((start, end),) = spy.asked
        assert start % mmap.PAGESIZE == 0
        asked, pixels = (tmp_path / f"data{number}.npy").read_bytes()[start:end], stored[number, rows].tobytes()
        assert asked.endswith(pixels)
        assert len(asked) < len(pixels) + mmap.PAGESIZE
    MemmapImages(arrays[:1]).read_ahead(7, 7)
    assert len(spies[0].asked) == 1


def test_reading_ahead_is_harmless_where_nothing_is_mapped(monkeypatch):
    MemmapImages([IMAGES]).read_ahead(0, 12)
    monkeypatch.setattr("digitsum.data.shards._WILL_NEED", None)
    MemmapImages([IMAGES]).read_ahead(0, 12)


def test_more_shards_are_opened_than_files_may_be_open(tmp_path):
    resource = pytest.importorskip("resource", reason="this operating system has no such limit")
    write(tmp_path, **{f"{kind}{number}": SUMS[:1] for kind in ("lab",) for number in range(200)})
    write(tmp_path, **{f"data{number}": IMAGES[:1] for number in range(200)})
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (150, before[1]))
    try:
        assert len(open_shards(tmp_path)) == 200
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)


@pytest.mark.parametrize("parts", [1, 3, 30])
def test_the_fingerprint_heeds_the_ends_of_every_shard_and_the_sums(parts):
    def fingerprint(images, sums):
        return SumDataset(
            MemmapImages(np.array_split(images, parts)), torch.from_numpy(sums), torch.arange(90)
        ).fingerprint()

    images, sums = RNG.integers(256, size=(90, 4, 6), dtype=np.uint8), np.arange(90)
    seen = {fingerprint(images, sums), fingerprint(images, sums + 1)}
    ends = [row for part in np.array_split(np.arange(90), parts) for row in (part[0], part[-1])]
    for row in ends:
        other = images.copy()
        other[row, 1, 2] += 1
        seen.add(fingerprint(other, sums))
    assert len(seen) == 2 + len(ends)
    assert fingerprint(images, sums) in seen


def test_a_split_knows_the_bytes_of_its_images_as_they_are_gathered():
    for images, size in ((IMAGES, 1), (IMAGES / 255, 4)):
        assert SumDataset(MemmapImages([images]), None, torch.arange(5)).num_bytes == 5 * 4 * 6 * size


def test_a_folder_without_sums_is_opened_where_none_are_needed(tmp_path):
    write(tmp_path, data0=IMAGES, data1=IMAGES[:3])
    arrays = open_shards(tmp_path, need_sums=False)
    assert arrays.sums is None
    assert len(arrays) == 15
    with refused(tmp_path / "data0.npy", "lab0.npy"):
        open_shards(tmp_path)


def test_a_folder_with_some_of_its_sums_is_refused_even_where_none_are_needed(tmp_path):
    write(tmp_path, data0=IMAGES, lab0=SUMS, data1=IMAGES)
    with refused(tmp_path / "data1.npy", "lab1.npy"):
        open_shards(tmp_path, need_sums=False)


def test_float_pixels_of_exactly_0_and_1_are_allowed(tmp_path):
    extremes = np.tile(np.array([[0.0, 1.0, -0.0]]), (2, 4, 1))
    assert np.array_equal(read_images(write(tmp_path, data0=extremes) / "data0.npy"), extremes)


# --- pixels of 0 and 1


@pytest.mark.parametrize("shape", [(12, 4, 6), (12, 1, 4, 6), (12, 4, 6, 1)])
def test_uint8_pixels_of_only_0_and_1_are_refused_with_what_to_do(tmp_path, shape):
    binary = (IMAGES > 127).astype(np.uint8).reshape(shape)
    write(tmp_path, data0=binary, lab0=SUMS, data1=binary, lab1=SUMS)
    for opened in (lambda: open_shards(tmp_path), lambda: open_splits(tmp_path, 0)):
        with refused(tmp_path, "found only 0 and 1; multiply them by 255"):
            opened()
    with refused(tmp_path / "data0.npy", "found only 0 and 1"):
        open_array(tmp_path / "data0.npy")


@pytest.mark.parametrize("where", [0, 2344])
def test_a_single_brighter_pixel_anywhere_makes_them_images(tmp_path, where):
    images = np.ones((2345, 2, 2), np.uint8)
    images[where, 1, 1] = 2
    assert len(open_array(write(tmp_path, data0=images) / "data0.npy")) == 2345


def test_dark_shards_beside_a_bright_one_black_images_and_floats_of_0_and_1_are_allowed(tmp_path):
    binary = (IMAGES > 127).astype(np.uint8)
    assert len(open_shards(write(tmp_path / "one", data0=binary, lab0=SUMS, data1=IMAGES, lab1=SUMS))) == 24
    assert len(open_shards(write(tmp_path / "two", data0=np.zeros_like(IMAGES), lab0=SUMS))) == 12
    assert len(open_shards(write(tmp_path / "three", data0=binary.astype(np.float32), lab0=SUMS))) == 12


def test_the_pixels_of_millions_of_images_are_not_read_to_be_checked(tmp_path, monkeypatch):
    looked_at = []
    monkeypatch.setattr(digitsum.data.pixels, "CHUNK", 5)
    images = SpiedRows(looked_at)
    digitsum.data.pixels.check_brightness(tmp_path, [images, images])
    assert looked_at == [slice(0, 5)]


class SpiedRows:
    """Twelve images that remember which of them were looked at."""

    def __init__(self, looked_at):
        self.looked_at = looked_at

    def __len__(self):
        return len(IMAGES)

    def __getitem__(self, rows):
        self.looked_at.append(rows)
        return IMAGES[rows]


# --- splits


def test_subfolders_are_the_splits(tmp_path):
    for split, count in (("train", 7), ("val", 3), ("test", 2)):
        write(tmp_path / split, data0=IMAGES[:count], lab0=SUMS[:count])
    splits = open_splits(tmp_path, 0)
    assert {split: len(arrays) for split, arrays in splits.items()} == {"train": 7, "val": 3, "test": 2}
    for arrays in splits.values():
        images, sums = everything(arrays)
        assert np.array_equal(images.numpy(), IMAGES[: len(arrays)])
        assert sums.tolist() == SUMS[: len(arrays)].tolist()


@pytest.mark.parametrize(("count", "sizes"), [(10, [8, 1, 1]), (25, [21, 2, 2]), (100, [80, 10, 10])])
def test_a_folder_of_shards_is_split_80_10_10_disjoint_and_complete(tmp_path, count, sizes):
    write(tmp_path, data0=np.zeros((count, 2, 2), np.uint8), lab0=np.arange(count))
    splits = open_splits(tmp_path, 0)
    assert list(splits) == ["train", "val", "test"]
    assert [len(arrays) for arrays in splits.values()] == sizes
    assert sorted(torch.cat([arrays.index for arrays in splits.values()]).tolist()) == list(range(count))
    for arrays in splits.values():
        assert everything(arrays)[1].tolist() == arrays.index.tolist()


def test_the_split_is_fixed_by_its_seed_alone(tmp_path):
    write(tmp_path, data0=np.zeros((100, 2, 2), np.uint8), lab0=np.arange(100))

    def split(seed):
        return [arrays.index.tolist() for arrays in open_splits(tmp_path, seed).values()]

    first = split(3)
    torch.manual_seed(1)
    assert split(3) == first
    assert split(4) != first
    assert first[1] != list(range(10))  # drawn at random, not cut off


# --- what is refused

PIXELS = IMAGES / 255


def with_pixel(value):
    images = PIXELS.copy()
    images[7, 2, 3] = value
    return images


def with_sum(value, dtype=np.float64):
    sums = SUMS.astype(dtype)
    sums[7] = value
    return sums


# what is changed in a good folder of two shards, and what the message must name
BAD = {
    "no shards": ({"data0": None, "data1": None, "lab0": None, "lab1": None}, []),
    "labels alone": ({"data0": None, "data1": None}, []),
    "images without sums": ({"lab1": None}, ["data1.npy", "lab1.npy"]),
    "sums without images": ({"data1": None}, ["lab1.npy", "data1.npy"]),
    "lab and label": ({"label1": SUMS}, ["lab1.npy", "label1.npy"]),
    "two spellings of one number": ({"data01": IMAGES}, ["data01.npy", "data1.npy"]),
    "fewer sums than images": ({"lab1": SUMS[:-1]}, ["lab1.npy", "12", "11"]),
    "fewer images than sums": ({"data1": IMAGES[:-1]}, ["lab1.npy", "11", "12"]),
    "images without width": ({"data1": IMAGES[:, 0]}, ["data1.npy"]),
    "one image": ({"data1": IMAGES[0]}, ["data1.npy"]),
    "one number for images": ({"data1": np.uint8(3)}, ["data1.npy"]),
    "images in colour": ({"data1": np.stack([IMAGES] * 3, axis=-1)}, ["data1.npy"]),
    "images of five dimensions": ({"data1": IMAGES[:, None, None]}, ["data1.npy"]),
    "another height": ({"data1": IMAGES[:, :-1]}, ["data1.npy", "4x6", "3x6"]),
    "another width": ({"data1": IMAGES[:, :, :-1]}, ["data1.npy", "4x6", "4x5"]),
    "transposed": ({"data1": IMAGES.swapaxes(1, 2)}, ["data1.npy", "4x6", "6x4"]),
    "no images": ({"data1": IMAGES[:0], "lab1": SUMS[:0]}, ["data1.npy"]),
    "int32 pixels": ({"data1": IMAGES.astype(np.int32)}, ["data1.npy", "int32"]),
    "uint16 pixels": ({"data1": IMAGES.astype(np.uint16)}, ["data1.npy", "uint16"]),
    "true and false pixels": ({"data1": IMAGES > 127}, ["data1.npy", "bool"]),
    "complex pixels": ({"data1": PIXELS.astype(complex)}, ["data1.npy", "complex"]),
    "text for pixels": ({"data1": IMAGES.astype(str)}, ["data1.npy"]),
    "uint8, then float": ({"data1": PIXELS}, ["data1.npy", "uint8", "float64"]),
    "float, then uint8": ({"data0": PIXELS}, ["data1.npy", "uint8", "float64"]),
    "float32, then float64": ({"data0": PIXELS.astype("f4"), "data1": PIXELS}, ["data1.npy", "float32", "float64"]),
    "float16, then float32": ({"data0": PIXELS.astype("f2"), "data1": PIXELS.astype("f4")}, ["data1.npy", "float16"]),
    "pixels up to 255 as float": ({"data0": PIXELS, "data1": IMAGES.astype(float)}, ["data1.npy", "image 0"]),
    "a pixel that is not a number": ({"data0": PIXELS, "data1": with_pixel(np.nan)}, ["data1.npy", "image 7"]),
    "an infinite pixel": ({"data0": PIXELS, "data1": with_pixel(np.inf)}, ["data1.npy", "image 7"]),
    "a pixel just above 1": ({"data0": PIXELS, "data1": with_pixel(1.001)}, ["data1.npy", "image 7"]),
    "a negative pixel": ({"data0": PIXELS, "data1": with_pixel(-0.001)}, ["data1.npy", "image 7"]),
    "sums of two dimensions": ({"lab1": np.stack([SUMS, SUMS], axis=1)}, ["lab1.npy"]),
    "one row of sums": ({"lab1": SUMS[None]}, ["lab1.npy"]),
    "one number for sums": ({"lab1": 7}, ["lab1.npy"]),
    "a negative sum": ({"lab1": with_sum(-1, np.int64)}, ["lab1.npy", "-1", "row 7"]),
    "a negative int8 sum": ({"lab1": with_sum(-1, np.int8)}, ["lab1.npy", "-1", "row 7"]),
    "a sum that is not a number": ({"lab1": with_sum(np.nan)}, ["lab1.npy", "nan", "row 7"]),
    "an infinite sum": ({"lab1": with_sum(np.inf)}, ["lab1.npy", "inf", "row 7"]),
    "an infinite float16 sum": ({"lab1": with_sum(np.inf, np.float16)}, ["lab1.npy", "inf", "row 7"]),
    "a sum that is not whole": ({"lab1": with_sum(17.5)}, ["lab1.npy", "17.5", "row 7"]),
    "a sum beyond int64": ({"lab1": with_sum(2**63, np.uint64)}, ["lab1.npy", str(2**63), "row 7"]),
    "text for sums": ({"lab1": SUMS.astype(str)}, ["lab1.npy"]),
    "true and false for sums": ({"lab1": SUMS > 9}, ["lab1.npy", "bool"]),
    "complex sums": ({"lab1": SUMS.astype(complex)}, ["lab1.npy", "complex"]),
    "dates for sums": ({"lab1": SUMS.astype("M8[s]")}, ["lab1.npy"]),
    "objects for images": ({"data1": np.array([IMAGES[0], None], object)}, ["data1.npy"]),
    "objects for sums": ({"lab1": np.array([17, None], object)}, ["lab1.npy"]),
    "images cut short": ({"data1": npy(IMAGES)[:-1]}, ["data1.npy"]),
    "images cut in the header": ({"data1": npy(IMAGES)[:50]}, ["data1.npy"]),
    "sums cut short": ({"lab1": npy(SUMS)[:-1]}, ["lab1.npy"]),
    "empty file for images": ({"data1": b""}, ["data1.npy"]),
    "empty file for sums": ({"lab1": b""}, ["lab1.npy"]),
    "another format for images": ({"data1": b"PK\x03\x04 and so on"}, ["data1.npy"]),
    "another format for sums": ({"lab1": b"17\n18\n"}, ["lab1.npy"]),
}


@pytest.fixture
def good(tmp_path):
    return write(tmp_path / "mine", data0=IMAGES, lab0=SUMS, data1=IMAGES, lab1=SUMS)


@pytest.mark.parametrize(("changes", "words"), BAD.values(), ids=BAD)
def test_a_bad_folder_is_refused_with_what_is_wrong_and_where(good, changes, words):
    write(good, **changes)
    with refused(good, *words):
        open_splits(good, 0)


def test_the_folder_that_the_bad_ones_differ_from_is_good(good):
    assert len(open_shards(good)) == 24


@pytest.mark.parametrize("split", ["train", "val", "test"])
@pytest.mark.parametrize(
    ("changes", "words"), [({"lab1": SUMS[:-1]}, ["lab1.npy"]), ({"data1": IMAGES[0, 0]}, ["data1"])]
)
def test_a_bad_subfolder_is_refused_with_its_name(good, tmp_path, split, changes, words):
    for name in ("train", "val", "test"):
        write(tmp_path / "sets" / name, data0=IMAGES, lab0=SUMS, data1=IMAGES, lab1=SUMS)
    write(tmp_path / "sets" / split, **changes)
    with refused(tmp_path / "sets" / split, *words):
        open_splits(tmp_path / "sets", 0)


@pytest.mark.parametrize("missing", ["train", "val", "test"])
def test_a_missing_subfolder_is_refused_by_its_name(tmp_path, missing):
    for name in {"train", "val", "test"} - {missing}:
        write(tmp_path / name, data0=IMAGES, lab0=SUMS)
    with refused(tmp_path, f"no {missing}"):
        open_splits(tmp_path, 0)


def test_an_empty_subfolder_is_refused_by_its_name(tmp_path):
    for name in ("train", "val"):
        write(tmp_path / name, data0=IMAGES, lab0=SUMS)
    (tmp_path / "test").mkdir()
    with refused(tmp_path / "test", "found none"):
        open_splits(tmp_path, 0)


@pytest.mark.parametrize("other", ["val", "test"])
def test_subfolders_with_other_image_sizes_are_refused(tmp_path, other):
    for name in ("train", "val", "test"):
        write(tmp_path / name, data0=IMAGES[:, : 3 if name == other else 4], lab0=SUMS)
    with refused(tmp_path / other, "4x6", "3x6"):
        open_splits(tmp_path, 0)


def test_fewer_than_ten_images_to_split_are_refused(tmp_path):
    write(tmp_path, data0=IMAGES[:5], lab0=SUMS[:5], data1=IMAGES[:4], lab1=SUMS[:4])
    with refused(tmp_path, "at least 10", "9"):
        open_splits(tmp_path, 0)


def test_a_missing_folder_and_a_file_in_its_place_are_refused(tmp_path):
    (tmp_path / "file").write_text("notes")
    with refused(tmp_path / "none", "found nothing"):
        open_splits(tmp_path / "none", 0)
    with refused(tmp_path / "file", "found a file"):
        open_splits(tmp_path / "file", 0)
    for name in ("none", "file"):
        with refused(tmp_path / name):
            open_shards(tmp_path / name)


@pytest.mark.parametrize("dtype", [np.dtype("f4").newbyteorder("S"), np.dtype("longdouble")], ids=["swapped", "long"])
def test_float_pixels_of_a_type_that_pytorch_lacks_are_refused(tmp_path, dtype):
    if dtype == np.float64:
        pytest.skip("on this machine a long double is a double")
    with refused("data0.npy"):
        open_shards(write(tmp_path, data0=PIXELS.astype(dtype), lab0=SUMS))


def test_a_folder_with_the_name_of_a_shard_is_refused(good):
    (good / "data2.npy").mkdir()
    write(good, lab2=SUMS)
    with refused(good / "data2.npy"):
        open_shards(good)


def test_bad_float_pixels_beyond_the_first_thousand_images_are_found(tmp_path):
    images = np.zeros((2345, 2, 2), np.float32)
    images[2344, 1, 1] = 2
    with refused("data0.npy", "image 2344"):
        read_images(write(tmp_path, data0=images) / "data0.npy")
