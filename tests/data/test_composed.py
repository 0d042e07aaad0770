"""Composed sets: what is in the folder, what names it, and that it is there whole or not at all."""

import errno
import json
import multiprocessing
import os
import shutil
import signal
import subprocess
import sys
from contextlib import contextmanager
from dataclasses import asdict, fields, replace
from pathlib import Path

import numpy as np
import pytest

from digitsum.data import composed as datasets
from digitsum.data.canvases import Layout, compose
from digitsum.data.composed import Composition, cached_dataset, write_dataset
from digitsum.data.glyphs import SPLITS, load_glyph_pools
from digitsum.errors import InputError

COUNTS = {"train": 60, "val": 12, "test": 7}


@contextmanager
def refused(*words):
    """The block is refused with one line that has all `words`."""
    with pytest.raises(InputError) as caught:
        yield
    assert all(str(word) in str(caught.value) for word in words), caught.value
    assert "\n" not in str(caught.value)


def truth_of(folder, split):
    with np.load(folder / split / "truth0.npz") as truth:
        return dict(truth)


def same_arrays(one, other):
    """Whether two composed folders hold the same files with the same arrays."""
    names = [sorted(str(path.relative_to(root)) for path in root.rglob("*")) for root in (one, other)]
    return names[0] == names[1] and all(
        np.array_equal(np.load(one / name), np.load(other / name)) for name in names[0] if name.endswith(".npy")
    )


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    """What a small set is composed of: forty glyphs of our own, because they load at once."""
    folder = tmp_path_factory.mktemp("glyphs")
    np.save(folder / "ink.npy", np.random.default_rng(0).integers(256, size=(40, 28, 28), dtype=np.uint8))
    np.save(folder / "digits.npy", np.arange(40) % 10)
    paths = {"glyph_images": str(folder / "ink.npy"), "glyph_labels": str(folder / "digits.npy")}
    return Composition(glyphs="arrays", num_train=60, num_val=12, num_test=7, **paths)


@pytest.fixture(scope="module")
def written(tmp_path_factory, small):
    """The small set; only to be read."""
    folder = tmp_path_factory.mktemp("composed") / "set"
    write_dataset(small, folder)
    return folder


def pools_of(composition, **options):
    return load_glyph_pools(
        composition.glyphs,
        glyph_images=composition.glyph_images,
        glyph_labels=composition.glyph_labels,
        **options,
    )


# --- the folder


def test_a_folder_has_three_splits_of_shards_and_a_description(written):
    files = {str(path.relative_to(written)) for path in written.rglob("*") if path.is_file()}
    shards = {f"{split}/{name}" for split in SPLITS for name in ("data0.npy", "lab0.npy", "truth0.npz")}
    assert files == shards | {"dataset.json"}


@pytest.mark.parametrize("split", SPLITS)
def test_images_and_sums_have_their_shapes_and_types(written, split):
    images, sums = (np.load(written / split / name) for name in ("data0.npy", "lab0.npy"))
    assert (images.shape, images.dtype) == ((COUNTS[split], 40, 168), np.uint8)
    assert (sums.shape, sums.dtype) == ((COUNTS[split],), np.uint8)


@pytest.mark.parametrize("split", SPLITS)
def test_canvases_are_those_of_the_seed_and_the_splits_own_stream(small, written, split):
    pool = pools_of(small)[split]
    images, truth = compose(Layout(), pool, seed=0, stream=SPLITS.index(split), start=0, count=COUNTS[split])
    assert np.array_equal(np.load(written / split / "data0.npy"), images)
    stored = truth_of(written, split)
    assert sorted(stored) == ["digits", "glyph", "left", "top"]
    for name, column in stored.items():
        assert np.array_equal(column, getattr(truth, name))


@pytest.mark.parametrize("split", SPLITS)
def test_the_sums_are_those_of_the_digits_drawn(written, split):
    assert np.array_equal(np.load(written / split / "lab0.npy"), truth_of(written, split)["digits"].sum(1))


