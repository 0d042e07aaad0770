"""Compose a data set of canvases with their sums, and write it where you like.

    python scripts/make_data.py out=FOLDER                          the demo set, from the bundled handwriting
    python scripts/make_data.py out=FOLDER data=mnist               30,000 images from MNIST digits
    python scripts/make_data.py out=FOLDER data.num_train=50000 'data.layout.num_digits=[2,6]' data.layout.width=252

Settings, as key=value:
    out=FOLDER                        where to; must not exist
    data=demo|mnist                   where the digits come from
    data.glyphs=arrays data.glyph_images=FILE.npy data.glyph_labels=FILE.npy     your own, (G, 28, 28) uint8 and (G,)
    data.glyphs_shared=true           let training, validation and test draw from one pool of digits
    data.num_train=... data.num_val=... data.num_test=...
    data.compose_seed=0               of the layouts and of which digits are drawn
    data.layout.KEY=...               num_digits height width first_offset pitch_jitter vertical_jitter digit_scale pen
                                      overlap

Writes train/, val/ and test/ with shards data0.npy, lab0.npy, ..., what was drawn (truth0.npz), dataset.json and
canvases.png. Train on it with: python scripts/train.py data=arrays data.root=FOLDER
"""

from digitsum.cli.console import log, print_help_and_exit, report_user_errors, run_script
from digitsum.cli.project import PROJECT

if __name__ == "__main__":
    print_help_and_exit(__doc__)  # before the imports below, which take seconds

from pathlib import Path

import hydra
from omegaconf import DictConfig

from digitsum.cli.build import composing_bar, register, settings_of
from digitsum.cli.overrides import command_line
from digitsum.data.composed import write_dataset
from digitsum.data.datamodule import ComposedData
from digitsum.data.shards import open_splits
from digitsum.errors import InputError
from digitsum.figures import canvases_figure, write_figure
from digitsum.files import read_json
from digitsum.training.signals import Signals

register()


@hydra.main(version_base="1.3", config_path=f"{PROJECT}/conf", config_name="make_data")
@report_user_errors
def main(cfg: DictConfig) -> None:
    """Write the data set."""
    data = settings_of(cfg.data)
    if not isinstance(data, ComposedData):
        raise InputError("data: expected a source to compose from (demo or mnist), got arrays that exist already")
    folder = Path(cfg.out)
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise InputError(f"out: expected a folder that does not exist yet, but {folder} does; choose another")
    with Signals().listening():  # a signal leaves nothing unfinished behind
        write_dataset(
            data.composition, folder, mnist_root=data.mnist_root, download=data.download, progress=composing_bar(data)
        )
    train = open_splits(folder, split_seed=0)["train"]
    assert train.sums is not None
    first = train.index[:12]
    title = f"The first training canvases ({data.glyphs})"
    figure = canvases_figure(train.images.gather(first).numpy(), train.sums[first].numpy(), title)
    write_figure(folder / "canvases.png", figure)
    for split, values in read_json(folder / "dataset.json")["statistics"].items():
        log.info("%s: %s", split, ", ".join(f"{name} {value:,}" for name, value in values.items()))
    log.info("wrote %s", folder.resolve())
    log.info("next:\n  %s", command_line("scripts/train.py", **{"data": "arrays", "data.root": folder.resolve()}))


if __name__ == "__main__":
    run_script(main, "make_data")
