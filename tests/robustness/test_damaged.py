"""Files that are damaged, are something else or claim absurd things: the right answer or one line, and soon.

The property tests take a file that is read without complaint and cut it, flip bits, overwrite, insert and append bytes.
"""

import io
import json
import os
import shutil
import struct
import tracemalloc
import zipfile
import zlib
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import predict
import pytest
import safetensors.torch
import torch
import train
import yaml
from conftest import ROOT, TINY
from hydra import compose, initialize_config_dir
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from digitsum.cli.predict import open_input
from digitsum.cli.resume_config import recorded_config
from digitsum.data.composed import Composition, cached_dataset, write_dataset
from digitsum.data.datamodule import ArraysData, SumDataModule, data_of
from digitsum.data.glyphs import load_glyph_pools
from digitsum.data.pictures import find_pictures, read_picture, read_rows
from digitsum.data.shards import open_shards, open_splits, read_images, read_sums
from digitsum.errors import InputError
from digitsum.files import read_json, read_npy
from digitsum.models.checkpoints import load_model, save_safetensors
from digitsum.runs.locate import newest_run, read_config

RNG = np.random.default_rng(0)
IMAGES = RNG.integers(0, 256, (12, 6, 7), dtype=np.uint8)
GLYPHS = RNG.integers(0, 256, (20, 28, 28), dtype=np.uint8)
LABELS = np.arange(20, dtype=np.uint8) % 10
SIZE = (40, 168)


def npy(array):
    buffer = io.BytesIO()
    np.save(buffer, array)
    return buffer.getvalue()


def claiming(shape, descr="'|u1'"):
    """A .npy file of 200 bytes with a header that claims `shape`."""
    header = f"{{'descr': {descr}, 'fortran_order': False, 'shape': {shape}, }}".ljust(117) + "\n"
    return (b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header.encode()).ljust(200, b"\0")


def png(width, height, *more):
    """A PNG that claims a size, with further chunks before its few bytes of data."""

    def chunk(kind, content):
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0))
    body = b"".join(chunk(kind, content) for kind, content in more)
    return b"\x89PNG\r\n\x1a\n" + header + body + chunk(b"IDAT", zlib.compress(bytes(5000))) + chunk(b"IEND", b"")


def picture(kind):
    buffer = io.BytesIO()
    Image.fromarray(RNG.integers(0, 100, (30, 50), dtype=np.uint8)).save(buffer, kind)
    return buffer.getvalue()


PICTURES = {kind: picture(kind) for kind in ("png", "jpeg", "bmp", "tiff", "gif", "webp", "ppm", "avif")}


@contextmanager
def refused(name, words=""):
    """The block is refused with one line that has `name` and `words`."""
    with pytest.raises(InputError) as caught:
        yield
    assert str(name) in str(caught.value)
    assert words in str(caught.value)
    assert len(str(caught.value).splitlines()) == 1


@contextmanager
def little_memory(megabytes=100):
    """The block takes little memory, both what Python counts and, on Linux, what the process really had at its peak."""
    clear, status = Path("/proc/self/clear_refs"), Path("/proc/self/status")

    def kilobytes(field):
        return int(next(line for line in status.read_text().splitlines() if line.startswith(field)).split()[1])

    if clear.exists():
        clear.write_text("5")  # forget the peak
        before = kilobytes("VmRSS")
    tracemalloc.start()
    try:
        yield
    finally:
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
    assert peak < megabytes * 1e6
    if clear.exists():
        assert kilobytes("VmHWM") - before < megabytes * 1e3


def outcome(path, call):
    """What `call` makes of a file, or None where it is refused with one line that names the file."""
    try:
        return call()
    except InputError as error:
        refusal = str(error)
    assert Path(path).name in refusal
    assert len(refusal.splitlines()) == 1
    return None


def one_line_of(result):
    assert result.code == 1, result.text
    assert "Traceback" not in result.text
    assert len(result.text.strip().splitlines()) == 1, result.text
    return result.text


# --- damage at random

damaging = settings(max_examples=50, deadline=None, derandomize=True, database=None)