@pytest.mark.parametrize("split", SPLITS)
def test_the_statistics_are_those_of_the_arrays(written, split):
    stated = json.loads((written / "dataset.json").read_text())["statistics"][split]
    images, sums = (np.load(written / split / name) for name in ("data0.npy", "lab0.npy"))
    assert stated == {
        "images": COUNTS[split],
        "pixel_mean": pytest.approx(images.mean(), abs=1e-4),
        "pixel_std": pytest.approx(images.std(), abs=1e-4),
        "sum_mean": pytest.approx(sums.mean(), abs=1e-4),
        "sum_std": pytest.approx(sums.std(), abs=1e-4),
    }


def test_the_description_has_every_setting_and_the_sizes_of_the_pools(small, written):
    stated = json.loads((written / "dataset.json").read_text())
    assert {name: stated[name] for name in asdict(small)} == asdict(small)
    assert stated["fingerprint"] == small.fingerprint
    assert stated["glyphs_per_split"] == {"train": 32, "val": 4, "test": 4}


def test_sums_that_a_byte_cannot_hold_get_a_wider_type(small, tmp_path):
    layout = Layout(num_digits=[29, 29], pitch_jitter=0, width=14 + 29 * 28)
    write_dataset(replace(small, layout=layout), tmp_path / "set")
    sums = np.load(tmp_path / "set" / "train" / "lab0.npy")
    assert sums.dtype == np.uint16
    assert np.array_equal(sums, truth_of(tmp_path / "set", "train")["digits"].sum(1))


def test_a_set_is_the_same_however_it_is_cut_into_shards_and_chunks(small, written, tmp_path, monkeypatch):
    monkeypatch.setattr(datasets, "_SHARD", 25)
    monkeypatch.setattr(datasets, "_CHUNK", 10)
    write_dataset(small, tmp_path / "set")
    cut, whole = tmp_path / "set" / "train", written / "train"
    for kind in ("data", "lab"):
        parts = [np.load(cut / f"{kind}{shard}.npy") for shard in range(3)]
        assert [len(part) for part in parts] == [25, 25, 10]
        assert np.array_equal(np.concatenate(parts), np.load(whole / f"{kind}0.npy"))
    for name, column in truth_of(written, "train").items():
        parts = [np.load(cut / f"truth{shard}.npz")[name] for shard in range(3)]
        assert np.array_equal(np.concatenate(parts), column)
    assert len(list(cut.iterdir())) == 9
    described = [json.loads((folder / "dataset.json").read_text()) for folder in (tmp_path / "set", written)]
    assert described[0] == described[1]


def test_no_glyph_of_a_validation_or_test_canvas_is_on_a_training_canvas(written):
    train, val, test = (set(truth_of(written, split)["glyph"].ravel()) for split in SPLITS)
    assert not train & val
    assert not train & test
    assert not val & test


def test_shared_glyphs_are_on_canvases_of_several_splits(small, tmp_path):
    write_dataset(replace(small, num_test=200, glyphs_shared=True), tmp_path / "set")
    train, test = (set(truth_of(tmp_path / "set", split)["glyph"].ravel()) for split in ("train", "test"))
    assert train & test


def test_bundled_glyphs_are_composed_strictly_and_their_digits_are_theirs(tmp_path):
    write_dataset(Composition(num_train=300, num_val=60, num_test=60), tmp_path / "set")
    labels = load_glyph_pools("bundled", shared=True)["train"].labels
    seen = []
    for split in SPLITS:
        truth = truth_of(tmp_path / "set", split)
        assert np.array_equal(truth["digits"], labels[truth["glyph"]])
        seen.append(set(truth["glyph"].ravel()))
    assert not seen[0] & seen[1] | seen[0] & seen[2] | seen[1] & seen[2]


# --- the fingerprint

