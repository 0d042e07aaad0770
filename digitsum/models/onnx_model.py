"""Exported models: an ONNX file that answers like the module that it was made from."""

import json
from pathlib import Path
from typing import Any

import lightning as L
import torch

from digitsum.errors import InputError
from digitsum.models.base import DigitSequence, Network, Prediction
from digitsum.models.checkpoints import require_file
from digitsum.models.export import require
from digitsum.models.module import SumModule
from digitsum.models.reader import Reader, ReaderSettings

_MAX_PIXELS = 4_000_000  # of an image that a file may be for


class OnnxModel(SumModule):
    """A `SumModule` whose network is an ONNX file: it reads and predicts, and cannot be trained.

    Float images are rounded to the 256 brightnesses that the file takes.
    """

    def __init__(self, net: Network, image_size: tuple[int, int], train_mean: float) -> None:
        L.LightningModule.__init__(self)
        self.image_size = image_size
        self.train_mean = train_mean
        self.net = net


def load_onnx(path: str | Path) -> OnnxModel:
    """Open a model that `scripts/export.py` wrote with `format=onnx`, in evaluation mode on the CPU.

    Raises:
        InputError: no such file, no ONNX, damaged, another program's, or onnxruntime is not installed.
    """
    path = Path(path)
    require_file(path)
    (onnxruntime,) = require("onnxruntime")
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    options.log_severity_level = 4  # what is wrong with a file is one line, and ours
    expected = f"{path}: expected an ONNX file written by scripts/export.py"
    try:
        session = onnxruntime.InferenceSession(path.read_bytes(), options, providers=["CPUExecutionProvider"])
        about = session.get_modelmeta().custom_metadata_map
    except Exception as error:  # a damaged file raises whatever the parser stumbled over
        raise InputError(f"{expected}, but it is damaged or no ONNX") from error
    try:
        hparams = json.loads(about["hyper_parameters"])
        height, width = hparams["image_size"]
        if not 0 < height * width <= _MAX_PIXELS:
            raise ValueError("absurd images")
        names = [output.name for output in session.get_outputs()]
        if about["outputs"] == "log_probs":
            net: Network = _OnnxReader(session, (height, width), hparams["options"]["num_digits"])
        else:
            net = {True: _OnnxAnswer, False: _OnnxSum}["probs" in names](session)
        model = OnnxModel(net, (height, width), float(hparams["train_mean"])).eval()
        with torch.inference_mode():
            if model.predict(torch.zeros(1, height, width, dtype=torch.uint8)).estimate.shape != (1,):
                raise ValueError("no sum for each image")
    except Exception as error:  # its notes and its graph may be anything
        raise InputError(f"{expected}, found another program's") from error
    return model


def _run(session: Any, images: torch.Tensor) -> list[torch.Tensor]:
    """The outputs of images `(N, H, W)`, on their device."""
    pixels = images if images.dtype == torch.uint8 else (images.float() * 255).round().to(torch.uint8)
    found = session.run(None, {"images": pixels.cpu().numpy()})
    return [torch.from_numpy(output).to(images.device) for output in found]


class _OnnxSum(Network):
    """A file whose output is the sum."""

    def __init__(self, session: Any) -> None:
        super().__init__()
        self.session = session

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return _run(self.session, images)[0]


class _OnnxAnswer(Network):
    """A file that says all itself, for one width and one choice of how many digits there are."""

    predicts_digits = True

    def __init__(self, session: Any) -> None:
        super().__init__()
        self.session = session

    def forward(self, images: torch.Tensor) -> Any:
        return _run(self.session, images)

    def estimate(self, output: Any) -> torch.Tensor:
        return output[0].float()

    def predict(self, output: Any) -> Prediction:
        _, _, probs, digits, positions = output
        return Prediction(self.estimate(output), probs, lambda: DigitSequence(digits, positions))

    def set_decoding(self, **options: Any) -> None:
        for name in options:
            raise InputError(
                f"{name}: it is fixed in this file; export it anew with another num_digits, or with outputs=log_probs"
            )


class _OnnxReader(Reader):
    """A file that classifies frames; the decoding is the reader's own."""

    def __init__(self, session: Any, image_size: tuple[int, int], num_digits: Any) -> None:
        super().__init__(image_size, ReaderSettings(num_digits=num_digits, width=1))
        for name in [*self._modules]:
            delattr(self, name)
        self.session = session

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return _run(self.session, images)[0].unsqueeze(1)

    def set_decoding(self, **options: Any) -> None:
        if "tta" in options:
            raise InputError("tta: an exported file reads one copy of an image; leave it out, or use the checkpoint")
        super().set_decoding(**options)