# from the start, where headers are; anywhere; from the end, where directories and checksums are
PLACES = st.one_of(st.integers(0, 160), st.floats(0, 1), st.integers(-160, -1))
STEPS = st.one_of(
    st.tuples(st.just("cut"), PLACES, st.just(b"")),
    st.tuples(st.just("flip"), PLACES, st.integers(0, 7).map(lambda bit: bytes([1 << bit]))),
    st.tuples(st.just("overwrite"), PLACES, st.binary(min_size=1, max_size=24)),
    st.tuples(st.just("insert"), PLACES, st.binary(min_size=1, max_size=24)),
    st.tuples(st.just("append"), st.just(-1), st.binary(min_size=1, max_size=200)),
)
DAMAGE = st.lists(STEPS, min_size=1, max_size=3)


def damaged(content, steps):
    for kind, place, word in steps:
        at = int(place * len(content)) if isinstance(place, float) else place % (len(content) + 1)
        if kind == "cut":
            content = content[:at]
        elif kind == "flip" and at < len(content):
            content = content[:at] + bytes([content[at] ^ word[0]]) + content[at + 1 :]
        elif kind == "overwrite":
            content = content[:at] + word + content[at + len(word) :]
        elif kind == "insert":
            content = content[:at] + word + content[at:]
        elif kind == "append":
            content += word
    return content


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """One folder for all examples of a test, which replace each other's files."""
    return tmp_path_factory.mktemp("damaged")


def put(path, content):
    path.unlink(missing_ok=True)  # an earlier example's array may still be mapped
    path.write_bytes(content)
    return path


@damaging
@given(steps=DAMAGE, dtype=st.sampled_from(["uint8", "float32"]))
def test_a_damaged_file_of_images_is_images_or_refused(place, steps, dtype):
    images = IMAGES if dtype == "uint8" else (IMAGES / 255).astype(np.float32)
    path = put(place / "data0.npy", damaged(npy(images), steps))
    with little_memory():
        found = outcome(path, lambda: read_images(path))
    if found is not None:
        assert (found.shape, found.dtype) == (images.shape, images.dtype)
        assert dtype == "uint8" or (found.min() >= 0 and found.max() <= 1)


@damaging
@given(steps=DAMAGE, dtype=st.sampled_from(["uint8", "int64", "float64"]))
def test_a_damaged_file_of_sums_is_sums_or_refused(place, steps, dtype):
    path = put(place / "lab0.npy", damaged(npy(np.arange(12, dtype=dtype)), steps))
    with little_memory():
        found = outcome(path, lambda: read_sums(path))
    if found is not None:
        assert (found.shape, found.dtype) == ((12,), np.int64)
        assert found.min() >= 0


@damaging
@given(steps=DAMAGE, which=st.sampled_from(["glyphs.npy", "labels.npy"]))
def test_damaged_glyphs_are_glyphs_or_refused(place, steps, which):
    for name, array in (("glyphs.npy", GLYPHS), ("labels.npy", LABELS)):
        put(place / name, damaged(npy(array), steps) if name == which else npy(array))
    paths = {"glyph_images": str(place / "glyphs.npy"), "glyph_labels": str(place / "labels.npy")}
    with little_memory():
        pools = outcome(place / which, lambda: load_glyph_pools("arrays", **paths))
    if pools is not None:
        assert sum(len(pool.labels) for pool in pools.values()) == 20
        assert all(set(pool.labels.tolist()) <= set(range(10)) for pool in pools.values())


@damaging
@given(steps=DAMAGE, kind=st.sampled_from(list(PICTURES)))
def test_a_damaged_picture_is_a_picture_or_refused(place, steps, kind):
    path = put(place / f"photo.{kind}", damaged(PICTURES[kind], steps))
    with little_memory(600):  # the largest picture that is taken has 50 million pixels
        found = outcome(path, lambda: read_picture(path, SIZE))
    if found is not None:
        assert (found.image.shape, found.image.dtype) == (SIZE, np.uint8)


