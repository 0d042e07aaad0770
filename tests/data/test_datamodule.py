"""The data module: both kinds of data become batches, and a checkpoint can describe them."""

from dataclasses import asdict, replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from digitsum.data.augmentation import Augmentation
from digitsum.data.canvases import Layout
from digitsum.data.composed import Composition
from digitsum.data.datamodule import ArraysData, ComposedData, SumDataModule, data_of
from digitsum.errors import InputError

NOWHERE = {"root": None, "mnist_root": None, "datasets_dir": None}


@pytest.fixture
def own(tmp_path):
    """A folder of 30 of the user's images, image i filled with i and of the sum i."""
    folder = tmp_path / "mine"
    folder.mkdir()
    np.save(folder / "data0.npy", np.arange(30, dtype=np.uint8)[:, None, None].repeat(3, 1).repeat(5, 2))
    np.save(folder / "lab0.npy", np.arange(30, dtype=np.uint8))
    return ArraysData(str(folder), batch_size=4)


@pytest.fixture(scope="module")
def composed(tmp_path_factory):
    """Twenty-nine canvases, composed when first asked for."""
    return ComposedData(
        num_train=20, num_val=5, num_test=4, batch_size=8, datasets_dir=str(tmp_path_factory.mktemp("datasets"))
    )


@pytest.fixture
def ready():
    """Make a data module that is set up."""

    def make(data, **options):
        datamodule = SumDataModule(data, **options)
        datamodule.prepare_data()
        datamodule.setup()
        return datamodule

    return make


# --- batches


def test_composed_data_become_three_splits_of_canvases(ready, composed):
    datamodule = ready(composed)
    assert {split: len(arrays) for split, arrays in datamodule.splits.items()} == {"train": 20, "val": 5, "test": 4}
    assert datamodule.image_size == (40, 168)
    batch = next(iter(datamodule.train_dataloader()))
    assert (batch["images"].shape, batch["images"].dtype) == ((8, 40, 168), torch.uint8)
    assert batch["sums"].dtype == torch.int64


def test_composed_data_are_composed_by_prepare_data_once(composed, tmp_path):
    data = replace(composed, datasets_dir=str(tmp_path / "cache"))
    progress = []
    for _ in range(2):
        SumDataModule(data, progress=progress.append).prepare_data()
    assert sum(progress) == 29
    (folder,) = (tmp_path / "cache").iterdir()
    assert folder.name == f"bundled-29-{data.composition.fingerprint}"


def test_the_folder_of_composed_data_is_known_before_they_are_composed(composed, tmp_path):
    datamodule = SumDataModule(replace(composed, datasets_dir=str(tmp_path / "cache")))
    folder = datamodule.folder
    assert not (tmp_path / "cache").exists()
    with pytest.raises(InputError, match="found nothing"):
        datamodule.setup()
    datamodule.prepare_data()
    assert (folder / "dataset.json").exists()
    assert datamodule.folder is folder


def test_own_glyphs_are_hashed_once(composed, tmp_path, monkeypatch):
    rng, paths = np.random.default_rng(0), [str(tmp_path / name) for name in ("ink.npy", "digits.npy")]
    np.save(paths[0], rng.integers(256, size=(40, 28, 28), dtype=np.uint8))
    np.save(paths[1], np.arange(40) % 10)
    own = {"glyphs": "arrays", "glyph_images": paths[0], "glyph_labels": paths[1], "datasets_dir": str(tmp_path)}
    read, read_bytes = [], Path.read_bytes
    monkeypatch.setattr(Path, "read_bytes", lambda path: read.append(str(path)) or read_bytes(path))
    datamodule = SumDataModule(replace(composed, **own))
    for _ in range(2):
        datamodule.prepare_data()
    datamodule.setup()
    assert [path for path in read if path in paths] == paths


def test_the_cache_does_not_depend_on_places_or_the_batch_size(composed):
    elsewhere = replace(composed, mnist_root="/elsewhere", download=True, datasets_dir="/elsewhere", batch_size=9)
    assert elsewhere.composition == composed.composition
    assert type(elsewhere.composition) is Composition


