"""The LightningDataModule: from a description of the data to batches of images and sums."""

from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, fields
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

import lightning as L

from digitsum.data.augmentation import Augmentation
from digitsum.data.batches import Batch, Batches, device_room, ink_widths, on_device
from digitsum.data.canvases import Layout
from digitsum.data.composed import Composition, cached_dataset, dataset_folder
from digitsum.data.glyphs import SPLITS
from digitsum.data.recomposition import Recomposition
from digitsum.data.shards import SumDataset, open_splits
from digitsum.errors import InputError, check

SHUFFLES = ("auto", "full", "blocks")

BLOCKS_ABOVE = 4 * 10**9
"""Bytes of training images above which `shuffle: auto` is `blocks`: the same on every machine, as a run's order must
be, and little enough for the memory of one of 8 GB."""


@dataclass
class ArraysData:
    """The user's own folder of shards (see `digitsum.data.shards.open_splits`)."""

    kind: ClassVar = "arrays"
    root: str
    split_seed: int = 0  # of the 80/10/10 split; not the run's seed, so that a sweep of seeds has one validation set
    batch_size: Any = 64  # images a batch, of all processes together; `auto` until the images are counted
    # of the training images: `full`, `blocks` (of neighbours on the disk, for sets larger than memory; see
    # `digitsum.data.batches`), or `auto`: `blocks` above `BLOCKS_ABOVE`
    shuffle: str = "auto"
    on_device: bool = True  # training and validation images stay on the GPU, if half of its free memory will do
    # training batches of images of like width, cut behind their ink, for networks that take any width: twice as fast
    # where a third of a canvas is blank; not where `shuffle` is `blocks`
    bucket_by_width: bool = False

    def __post_init__(self) -> None:
        self.root = str(Path(self.root).absolute())  # a checkpoint must find it from wherever it is used
        _check(self)
        check("data.split_seed", self.split_seed, self.split_seed >= 0, "0 or more")


@dataclass
class ComposedData(Composition):
    """A composed data set (see `digitsum.data.composed.Composition`) and where its parts are on this machine."""

    kind: ClassVar = "composed"
    mnist_root: str | None = None  # the folder that holds `MNIST/raw`
    download: bool = False  # whether MNIST may be downloaded to it
    datasets_dir: str = "outputs/datasets"  # the folder in which composed sets are cached
    batch_size: Any = 64  # this and the rest are those of `ArraysData`
    shuffle: str = "auto"
    on_device: bool = True
    bucket_by_width: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        _check(self)

    @cached_property
    def composition(self) -> Composition:
        """What determines the arrays, without where they are."""
        return Composition(**{name: getattr(self, name) for name in Composition.__dataclass_fields__})