@damaging
@given(steps=DAMAGE, kind=st.sampled_from(list(PICTURES)))
def test_a_damaged_picture_has_rows_of_digits_or_none_or_is_refused(place, steps, kind):
    path = put(place / f"photo.{kind}", damaged(PICTURES[kind], steps))
    with little_memory(600):
        found = outcome(path, lambda: read_rows(path, SIZE))
    assert found is None or {(row.image.shape, row.image.dtype) for row in found} == {(SIZE, np.dtype(np.uint8))}


@pytest.fixture(scope="module")
def checkpoint(finished_run):
    return finished_run / "checkpoints" / "best.ckpt"


@pytest.fixture(scope="module")
def weights(checkpoint, tmp_path_factory):
    """The bytes of a model as safetensors."""
    path = tmp_path_factory.mktemp("weights") / "best.safetensors"
    save_safetensors(load_model(checkpoint), path)
    return path.read_bytes()


@damaging
@given(steps=DAMAGE)
def test_a_damaged_checkpoint_is_the_same_model_or_refused(place, checkpoint, steps):
    path = put(place / "best.ckpt", damaged(checkpoint.read_bytes(), steps))
    with little_memory():
        found = outcome(path, lambda: load_model(path))
    if found is not None:
        expected = load_model(checkpoint)
        assert dict(found.hparams) == dict(expected.hparams)
        assert all(torch.equal(ours, found.state_dict()[name]) for name, ours in expected.state_dict().items())


