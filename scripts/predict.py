"""Read sums off images with a trained model; evaluate it where the sums are known.

    python scripts/predict.py                                    the newest run, on its own validation set
    python scripts/predict.py split=train                        on its training set: train, val, test or all
    python scripts/predict.py ckpt_path=FILE input=FOLDER        on shards data0.npy, lab0.npy, ... (lab* optional)
    python scripts/predict.py ckpt_path=FILE input=images.npy    on one array of images
    python scripts/predict.py ckpt_path=FILE input=photo.png     on a picture, or a folder of them

Settings, as key=value:
    ckpt_path=FILE|reader    the checkpoint; it holds all that is needed. Default: the newest finished run's best one.
                             reader: the published one, which comes with the package.
                             Or an ONNX file of scripts/export.py, with input=
    split=train|val|test|all the run's own data (default val)
    input=PATH               images to read instead
    prepare=auto|none        of pictures: bring paper, rules, rows and sizes to what the model knows (default), or
                             scale them as they are
    num_digits=null|4|[1,8]  how many digits the images hold, for a model that reads them; null: any number.
                             Default: what it was trained for
    tta=1                    for such a model: over how many copies of an image to average, 1 to 6
    batch_size=N             images at once; default: 64 for a model that reads digits, else 512
    trainer=auto|cpu|gpu|mps
    mnist_root=FOLDER        where MNIST is, if the run's data must be composed anew
    data_root=FOLDER         where the run's own arrays are, if they have moved
    debug=true               show a mistake's traceback

On a photo, scan or drawing the rows of digits are found, each a line of predictions.csv, which says what was done to it
and why it may be wrong; a picture that is like the training images stays as it is. A file that cannot be read is left
out and named, and the exit code is then 3.

Writes predictions.csv, and where the sums are known metrics.json, scatter.png and worst.png, into
outputs/predictions/<time>/; for a model that reads digits also overlays.png (of pictures all, in pages) and, where the
sums are known, reliability.png.
"""

from digitsum.cli.console import print_help_and_exit, report_user_errors, run_script
from digitsum.cli.project import PROJECT

if __name__ == "__main__":
    print_help_and_exit(__doc__)  # before the imports below, which take seconds

import hydra
from omegaconf import DictConfig

from digitsum.cli.build import register
from digitsum.cli.predict import run

register()


@hydra.main(version_base="1.3", config_path=f"{PROJECT}/conf", config_name="predict")
@report_user_errors
def main(cfg: DictConfig) -> None:
    """Predict as `cfg` says."""
    run(cfg)


if __name__ == "__main__":
    run_script(main, "predict")