def test_own_arrays_become_three_splits(ready, own):
    datamodule = ready(own)
    assert {split: len(arrays) for split, arrays in datamodule.splits.items()} == {"train": 24, "val": 3, "test": 3}
    assert datamodule.image_size == (3, 5)


def test_the_split_has_a_seed_of_its_own(ready, own):
    def held_out(split_seed, shuffle_seed):
        data = replace(own, split_seed=split_seed)
        return ready(data, shuffle_seed=shuffle_seed).splits["val"].index.tolist()

    assert held_out(0, 0) == held_out(0, 1)
    assert held_out(0, 0) != held_out(1, 0)


def test_training_batches_are_shuffled_by_their_seed(ready, own):
    def epoch(shuffle_seed):
        batches = ready(own, shuffle_seed=shuffle_seed).train_dataloader()
        return torch.cat([batch["index"] for batch in batches]).tolist()

    assert epoch(0) == epoch(0)
    assert epoch(0) != epoch(1)
    assert sorted(epoch(0)) == sorted(epoch(1))
    assert epoch(0) != sorted(epoch(0))


@pytest.mark.parametrize("split", ["val", "test"])
def test_validation_and_test_batches_go_from_first_to_last(ready, own, split):
    datamodule = ready(own)
    batches = LOADERS[split](datamodule)
    assert torch.equal(torch.cat([batch["index"] for batch in batches]), datamodule.splits[split].index)


def test_batches_have_the_size_that_was_asked_for(ready, own):
    assert [len(batch["sums"]) for batch in ready(own).batches("train")] == [4] * 6


def test_the_training_mean_is_of_the_training_sums_alone(ready, own):
    datamodule = ready(own)
    training = datamodule.splits["train"].index
    assert datamodule.train_mean == pytest.approx(training.double().mean().item())
    assert datamodule.train_mean != pytest.approx(14.5)  # the mean of all


def test_the_arrays_are_opened_once(ready, own):
    datamodule = ready(own)
    before = datamodule.splits
    datamodule.setup("test")
    assert datamodule.splits is before


def test_wrong_data_are_refused_in_setup(own, tmp_path):
    datamodule = SumDataModule(replace(own, root=str(tmp_path / "none")))
    with pytest.raises(InputError, match="none"):
        datamodule.setup()


# --- the trainer's processes and device


def trainer(*, rank=0, world_size=1, device="cpu"):
    """As much of a trainer as the data module asks for."""
    return SimpleNamespace(
        global_rank=rank, world_size=world_size, strategy=SimpleNamespace(root_device=torch.device(device))
    )


LOADERS = {
    "train": lambda datamodule: datamodule.train_dataloader(),
    "val": lambda datamodule: datamodule.val_dataloader(),
    "test": lambda datamodule: datamodule.batches("test"),
}


@pytest.mark.parametrize("loader", LOADERS.values(), ids=LOADERS)
def test_each_process_of_the_trainer_has_its_part(ready, own, loader):
    datamodule = ready(own)
    whole = list(loader(datamodule))
    parts = []
    for rank in range(2):
        datamodule.trainer = trainer(rank=rank, world_size=2)
        parts.append(list(loader(datamodule)))
    for one, *cut in zip(whole, *parts, strict=True):
        assert torch.equal(torch.cat([part["index"] for part in cut]), one["index"])


@pytest.mark.parametrize("split", ["train", "val", "test"])
def test_a_batch_smaller_than_the_number_of_processes_is_refused(ready, own, split):
    datamodule = ready(own)
    datamodule.trainer = trainer(rank=3, world_size=4)
    assert datamodule.batches(split).world_size == 4
    datamodule.trainer = trainer(rank=3, world_size=5)
    with pytest.raises(InputError, match=r"data\.batch_size: .*each of the 5 processes, got 4"):
        datamodule.batches(split)