CHANGES = {
    "glyphs": "mnist",
    "glyphs_shared": True,
    "num_train": 61,
    "num_val": 13,
    "num_test": 8,
    "compose_seed": 1,
}
LAYOUT_CHANGES = {
    "height": 41,
    "width": 169,
    "num_digits": [1, 4],
    "pitch_jitter": 13,
    "first_offset": 13,
    "vertical_jitter": 10,
    "digit_scale": [0.5, 1.0],
    "pen": 0.5,
    "overlap": "max",
}


def test_every_setting_is_among_the_changes_tested_here():
    assert {*CHANGES, "layout", "glyph_images", "glyph_labels"} == {field.name for field in fields(Composition)}
    assert set(LAYOUT_CHANGES) == {field.name for field in fields(Layout)}


def test_the_fingerprint_changes_with_every_setting(small):
    changed = [replace(small, **{name: value}) for name, value in CHANGES.items()]
    changed += [replace(small, layout=Layout(**{name: value})) for name, value in LAYOUT_CHANGES.items()]
    fingerprints = {composition.fingerprint for composition in [small, *changed]}
    assert len(fingerprints) == 1 + len(CHANGES) + len(LAYOUT_CHANGES)


def test_the_fingerprint_of_a_layout_as_of_old_is_what_it_was_then():
    assert Composition(glyphs="mnist", num_train=24_000, num_val=3_000, num_test=3_000).fingerprint == "bb71bde4a5ef"


def test_equal_settings_have_one_fingerprint_of_twelve_hexadecimal_digits(small):
    assert replace(small, layout=Layout()).fingerprint == small.fingerprint
    assert len(small.fingerprint) == 12
    assert int(small.fingerprint, 16) >= 0


def test_the_fingerprint_changes_with_the_bytes_of_own_glyphs_and_not_with_their_path(small, tmp_path):
    images, labels = (tmp_path / name for name in ("moved_ink.npy", "moved_digits.npy"))
    shutil.copy(small.glyph_images, images)
    shutil.copy(small.glyph_labels, labels)
    assert replace(small, glyph_images=str(images), glyph_labels=str(labels)).fingerprint == small.fingerprint
    for path in (images, labels):
        content = bytearray(path.read_bytes())
        content[-8] ^= 1
        path.write_bytes(content)
    fingerprints = {
        small.fingerprint,
        replace(small, glyph_images=str(images)).fingerprint,
        replace(small, glyph_labels=str(labels)).fingerprint,
        replace(small, glyph_images=str(images), glyph_labels=str(labels)).fingerprint,
    }
    assert len(fingerprints) == 4


@pytest.mark.parametrize("key", ["glyph_images", "glyph_labels"])
def test_own_glyphs_that_are_missing_are_refused_by_the_settings_name(small, tmp_path, key):
    with refused(f"data.{key}", tmp_path / "none.npy"):
        cached_dataset(replace(small, **{key: str(tmp_path / "none.npy")}), tmp_path / "cache")
    assert not (tmp_path / "cache").exists()


@pytest.mark.parametrize(
    ("setting", "value"), [("compose_seed", -1), ("num_train", 0), ("num_val", 0), ("num_test", -5)]
)
def test_a_setting_out_of_range_is_refused_by_its_name(setting, value):
    with refused(f"data.{setting}", value):
        Composition(**{setting: value})


# --- the cache


def test_a_set_is_composed_once(small, tmp_path):
    progress = []
    folder = cached_dataset(small, tmp_path, progress=progress.append)
    times = {path: path.stat().st_mtime_ns for path in folder.rglob("*")}
    assert sum(progress) == sum(COUNTS.values())
    assert cached_dataset(small, tmp_path, progress=progress.append) == folder
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("*")} == times
    assert sum(progress) == sum(COUNTS.values())
    assert list(tmp_path.iterdir()) == [folder]


def test_the_cache_names_a_folder_after_its_glyphs_size_and_fingerprint(small, tmp_path, written):
    folder = cached_dataset(small, tmp_path / "new" / "cache")
    assert folder == tmp_path / "new" / "cache" / f"arrays-79-{small.fingerprint}"
    assert same_arrays(folder, written)


