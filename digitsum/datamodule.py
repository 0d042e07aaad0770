"""The LightningDataModule: from a description of the data to batches of images and sums."""

from collections.abc import Callable
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import lightning as L

from digitsum.arrays import SumArrays, open_splits
from digitsum.augmentation import Augmentation
from digitsum.batches import Batch, Batches
from digitsum.canvases import Layout
from digitsum.datasets import Composition, cached_dataset
from digitsum.errors import InputError
from digitsum.glyphs import SPLITS


@dataclass
class ArraysData:
    """The user's own folder of shards (see `digitsum.arrays.open_splits`).

    Attributes:
        root: the folder.
        split_seed: of the 80/10/10 split; not the run's seed, so that a sweep over seeds has one validation set.
        batch_size: images a batch.
    """

    root: str
    split_seed: int = 0
    batch_size: int = 64

    def __post_init__(self) -> None:
        _check_batch_size(self.batch_size)
        if self.split_seed < 0:
            raise InputError(f"data.split_seed: expected 0 or more, got {self.split_seed}")


@dataclass
class ComposedData(Composition):
    """A composed data set (see `digitsum.datasets.Composition`) and where its parts are on this machine.

    Attributes:
        mnist_root: the folder that holds `MNIST/raw`.
        download: whether MNIST may be downloaded to `mnist_root`.
        datasets_dir: the folder in which composed sets are cached.
        batch_size: images a batch.
    """

    mnist_root: str | None = None
    download: bool = False
    datasets_dir: str = "outputs/datasets"
    batch_size: int = 64

    def __post_init__(self) -> None:
        super().__post_init__()
        _check_batch_size(self.batch_size)

    @property
    def composition(self) -> Composition:
        """What determines the arrays, without where they are."""
        return Composition(**{name: getattr(self, name) for name in Composition.__dataclass_fields__})


class SumDataModule(L.LightningDataModule):
    """Batches of images and sums, uint8 (or float32) up to the device.

    Args:
        data: where the images and sums come from.
        shuffle_seed: of the order in which an epoch sees the training images.
        augmentation: how far training images are bent; None or all zeros leave them as they are.
        progress: see `digitsum.datasets.write_dataset`.

    Raises:
        InputError: in `setup`, whatever is wrong with the data.
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
        self.splits: dict[str, SumArrays] = {}
        # plain values alone: a checkpoint is loaded with weights_only=True
        self.save_hyperparameters({"data": {"kind": _kind(data), **asdict(data)}}, logger=False)

    def prepare_data(self) -> None:
        """Compose the data set unless it is cached."""
        _ = self.folder

    def setup(self, stage: str | None = None) -> None:
        """Open and check the arrays, once."""
        if not self.splits:
            seed = self.data.split_seed if isinstance(self.data, ArraysData) else 0
            self.splits = open_splits(self.folder, seed)

    def state_dict(self) -> dict[str, Any]:
        """A checkpoint knows the data that it was trained on."""
        return {split: arrays.fingerprint() for split, arrays in self.splits.items()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Compare the data with those of the checkpoint that a run resumes from.

        Raises:
            InputError: they differ.
        """
        for split, fingerprint in self.state_dict().items():
            if state_dict.get(split) != fingerprint:
                raise InputError(
                    f"{self.folder}: the {split} data have changed since the checkpoint; restore them, or start a "
                    "new run from its weights with init_from=CHECKPOINT"
                )

    @property
    def image_size(self) -> tuple[int, int]:
        """`(H, W)` of every image; after `setup`."""
        return self.splits["train"].images.image_size

    @property
    def train_mean(self) -> float:
        """The mean of the training sums, the best constant answer under squared error; after `setup`."""
        train = self.splits["train"]
        assert train.sums is not None
        return train.sums[train.index].double().mean().item()

    def batches(self, split: str, *, shuffle: bool = False) -> Batches:
        """Batches of `split` (`train`, `val`, `test`), from first to last unless `shuffle`; after `setup`."""
        assert split in SPLITS
        return Batches(self.splits[split], self.data.batch_size, self.shuffle_seed if shuffle else None)

    def train_dataloader(self) -> Batches:
        """Shuffled batches."""
        return self.batches("train", shuffle=True)

    def val_dataloader(self) -> Batches:
        """Batches from first to last."""
        return self.batches("val")

    def test_dataloader(self) -> Batches:
        """Batches from first to last."""
        return self.batches("test")

    def on_after_batch_transfer(self, batch: Batch, dataloader_idx: int) -> Batch:
        """Augment a training batch, on the device."""
        if self.augmentation and self.trainer is not None and self.trainer.training:
            return {**batch, "images": self.augmentation(batch["images"])}
        return batch

    @property
    def folder(self) -> Path:
        """The folder of the data; a composed set is composed now unless it is cached."""
        if isinstance(self.data, ArraysData):
            return Path(self.data.root)
        return cached_dataset(
            self.data.composition,
            Path(self.data.datasets_dir),
            mnist_root=self.data.mnist_root,
            download=self.data.download,
            progress=self._progress,
        )


def data_of(description: Any, places: dict[str, str | None], path: Path) -> ArraysData | ComposedData:
    """The data that a checkpoint describes, at its places on this machine.

    Args:
        description: what `SumDataModule` saved in the checkpoint's hyperparameters.
        places: `root`, `mnist_root`, `datasets_dir` on this machine; None leaves what the checkpoint says.
        path: of the checkpoint, named in errors.

    Raises:
        InputError: the checkpoint describes no data, or none that this version knows.
    """
    kinds: dict[str, type[ArraysData] | type[ComposedData]] = {"arrays": ArraysData, "composed": ComposedData}
    try:
        values = dict(description)
        kind = kinds[values.pop("kind")]
        values |= {
            key: place for key, place in places.items() if place is not None and key in kind.__dataclass_fields__
        }
        if kind is ComposedData:
            values["layout"] = _checked(Layout(**values["layout"]))
        return _checked(kind(**values))
    except InputError:
        raise
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


def _kind(data: ArraysData | ComposedData) -> str:
    return "arrays" if isinstance(data, ArraysData) else "composed"


def _check_batch_size(batch_size: int) -> None:
    if batch_size < 1:
        raise InputError(f"data.batch_size: expected 1 or more images, got {batch_size}")