@pytest.fixture
def room(monkeypatch):
    """Give every device room for so many bytes of images."""

    def make(num_bytes):
        monkeypatch.setattr("digitsum.data.datamodule.device_room", lambda device: num_bytes)

    return make


def test_training_and_validation_images_are_put_on_the_device_once(ready, own, room):
    room((24 + 3) * 3 * 5)
    datamodule = ready(own)
    expected = {split: list(loader(datamodule)) for split, loader in LOADERS.items()}
    datamodule.trainer = trainer()
    for split, loader in LOADERS.items():
        first, again = (loader(datamodule) for _ in range(2))
        assert first.device_cache is again.device_cache
        assert (first.device_cache is None) == (split == "test")
        for one, two in zip(first, expected[split], strict=True):
            assert all(torch.equal(one[name], two[name]) for name in ("images", "index", "sums"))


def test_images_that_do_not_fit_stay_on_the_disk(ready, own, room):
    room((24 + 3) * 3 * 5 - 1)
    datamodule = ready(own)
    datamodule.trainer = trainer()
    assert datamodule.train_dataloader().device_cache is None


def test_images_stay_on_the_disk_if_told_to_or_without_a_gpu(ready, own, room):
    datamodule = ready(own)
    datamodule.trainer = trainer()
    assert datamodule.train_dataloader().device_cache is None
    room(10**9)
    datamodule = ready(replace(own, on_device=False))
    datamodule.trainer = trainer()
    assert datamodule.train_dataloader().device_cache is None


def test_evaluation_without_a_trainer_reads_from_the_disk(ready, own, room):
    room(10**9)
    assert ready(own).batches("val").device_cache is None


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_small_sets_are_kept_on_a_gpu(ready, own):
    datamodule = ready(own)
    datamodule.trainer = trainer(device="cuda:0")
    assert all(batch["images"].is_cuda and batch["sums"].is_cuda for batch in datamodule.train_dataloader())


# --- the order


def test_large_sets_alone_are_shuffled_by_blocks_unless_told_otherwise(ready, own, monkeypatch):
    def blocks(shuffle):
        return ready(replace(own, shuffle=shuffle)).train_dataloader().blocks

    assert [blocks(shuffle) for shuffle in ("auto", "full", "blocks")] == [False, False, True]
    monkeypatch.setattr("digitsum.data.datamodule.BLOCKS_ABOVE", 24 * 3 * 5)
    assert not blocks("auto")
    monkeypatch.setattr("digitsum.data.datamodule.BLOCKS_ABOVE", 24 * 3 * 5 - 1)
    assert [blocks(shuffle) for shuffle in ("auto", "full", "blocks")] == [True, False, True]


@pytest.mark.parametrize("make", [ComposedData, lambda **settings: ArraysData("folder", **settings)])
def test_an_unknown_shuffle_is_refused(make):
    with pytest.raises(InputError, match=r"data\.shuffle: expected one of auto, full, blocks, got 'all'"):
        make(shuffle="all")


def test_the_images_are_read_for_a_checkpoint_once(ready, own, monkeypatch):
    datamodule = ready(own)
    first = datamodule.state_dict()
    monkeypatch.setattr("digitsum.data.shards.SumDataset.fingerprint", None)
    assert datamodule.state_dict() == first
    assert first.keys() == {"train", "val", "test"}


# --- settings


@pytest.mark.parametrize("batch_size", [0, -1])
@pytest.mark.parametrize("make", [ComposedData, lambda **settings: ArraysData("folder", **settings)])
def test_a_batch_size_below_one_is_refused(make, batch_size):
    with pytest.raises(InputError, match=rf"data\.batch_size: .*{batch_size}"):
        make(batch_size=batch_size)


def test_a_negative_split_seed_is_refused():
    with pytest.raises(InputError, match=r"data\.split_seed: .*-1"):
        ArraysData("folder", split_seed=-1)


def test_composed_data_are_checked_as_compositions_are():
    with pytest.raises(InputError, match=r"data\.num_val"):
        ComposedData(num_val=0)