def test_one_flipped_bit_in_any_of_a_checkpoints_tensors_is_noticed(checkpoint, tmp_path):
    # storages have no structure that a reader could stumble over
    with zipfile.ZipFile(checkpoint) as file:
        entries = [entry for entry in file.infolist() if "/data/" in entry.filename]
    assert len(entries) > 8
    for entry in entries:
        content = bytearray(checkpoint.read_bytes())
        lengths = struct.unpack_from("<HH", content, entry.header_offset + 26)  # of the name and of the padding
        content[entry.header_offset + 30 + sum(lengths) + entry.file_size // 2] ^= 1
        (tmp_path / "flipped.ckpt").write_bytes(content)
        with refused("flipped.ckpt", "damaged"):
            load_model(tmp_path / "flipped.ckpt")


@damaging
@given(steps=DAMAGE)
def test_damaged_safetensors_are_a_model_of_the_same_shape_or_refused(place, weights, checkpoint, steps):
    path = put(place / "best.safetensors", damaged(weights, steps))
    with little_memory():
        found = outcome(path, lambda: load_model(path))
    if found is not None:  # the format has no checksum: other numbers cannot be noticed
        expected = load_model(checkpoint).state_dict()
        assert {name: value.shape for name, value in found.state_dict().items()} == {
            name: value.shape for name, value in expected.items()
        }
        assert all(value.isfinite().all() for value in found.state_dict().values())


@pytest.fixture(scope="module")
def resuming(tmp_path_factory):
    """The config of a resuming command."""
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        return compose("train", [f"outputs_dir={tmp_path_factory.mktemp('resuming')}", "run_dir=unused"])


@damaging
@given(steps=DAMAGE)
def test_a_damaged_config_of_a_run_is_plain_or_refused(place, finished_run, resuming, steps):
    path = put(place / "config.yaml", damaged((finished_run / "config.yaml").read_bytes(), steps))
    with little_memory():
        found = outcome(path, lambda: read_config(place))
        recorded = outcome(path, lambda: recorded_config(resuming, place, []))
    assert found is None or isinstance(found, dict)
    if recorded is not None:
        assert recorded.run_dir == str(place)
        assert recorded.trainer._target_ == "lightning.pytorch.Trainer"
        assert all(node._target_.startswith(("lightning.", "digitsum.")) for node in recorded.callbacks.values())


@pytest.fixture(scope="module")
def composed(tmp_path_factory):
    """A small composition and the folder that it was written to."""
    folder = tmp_path_factory.mktemp("composed")
    np.save(folder / "glyphs.npy", GLYPHS)
    np.save(folder / "labels.npy", LABELS)
    composition = Composition(
        glyphs="arrays",
        glyph_images=str(folder / "glyphs.npy"),
        glyph_labels=str(folder / "labels.npy"),
        num_train=3,
        num_val=2,
        num_test=1,
    )
    write_dataset(composition, folder / "set")
    return composition, folder / "set"


def tree(folder):
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@settings(damaging, max_examples=30)
@given(steps=DAMAGE)
def test_a_data_set_with_a_damaged_description_is_left_alone(composed, steps):
    composition, folder = composed
    original = (folder / "dataset.json").read_bytes()
    content = damaged(original, steps)
    try:
        put(folder / "dataset.json", content)
        before = tree(folder.parent)
        taken = outcome(folder / "dataset.json", lambda: write_dataset(composition, folder) or True)
        assert taken is None or json.loads(content)["fingerprint"] == composition.fingerprint
        assert tree(folder.parent) == before
    finally:
        put(folder / "dataset.json", original)


# --- absurd claims

HUGE = [
    claiming((10**12, 40, 168)), claiming((10**12,)), claiming((10**12, 28, 28)), claiming((2**62, 4, 4)),
    claiming((10**30, 1, 1)), claiming((-1, 40, 168)), claiming((3, 4, 5), "'|V1000000000'"),
    claiming((3,), "'<U500000000'"), claiming((10**12, 1, 1), "'|V0'"), claiming((10**12,), "'<f8'"),
]  # fmt: skip


@pytest.mark.parametrize("content", HUGE, ids=range(len(HUGE)))
@pytest.mark.parametrize("read", [read_npy, read_images, read_sums, open_input])
def test_200_bytes_that_claim_a_million_million_images_are_refused_at_once(tmp_path, content, read):
    assert len(content) == 200
    path = put(tmp_path / "data0.npy", content)
    with little_memory(20), refused(path):
        read(path)


@pytest.mark.parametrize("content", HUGE, ids=range(len(HUGE)))
@pytest.mark.parametrize("which", ["glyphs.npy", "labels.npy"])
def test_glyphs_that_claim_absurd_sizes_are_refused_at_once(tmp_path, content, which):
    for name, array in (("glyphs.npy", GLYPHS), ("labels.npy", LABELS)):
        put(tmp_path / name, content if name == which else npy(array))
    paths = {"glyph_images": str(tmp_path / "glyphs.npy"), "glyph_labels": str(tmp_path / "labels.npy")}
    with little_memory(20), refused(tmp_path / which):
        load_glyph_pools("arrays", **paths)


@pytest.mark.parametrize("content", [
    png(60_000, 60_000), png(2**31 - 1, 2**31 - 1), png(2**31 - 1, 1), png(1, 2**31 - 1), png(0, 0),
    png(50, 30, (b"zTXt", b"Comment\0\0" + zlib.compress(bytes(200_000_000), 1))),
    png(50, 30, (b"iCCP", b"profile\0\0" + zlib.compress(bytes(200_000_000), 1))),
], ids=["60000x60000", "largest", "wide", "high", "empty", "text", "profile"])  # fmt: skip
def test_a_png_that_claims_to_unpack_to_gigabytes_does_not(tmp_path, content):
    path = put(tmp_path / "photo.png", content)
    with little_memory():
        found = outcome(path, lambda: read_picture(path, SIZE))
    assert found is None or found.image.shape == SIZE
    with little_memory():
        rows = outcome(path, lambda: read_rows(path, SIZE))
    assert rows is None or all(row.image.shape == SIZE for row in rows)


@pytest.mark.parametrize(("name", "megabytes"), [("photo.jpg", 200), ("photo.png", 400)])
def test_the_largest_picture_takes_bounded_memory(tmp_path, name, megabytes):
    Image.new("RGB", (8_000, 6_000), (190, 180, 170)).save(tmp_path / name)
    with little_memory(megabytes):
        read_rows(tmp_path / name, SIZE)


def test_a_checkpoint_that_unpacks_to_more_than_its_size_is_refused_before_it_does(tmp_path, checkpoint):
    path = tmp_path / "bomb.ckpt"
    with zipfile.ZipFile(checkpoint) as source, zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED, True, 1) as bomb:
        for entry in source.infolist():
            if not entry.filename.endswith("/data/0"):
                bomb.writestr(entry.filename, source.read(entry))
            else:
                with bomb.open(entry.filename, "w") as file:
                    for _ in range(300):
                        file.write(bytes(1_000_000))
    assert path.stat().st_size < 3_000_000
    with little_memory(), refused(path, "damaged"):
        load_model(path)


