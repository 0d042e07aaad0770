"""Put a trained reader's weights into the package, once its figures have been measured again, with a card beside them.

    python scripts/publish.py ckpt_path=RUN/checkpoints/best.ckpt name=reader-1 pictures=FOLDER

Settings, as key=value:
    ckpt_path=FILE              a run's checkpoint, in the run's folder, whose config and environment the card repeats
    name=reader-1               the name that load_model("reader-1") will know, and load_model("reader") if it is newest
    pictures=FOLDER             pictures with truth.csv (columns file, sum) to measure on as well
    min_exact.test=0.93         share of right sums on the run's own test canvases, below which nothing is written;
                                likewise min_exact.four_digits and min_exact.pictures
    num_images=1000             canvases of each number of digits, one to eight, to measure on
    folder=FOLDER               where to. Default: digitsum/models/weights
    mnist_root=FOLDER           where MNIST is
    debug=true                  show a mistake's traceback

Weights are kept in half precision where not one sum differs. A version that is published never changes.
"""

from digitsum.cli.console import print_help_and_exit, report_user_errors, run_script
from digitsum.cli.project import PROJECT

if __name__ == "__main__":
    print_help_and_exit(__doc__)  # before the imports below, which take seconds

import hydra
from omegaconf import DictConfig

from digitsum.cli.build import register
from digitsum.cli.publish import run

register()


@hydra.main(version_base="1.3", config_path=f"{PROJECT}/conf", config_name="publish")
@report_user_errors
def main(cfg: DictConfig) -> None:
    """Publish as `cfg` says."""
    run(cfg)


if __name__ == "__main__":
    run_script(main, "publish")