# --- what a checkpoint says


@pytest.fixture(params=["arrays", "composed"])
def data(request):
    if request.param == "arrays":
        return ArraysData("/my/arrays", split_seed=3, batch_size=32)
    return ComposedData(
        glyphs="mnist",
        glyphs_shared=True,
        num_train=100,
        compose_seed=4,
        layout=Layout(width=210, num_digits=[1, 5], overlap="max"),
        mnist_root="/my/mnist",
        datasets_dir="/my/datasets",
        batch_size=32,
    )


def saved(data, folder):
    """The description of `data` as a checkpoint gives it back."""
    torch.save(dict(SumDataModule(data).hparams), folder / "hparams.pt")
    return torch.load(folder / "hparams.pt", weights_only=True)


def test_hyperparameters_are_plain_enough_for_a_checkpoint(data, tmp_path):
    kind = "arrays" if isinstance(data, ArraysData) else "composed"
    assert saved(data, tmp_path) == {"data": {"kind": kind, **asdict(data)}}


def test_data_come_back_from_their_description(data, tmp_path):
    described = saved(data, tmp_path)["data"]
    again = data_of(described, NOWHERE, Path("last.ckpt"))
    assert type(again) is type(data)
    assert again == data


def test_the_description_is_left_as_it_was(data, tmp_path):
    described = saved(data, tmp_path)["data"]
    data_of(described, {"root": "/here"}, Path("last.ckpt"))
    assert described == saved(data, tmp_path)["data"]


def test_places_on_this_machine_replace_those_of_the_description(data, tmp_path):
    described = saved(data, tmp_path)["data"]
    places = {"root": "/here/arrays", "mnist_root": "/here/mnist", "datasets_dir": "/here/datasets"}
    again = data_of(described, places, Path("last.ckpt"))
    changed = {name: place for name, place in places.items() if hasattr(data, name)}
    assert changed
    assert again == replace(data, **changed)


COMPOSED = {"kind": "composed", **asdict(ComposedData())}


@pytest.mark.parametrize(
    "description",
    [
        None,
        17,
        "bundled",
        [1, 2],
        {},
        asdict(ArraysData("/my/arrays")),
        {"kind": "video"},
        {"kind": ["arrays"], "root": "/my/arrays"},
        {"kind": "arrays"},
        {"kind": "arrays", "root": "/my/arrays", "colour": "red"},
        {"kind": "arrays", "root": "/my/arrays", "batch_size": "many"},
        {name: value for name, value in COMPOSED.items() if name != "layout"},
        COMPOSED | {"layout": None},
        COMPOSED | {"layout": {"depth": 3}},
    ],
)
def test_a_checkpoint_that_does_not_describe_its_data_is_refused_by_its_name(description):
    with pytest.raises(InputError, match=r"^last\.ckpt: .*input=PATH") as caught:
        data_of(description, NOWHERE, Path("last.ckpt"))
    assert "\n" not in str(caught.value)


def test_a_description_out_of_range_is_refused_by_the_setting():
    with pytest.raises(InputError, match=r"data\.batch_size"):
        data_of({"kind": "arrays", "root": "/my/arrays", "batch_size": 0}, NOWHERE, Path("last.ckpt"))


@pytest.mark.parametrize(("step", "steps", "shift"), [(0, 4, 2.0), (3, 4, 1.5), (4, 4, 1.0), (9, float("inf"), 2.0)])
def test_augmentation_shrinks_as_the_training_comes_to_its_end(ready, own, monkeypatch, step, steps, shift):
    datamodule, used = ready(own, augmentation=Augmentation(shift=2.0, final=0.5)), []
    monkeypatch.setattr(Augmentation, "__call__", lambda self, images: used.append(self.shift) or images)
    batch = next(iter(datamodule.train_dataloader()))
    datamodule.trainer = SimpleNamespace(training=True, global_step=step, estimated_stepping_batches=steps)
    datamodule.on_after_batch_transfer(batch, 0)
    assert used == [shift]