def test_a_config_whose_anchors_stand_for_gigabytes_is_refused_at_once(tmp_path, resuming):
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]" for n in range(1, 10)]
    path = put(tmp_path / "config.yaml", "\n".join(lines).encode())
    with little_memory(), refused(path):
        recorded_config(resuming, tmp_path, [])


@pytest.mark.parametrize("text", [
    b"", b"[]", b"3", b"\xff\xfe", b"\0", b"[" * 400, b"a: !!bool x", b"a: !!timestamp x", b"a: !!int ''",
    b"? [a]\n: b", b"a: &a [*a]", b"data: {root: x}", b"a: " + b"9" * 5000, b"data: {}\nmodel: {network: two_conv}",
    b"a: 1\na: {",
    b"data: {root: x}\nmodel: {network: [1]}", b"data: 3\nmodel: 4", b"x" * 2_000_000,
    b"data: " + b"{root: " * 300 + b"1" + b"}" * 300 + b"\nmodel: {network: two_conv}",
])  # fmt: skip
def test_a_config_that_is_no_runs_is_refused_by_its_name(tmp_path, resuming, text):
    path = put(tmp_path / "config.yaml", text)
    with little_memory(), refused(path):
        recorded_config(resuming, tmp_path, [])


# --- the wrong kind of thing, and nothing at all


def _glyphs(images, labels):
    return load_glyph_pools("arrays", glyph_images=str(images), glyph_labels=str(labels))


READERS = {
    "images": lambda path: read_images(path.with_suffix(".npy")),
    "sums": lambda path: read_sums(path.with_suffix(".npy")),
    "glyphs": lambda path: _glyphs(path, path),
    "fingerprint": lambda path: (
        Composition(glyphs="arrays", glyph_images=str(path), glyph_labels=str(path)).fingerprint
    ),
    "picture": lambda path: read_picture(path, SIZE),
    "checkpoint": lambda path: load_model(path),
    "safetensors": lambda path: load_model(path.with_suffix(".safetensors")),
    "json": read_json,
}


@pytest.mark.parametrize("read", READERS.values(), ids=READERS)
def test_a_folder_in_a_files_place_is_refused(tmp_path, read):
    for suffix in ("", ".npy", ".safetensors"):
        (tmp_path / f"thing{suffix}").mkdir()
    with refused(tmp_path / "thing"):
        read(tmp_path / "thing")


@pytest.mark.parametrize("name", ["missing", "n" * 300, "missing/below", "\ud800", "file.txt/below"])
@pytest.mark.parametrize("read", READERS.values(), ids=READERS)
def test_a_file_that_cannot_be_is_refused(tmp_path, read, name):
    (tmp_path / "file.txt").write_text("")
    with refused(name):
        read(tmp_path / name)


FOLDER_READERS = {
    "splits": lambda path: open_splits(path, 0),
    "shards": open_shards,
    "config": read_config,
    "newest run": lambda path: newest_run(path, finished=True),
    "mnist": lambda path: load_glyph_pools("mnist", mnist_root=str(path)),
    "data set": lambda path: write_dataset(Composition(num_train=1, num_val=1, num_test=1), path),
    "cache": lambda path: cached_dataset(Composition(num_train=1, num_val=1, num_test=1), path),
    "data module": lambda path: SumDataModule(ArraysData(str(path))).setup(),
}