class SumDataModule(L.LightningDataModule):
    """Batches of images and sums, uint8 (or float32) up to the device.

    `setup` raises an InputError for whatever is wrong with the data.

    Args:
        data: where the images and sums come from.
        shuffle_seed: of the order in which an epoch sees the training images.
        augmentation: of the training images; None or all zeros leave them as they are.
        progress: see `digitsum.data.composed.write_dataset`.
    """

    def __init__(
        self,
        data: ArraysData | ComposedData,
        shuffle_seed: int = 0,
        augmentation: Augmentation | None = None,
        progress: Callable[[int], None] | None = None,
    ) -> None:
        super().__init__()
        self.data = data
        self.shuffle_seed = shuffle_seed
        self.augmentation = augmentation
        self._progress = progress
        self.splits: dict[str, SumDataset] = {}
        self._fingerprints: dict[str, str] = {}
        self._device_cache: dict[str, Batch] | None = None
        self._recomposition: tuple[Recomposition, float] | None = None
        # plain values alone: a checkpoint is loaded with weights_only=True
        self.save_hyperparameters({"data": {"kind": data.kind, **asdict(data)}}, logger=False)

    def prepare_data(self) -> None:
        """Compose the data set unless it is cached."""
        data = self.data
        if isinstance(data, ComposedData):
            options = {"mnist_root": data.mnist_root, "download": data.download, "progress": self._progress}
            cached_dataset(data.composition, Path(data.datasets_dir), **options)

    def setup(self, stage: str | None = None) -> None:
        """Open and check the arrays, once; after `prepare_data`."""
        if not self.splits:
            seed = self.data.split_seed if isinstance(self.data, ArraysData) else 0
            self.splits = open_splits(self.folder, seed)

    @cached_property
    def folder(self) -> Path:
        """The folder of the data; a composed set is there after `prepare_data`."""
        if isinstance(self.data, ArraysData):
            return Path(self.data.root)
        return dataset_folder(self.data.composition, Path(self.data.datasets_dir))

    def state_dict(self) -> dict[str, Any]:
        """A checkpoint knows the data that it was trained on."""
        if not self._fingerprints:  # once: images all over the disk are read for it
            self._fingerprints = {split: dataset.fingerprint() for split, dataset in self.splits.items()}
        return dict(self._fingerprints)

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Refuse, with an InputError, data that differ from those of the checkpoint that a run resumes from."""
        self.check_unchanged(state_dict, SPLITS, "start a new run from its weights with init_from=CHECKPOINT")

    def check_unchanged(self, recorded: dict[str, Any], splits: Iterable[str], instead: str) -> None:
        """Refuse splits that are not as a checkpoint has recorded them, if it has; `instead` says what else to do."""
        found = self.state_dict()
        for split in splits:
            if recorded.get(split, found[split]) != found[split]:
                raise InputError(
                    f"{self.folder}: the {split} data have changed since the checkpoint; restore them, or {instead}"
                )

    @property
    def image_size(self) -> tuple[int, int]:
        """`(H, W)` of every image; after `setup`."""
        return self.splits["train"].images.image_size

    @property
    def train_mean(self) -> float:
        """The mean of the training sums, the mean baseline under squared error; after `setup`."""
        train = self.splits["train"]
        assert train.sums is not None
        return train.sums[train.index].double().mean().item()

    def batches(self, split: str, *, shuffle: bool = False) -> Batches:
        """Batches of `split` (`train`, `val`, `test`), from first to last unless `shuffle`; after `setup`.

        With a trainer, its process's part of them, and on its GPU where they fit (see `ArraysData`). An InputError
        refuses batches of fewer images than there are processes.
        """
        rank, world_size = (0, 1) if self.trainer is None else (self.trainer.global_rank, self.trainer.world_size)
        size, expected = self.data.batch_size, f"at least one image for each of the {world_size} processes"
        check("data.batch_size", size, size >= world_size, expected)
        large = self.splits["train"].num_bytes > BLOCKS_ABOVE
        blocks = large if self.data.shuffle == "auto" else self.data.shuffle == "blocks"
        bucketed = shuffle and self.data.bucket_by_width and not blocks
        return Batches(
            self.splits[split],
            size,
            self.shuffle_seed if shuffle else None,
            rank=rank,
            world_size=world_size,
            blocks=blocks,
            device_cache=self._device_caches().get(split),
            widths=ink_widths(self.splits[split]) if bucketed else None,
        )

    def _device_caches(self) -> dict[str, Batch]:
        """Training and validation set on the trainer's device, put there when first asked for, if they fit."""
        if self._device_cache is None and self.trainer is not None and self.data.on_device:
            device = self.trainer.strategy.root_device
            kept = {split: self.splits[split] for split in ("train", "val")}
            fit = sum(dataset.num_bytes for dataset in kept.values()) <= device_room(device)
            self._device_cache = {split: on_device(dataset, device) for split, dataset in kept.items()} if fit else {}
        return self._device_cache or {}

    def train_dataloader(self) -> Batches:
        """Shuffled batches."""
        return self.batches("train", shuffle=True)

    def val_dataloader(self) -> Batches:
        """Batches from first to last."""
        return self.batches("val")

    def recompose(self, recomposition: Recomposition, share: float) -> None:
        """Let `recomposition` compose a share of the training images anew from now on."""
        self._recomposition = recomposition, share

    def on_after_batch_transfer(self, batch: Batch, dataloader_idx: int) -> Batch:
        """Compose a share of a training batch anew and augment it, on the device."""
        if self.trainer is None or not self.trainer.training or not len(batch["images"]):
            return batch
        if self._recomposition is not None:
            compose, share = self._recomposition
            images, sums, digits = compose(batch["images"], batch["sums"], batch["index"], share)
            batch = {**batch, "images": images, "sums": sums, "digits": digits}
        if self.augmentation:
            augment = self.augmentation
            if augment.final < 1:  # a training without an end never comes nearer to it
                augment = augment.at(self.trainer.global_step / self.trainer.estimated_stepping_batches)
            return {**batch, "images": augment(batch["images"])}
        return batch


def data_of(description: Any, places: dict[str, str | None], path: Path) -> ArraysData | ComposedData:
    """The data that a checkpoint describes: what `SumDataModule` saved in its hyperparameters.

    `places` are `root`, `mnist_root`, `datasets_dir` on this machine; None leaves what the checkpoint says.

    Raises:
        InputError: the checkpoint at `path` describes no data, or none that this version knows.
    """
    try:
        values = dict(description)
        kind = {kind.kind: kind for kind in (ArraysData, ComposedData)}[values.pop("kind")]
        known = kind.__dataclass_fields__
        values |= {key: place for key, place in places.items() if place is not None and key in known}
        if kind is ComposedData:
            values["layout"] = _checked(Layout(**values["layout"]))
        return _checked(kind(**values))
    except InputError as error:
        raise InputError(f"{path}: {error}; pass input=PATH instead of its data") from error
    except (TypeError, KeyError, ValueError) as error:
        raise InputError(
            f"{path}: this checkpoint does not say what data it was trained on; pass input=PATH"
        ) from error


def _checked(settings: Any) -> Any:
    """`settings` themselves, if each value is of the type that its field has; else a TypeError."""
    for entry in fields(settings):
        if entry.type is not Any and not isinstance(getattr(settings, entry.name), entry.type):  # type: ignore[arg-type]
            raise TypeError(f"{entry.name} is no {entry.type}")
    return settings


def _check(data: ArraysData | ComposedData) -> None:
    size = data.batch_size
    check("data.batch_size", size, size == "auto" or (type(size) is int and size >= 1), "1 or more images")
    check("data.shuffle", data.shuffle, data.shuffle in SHUFFLES, f"one of {', '.join(SHUFFLES)}")