def test_other_settings_get_a_folder_of_their_own(small, tmp_path):
    other = replace(small, compose_seed=1)
    folders = [cached_dataset(composition, tmp_path) for composition in (small, other)]
    assert not np.array_equal(*(np.load(folder / "train" / "data0.npy") for folder in folders))


# --- whole or not at all


@pytest.mark.parametrize("content", ["notes", "{}", "[]", '{"fingerprint": null}', '{"fingerprint": "0123456789ab"}'])
@pytest.mark.parametrize("name", ["notes.txt", "dataset.json"])
def test_a_folder_that_holds_something_else_is_refused_and_left_alone(small, tmp_path, name, content):
    folder = tmp_path / "set"
    folder.mkdir()
    (folder / name).write_text(content)
    with refused(folder):
        write_dataset(small, folder)
    assert {path.name: path.read_text() for path in folder.iterdir()} == {name: content}
    assert list(tmp_path.iterdir()) == [folder]


def test_another_composed_set_is_refused_and_left_alone(small, tmp_path, written):
    folder = shutil.copytree(written, tmp_path / "set")
    with refused(folder, "something else"):
        write_dataset(replace(small, compose_seed=1), folder)
    assert same_arrays(folder, written)
    assert list(tmp_path.iterdir()) == [folder]


def test_the_same_set_is_left_as_it_is(small, tmp_path, written):
    folder = shutil.copytree(written, tmp_path / "set")
    before = folder.stat().st_ino
    write_dataset(small, folder)
    assert folder.stat().st_ino == before
    assert list(tmp_path.iterdir()) == [folder]


def test_an_empty_folder_is_taken(small, tmp_path, written):
    (tmp_path / "set").mkdir()
    write_dataset(small, tmp_path / "set")
    assert same_arrays(tmp_path / "set", written)


def test_a_file_in_the_way_is_refused_and_kept(small, tmp_path):
    (tmp_path / "file").write_text("notes")
    for folder in (tmp_path / "file", tmp_path / "file" / "set"):
        with refused(folder):
            write_dataset(small, folder)
    assert (tmp_path / "file").read_text() == "notes"
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


@pytest.mark.parametrize("stop", [RuntimeError, KeyboardInterrupt])
@pytest.mark.parametrize("calls", [1, 2, 3])
def test_an_exception_in_the_middle_leaves_nothing(small, tmp_path, stop, calls):
    done = []

    def progress(count):
        done.append(count)
        if len(done) == calls:
            raise stop

    with pytest.raises(stop):
        cached_dataset(small, tmp_path, progress=progress)
    assert list(tmp_path.iterdir()) == []


KILLED = """
import os, signal, sys
from pathlib import Path
from digitsum.data.canvases import Layout
from digitsum.data.composed import Composition, cached_dataset
def stop(_):
    print("composing", flush=True)
    sys.stdin.read(1)
    os.kill(os.getpid(), signal.SIGKILL)
cached_dataset(eval(sys.argv[1]), Path(sys.argv[2]), progress=stop)
"""