@pytest.mark.parametrize("read", FOLDER_READERS.values(), ids=FOLDER_READERS)
def test_a_file_in_a_folders_place_is_refused(tmp_path, read):
    path = put(tmp_path / "thing", b"text")
    with refused(path):
        read(path)
    assert path.read_bytes() == b"text"


@pytest.mark.parametrize("name", ["n" * 300, "file.txt/below"])
@pytest.mark.parametrize("read", FOLDER_READERS.values(), ids=FOLDER_READERS)
def test_a_folder_that_cannot_be_is_refused(tmp_path, read, name):
    (tmp_path / "file.txt").write_text("")
    with refused(tmp_path / name):
        read(tmp_path / name)


@pytest.mark.parametrize(("name", "read"), [
    ("config.yaml", read_config), ("data0.npy", lambda folder: open_shards(folder, need_sums=False)),
    ("photo.png", lambda folder: [read_picture(path, SIZE) for path in find_pictures(folder)]),
    ("dataset.json", lambda folder: write_dataset(Composition(num_train=1, num_val=1, num_test=1), folder)),
])  # fmt: skip
def test_a_folder_in_the_place_of_a_file_in_a_folder_is_refused(tmp_path, name, read):
    (tmp_path / "set" / name).mkdir(parents=True)
    with refused(tmp_path / "set"):
        read(tmp_path / "set")


def test_a_folder_without_pictures_named_as_a_picture_is_refused(tmp_path):
    (tmp_path / "photo.png").mkdir()
    with refused("photo.png"):
        open_input(tmp_path / "photo.png")


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root reads everything")
@pytest.mark.parametrize("read", READERS.values(), ids=READERS)
def test_a_file_that_may_not_be_read_is_refused(tmp_path, read):
    for suffix in ("", ".npy", ".safetensors"):
        path = put(tmp_path / f"thing{suffix}", b"secret")
        path.chmod(0)
    with refused(tmp_path / "thing"):
        read(tmp_path / "thing")


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root reads everything")
@pytest.mark.parametrize("read", FOLDER_READERS.values(), ids=FOLDER_READERS)
def test_a_folder_that_may_not_be_read_is_refused(tmp_path, read):
    (tmp_path / "locked").mkdir(mode=0)
    with refused(tmp_path / "locked"):
        read(tmp_path / "locked")


# --- what goes while it is read


@pytest.mark.parametrize(("names", "read"), [
    (["data0.npy", "lab0.npy"], open_shards), (["data0.npy"], lambda folder: open_shards(folder, need_sums=False)),
    (["a.png", "b.png"], lambda folder: [read_picture(path, SIZE) for path in find_pictures(folder)]),
])  # fmt: skip
def test_a_file_that_goes_between_listing_and_reading_is_refused_by_its_name(tmp_path, monkeypatch, names, read):
    monkeypatch.setattr(Path, "iterdir", lambda folder: iter([folder / name for name in names]))
    with refused(tmp_path / names[0]):
        read(tmp_path)


def test_a_run_that_goes_while_the_newest_is_looked_for_is_passed_over(tmp_path, monkeypatch):
    for name in ("a", "b"):
        (tmp_path / "runs" / name).mkdir(parents=True)
        (tmp_path / "runs" / name / "config.yaml").write_text("a: 1")
    found = sorted(tmp_path.glob("runs/*/config.yaml"))
    shutil.rmtree(tmp_path / "runs" / "b")
    monkeypatch.setattr(Path, "glob", lambda folder, pattern: iter(found if pattern.startswith("runs") else []))
    assert newest_run(tmp_path, finished=False) == tmp_path / "runs" / "a"


