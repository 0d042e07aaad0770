"""Write a trained model as a file for other programs: ONNX, torch.export, or its weights alone.

    python scripts/export.py out=model.onnx                                  the newest run's best checkpoint
    python scripts/export.py ckpt_path=FILE out=model.onnx                   another one
    python scripts/export.py out=frames.onnx outputs=log_probs               of a reader, for images of any width
    python scripts/export.py out=model.pt2 format=torch_export
    python scripts/export.py out=model.safetensors format=safetensors

Settings, as key=value:
    out=FILE                    the file to write
    ckpt_path=FILE|reader       the checkpoint, or the published one. Default: the newest finished run's best one
    format=onnx|torch_export|safetensors    (default onnx)
    outputs=answer|log_probs    of a reader: all that it says, of images of one width (default), or what it sees in each
                                frame, of images of any width; a regression answers with its sum
    width=N                     of the images, for a reader's answer. Default: as it was trained
    num_digits=null|4|[1,8]     how many digits the images hold, for a reader; null: any number. Default: as it was
                                trained
    debug=true                  show a mistake's traceback

The graphs take uint8 images (N, H, W), any number at once. Before the file is written it answers images (the run's own
validation images, or canvases of bundled digits) beside the checkpoint: with any other sum, or a difference above
1e-4, nothing is written. ONNX needs: pip install -e '.[export]' -c constraints.txt

Read with it: python scripts/predict.py ckpt_path=model.onnx input=photo.png
"""

from digitsum.cli.console import print_help_and_exit, report_user_errors, run_script
from digitsum.cli.project import PROJECT

if __name__ == "__main__":
    print_help_and_exit(__doc__)  # before the imports below, which take seconds

import hydra
from omegaconf import DictConfig

from digitsum.cli.build import register
from digitsum.cli.export import run

register()


@hydra.main(version_base="1.3", config_path=f"{PROJECT}/conf", config_name="export")
@report_user_errors
def main(cfg: DictConfig) -> None:
    """Export as `cfg` says."""
    run(cfg)


if __name__ == "__main__":
    run_script(main, "export")