def test_what_a_killed_process_left_is_removed_by_the_next_and_what_a_live_one_writes_is_not(small, tmp_path):
    other = replace(small, compose_seed=1)
    command = [sys.executable, "-c", KILLED, repr(small), str(tmp_path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout.readline() == "composing\n"
        (unfinished,) = (path for path in tmp_path.iterdir() if path.is_dir())
        first = cached_dataset(other, tmp_path)
        assert (unfinished / "train" / "data0.npy").exists()
        process.stdin.close()
        assert process.wait(60) == -signal.SIGKILL
    assert {path for path in tmp_path.iterdir() if path.is_dir()} == {unfinished, first}
    second = cached_dataset(small, tmp_path)
    assert set(tmp_path.iterdir()) == {first, second}


def test_folders_of_others_with_such_names_are_left_alone(small, tmp_path):
    names = [".cache", ".set.digitsum-unfinished", ".set.tmp", "set.digitsum-unfinished.lock"]
    for name in names:
        (tmp_path / name).mkdir()
        (tmp_path / name / "notes").write_text("mine")
    folder = cached_dataset(small, tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {*names, folder.name}
    assert all((tmp_path / name / "notes").exists() for name in names)


def test_a_set_is_written_where_modes_cannot_be_changed(small, written, tmp_path, monkeypatch):
    def no_chmod(*_, **__):
        raise PermissionError(errno.EPERM, os.strerror(errno.EPERM))

    for name in ("chmod", "fchmod"):
        monkeypatch.setattr(os, name, no_chmod)
    write_dataset(small, tmp_path / "set")
    assert same_arrays(tmp_path / "set", written)


def test_a_disk_that_is_full_at_the_end_is_said_in_a_line_and_leaves_nothing(small, tmp_path, monkeypatch):
    def full(_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with refused(tmp_path / "set", os.strerror(errno.ENOSPC)):
        write_dataset(small, tmp_path / "set")
    assert list(tmp_path.iterdir()) == []


# a mount of our own: only there can a disk be full without harm
FULL_DISK = """
from pathlib import Path
from digitsum.data import composed as datasets
from digitsum.data.composed import Composition, write_dataset
from digitsum.errors import InputError
datasets.require_space = lambda *_: None  # another process may fill the disk after the check
try:
    write_dataset(Composition(num_train=200, num_val=10, num_test=10), Path("set"))
except InputError as error:
    print(error)
print(*Path().iterdir())
"""


@pytest.mark.slow
def test_a_disk_that_fills_up_is_said_in_a_line_and_leaves_nothing(tmp_path):
    def on_a_small_disk(command):
        script = f'mount -t tmpfs -o size=256k small "{tmp_path}" && cd "{tmp_path}" && exec {command}'
        return subprocess.run(
            ["unshare", "--map-root-user", "--mount", "sh", "-c", script, sys.executable, FULL_DISK],
            capture_output=True,
            text=True,
            check=False,
            env=os.environ | {"PYTHONPATH": str(Path(datasets.__file__).parents[2])},
        )

    if not shutil.which("unshare") or on_a_small_disk("true").returncode != 0:
        pytest.skip("needs Linux and the right to mount a small disk of one's own")
    result = on_a_small_disk('"$0" -c "$1"')
    assert result.returncode == 0, f"exit code {result.returncode}: {result.stderr}"
    assert os.strerror(errno.ENOSPC) in result.stdout
    assert len(result.stdout.splitlines()) == 2
    assert result.stdout.splitlines()[1] == ""


# --- two at once


def test_a_set_that_another_process_finishes_first_stands(small, tmp_path, written):
    finished = []

    def progress(_):
        if not finished:
            finished.append(cached_dataset(small, tmp_path))
            finished.append(finished[0].stat().st_ino)

    folder = cached_dataset(small, tmp_path, progress=progress)
    assert finished == [folder, folder.stat().st_ino]
    assert same_arrays(folder, written)
    assert list(tmp_path.iterdir()) == [folder]


def prepare_in_step(composition, folder, barrier, results):
    """Prepare a set while another process does; each waits for the other after every split."""
    results.put(str(cached_dataset(composition, folder, progress=lambda _: barrier.wait(120))))


@pytest.mark.slow
def test_two_processes_that_prepare_one_set_at_once_both_get_it_whole(small, tmp_path, written):
    spawn = multiprocessing.get_context("spawn")
    barrier, results = spawn.Barrier(2), spawn.SimpleQueue()
    processes = [spawn.Process(target=prepare_in_step, args=(small, tmp_path, barrier, results)) for _ in range(2)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(180)
    assert [process.exitcode for process in processes] == [0, 0]
    folder = tmp_path / f"arrays-79-{small.fingerprint}"
    assert {results.get(), results.get()} == {str(folder)}
    assert list(tmp_path.iterdir()) == [folder]
    assert same_arrays(folder, written)
