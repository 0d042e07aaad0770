"""A page to draw digits on, in the browser: their sum after each stroke, and what the model saw.

    python scripts/demo.py                                        the published reader
    python scripts/demo.py ckpt_path=best.ckpt                    another model
    python scripts/demo.py ckpt_path=best.ckpt two_conv=FILE      with another network's sum beside

Settings, as key=value:
    ckpt_path=reader|FILE    the model (default: the published reader); of one that reads no digits the sum alone
    two_conv=FILE            a checkpoint whose sum stands beside, the reference network's say
    num_digits=null|4|[1,8]  how many digits a row holds, for a reader; null: any number (default)
    port=7860
    debug=true               show a mistake's traceback

The page is for this machine alone (127.0.0.1) and asks nothing of any other; Ctrl-C ends it. It needs:
pip install -e '.[demo]' -c constraints.txt
"""

from digitsum.cli.console import print_help_and_exit, report_user_errors, run_script
from digitsum.cli.project import PROJECT

if __name__ == "__main__":
    print_help_and_exit(__doc__)  # before the imports below, which take seconds

import hydra
from omegaconf import DictConfig

from digitsum.cli.build import register
from digitsum.cli.demo import run

register()


@hydra.main(version_base="1.3", config_path=f"{PROJECT}/conf", config_name="demo")
@report_user_errors
def main(cfg: DictConfig) -> None:
    """Serve the page as `cfg` says."""
    run(cfg)


if __name__ == "__main__":
    run_script(main, "demo")