# --- numbers that are none


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_images_sums_and_glyph_labels_that_are_no_numbers_are_refused(tmp_path, value, dtype):
    images = np.zeros((20, 28, 28), dtype)
    images[3, 4, 5] = value
    np.save(tmp_path / "images.npy", images)
    np.save(tmp_path / "sums.npy", images[3, 4])
    np.save(tmp_path / "glyphs.npy", GLYPHS)
    np.save(tmp_path / "labels.npy", images[3, 4, :20])
    with refused("images.npy", "image 3"):
        read_images(tmp_path / "images.npy")
    with refused("sums.npy", "row 5"):
        read_sums(tmp_path / "sums.npy")
    with refused("labels.npy"):
        _glyphs(tmp_path / "glyphs.npy", tmp_path / "labels.npy")


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("suffix", ["ckpt", "safetensors"])
def test_weights_that_are_no_numbers_are_refused(tmp_path, checkpoint, value, suffix):
    content = torch.load(checkpoint, weights_only=True)
    content["state_dict"]["net.output.bias"][0] = value
    path = tmp_path / f"bad.{suffix}"
    if suffix == "ckpt":
        torch.save(content, path)
    else:
        hyper_parameters = json.dumps(content["hyper_parameters"])
        tensors = {name: value.contiguous() for name, value in content["state_dict"].items()}
        safetensors.torch.save_file(tensors, path, {"hyper_parameters": hyper_parameters})
    with refused(path, "net.output.bias"):
        load_model(path)


@pytest.mark.parametrize("key", ["num_train", "num_digits", "batch_size", "glyphs", "download", "datasets_dir"])
@pytest.mark.parametrize("value", [float("nan"), 1.5, [1, 2, 3], {"a": 1}, None])
def test_a_description_of_data_with_values_of_the_wrong_type_is_refused(checkpoint, key, value):
    description = torch.load(checkpoint, weights_only=True)["datamodule_hyper_parameters"]["data"]
    assert data_of(description, {}, checkpoint).batch_size == 16
    (description["layout"] if key == "num_digits" else description)[key] = value
    with refused(checkpoint if key != "num_digits" else key):
        data_of(description, {}, checkpoint)


# --- names

NAMES = [
    "with space",
    "ünï-図",
    "a=b",
    "a,b",
    "[x]",
    "{y}",
    "(z)",
    "a:b",
    "#1",
    "%20",
    "~",
    "-v",
    "+k=1",
    "1e3",
    "null",
]


@pytest.mark.parametrize("name", NAMES)
def test_any_name_can_be_given_as_input(command, tmp_path, checkpoint, name):
    folder = tmp_path / name
    folder.mkdir()
    np.save(folder / "data0.npy", RNG.integers(0, 256, (3, *SIZE), dtype=np.uint8))
    words = (f"ckpt_path='{checkpoint}'", "trainer=cpu", f"hydra.run.dir={tmp_path}/out", f"run_dir={tmp_path}/out")
    result = command(predict.main, *words, f"input='{folder}'")
    assert result.code == 0, result.text
    assert len((tmp_path / "out" / "predictions.csv").read_text().splitlines()) == 4
    (folder / "data0.npy").write_bytes(b"no")
    assert name in one_line_of(command(predict.main, *words, f"input='{folder}'"))


def test_any_name_can_be_given_as_the_root_of_the_data(command, tmp_path):
    root = tmp_path / " ".join(NAMES)
    root.mkdir()
    np.save(root / "data0.npy", RNG.integers(0, 256, (20, 20, 30), dtype=np.uint8))
    np.save(root / "lab0.npy", np.arange(20))
    keys = [word for word in TINY if not word.startswith("data.")]
    words = ("data=arrays", f"data.root='{root}'", f"outputs_dir={tmp_path}/outputs", f"hydra.run.dir={tmp_path}/run")
    result = command(train.main, *words, "logger=none", *keys)
    assert result.code == 0, result.text
    assert yaml.safe_load((tmp_path / "run" / "config.yaml").read_text())["data"]["root"] == str(root)
    result = command(predict.main, f"ckpt_path='{tmp_path}/run/checkpoints/best.ckpt'", "trainer=cpu",
                     f"hydra.run.dir={tmp_path}/out", f"outputs_dir={tmp_path}/outputs")  # fmt: skip
    assert result.code == 0, result.text


def test_names_of_shards_and_pictures_are_reported_as_they_are(tmp_path):
    for name in NAMES:
        path = put(tmp_path / f"{name}.png", b"no picture")
        with refused(path):
            read_picture(path, SIZE)
