"""A trained model as a file for other programs, compared with the checkpoint before it is written."""

import importlib
import io
import json
import logging
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import safetensors.torch
import torch

import digitsum
from digitsum.errors import InputError, check
from digitsum.files import written_whole
from digitsum.metrics import round_sums
from digitsum.models.checkpoints import model_of, safetensors_of
from digitsum.models.ensemble import require_single
from digitsum.models.graphs import AnswerGraph, Graph, LogProbsGraph, SumGraph
from digitsum.models.module import SumModule
from digitsum.models.reader import STRIDE, Reader

FORMATS = ("onnx", "torch_export", "safetensors")
OUTPUTS = ("answer", "log_probs")
MAX_DIFFERENCE = 1e-4
"""The largest difference of an output from the checkpoint's with which a file is written."""

_OPSET = 20


@dataclass(frozen=True)
class Parity:
    """How an exported file compares with its checkpoint."""

    largest: float  # difference of any output on any image
    different_sums: int  # how many images have another sum
    different_digits: int  # and how many, where digits are put out, other digits
    num_images: int


def export(
    module: SumModule,
    path: Path,
    images: torch.Tensor,
    *,
    format: str = "onnx",
    outputs: str = "answer",
    width: int | None = None,
    metrics: Any = None,
) -> Parity:
    """Write a trained model to `path`, once it has answered `images` as the checkpoint does.

    Args:
        module: the model, in evaluation mode; `num_digits` is followed as it is set, `tta` is not.
        path: the file, which is replaced.
        images: `(N, H, W)` uint8, two or more, to compare on; they are cut or padded to `width`.
        format: `onnx`, `torch_export` (what `torch.export.load` reads) or `safetensors` (weights alone).
        outputs: `answer`, all that the model says of images of one width, or of a reader `log_probs`, its frames of
            images of any width; of the graph formats only.
        width: of the images of a reader's `answer`, in pixels; that of its training unless given.
        metrics: what to note in the file of how good the model is, plain values.

    Raises:
        InputError: an option that is unknown or that the network does not have; a package that is missing; a file that
            cannot be written; or one that would differ by more than `MAX_DIFFERENCE`, or in any sum. No file is left.
    """
    check("format", format, format in FORMATS, f"one of {', '.join(FORMATS)}")
    check("outputs", outputs, outputs in OUTPUTS, f"one of {', '.join(OUTPUTS)}")
    require_single(module, "export")
    if not isinstance(module.net, Reader) and outputs != "answer":
        raise InputError(f"outputs: expected answer, got {outputs}; this network has no frames")
    own_width = module.image_size[1]
    if width is not None:
        check("width", width, 8 <= width <= 4_000, "8 to 4,000 pixels")
        if width != own_width and (not isinstance(module.net, Reader) or format == "safetensors"):
            raise InputError(f"width: expected {own_width}, the only one that this file can have, got {width}")
    if format == "safetensors":
        content, run = _safetensors(module, path, metrics)
        parity = _compared(module.net, run, SumGraph(module.net).eval(), images)
    else:
        graph = _graph_of(module, outputs, width or own_width)
        images = torch.nn.functional.pad(images, (0, (width or own_width) - images.shape[2]))
        about = _about(module, graph, outputs, width or own_width, metrics)
        with _quiet():
            # of a width that is no multiple of the stride torch would take its rounding for a condition
            sample = torch.nn.functional.pad(images[:2], (0, -images.shape[2] % STRIDE if graph.variable_width else 0))
            content, run = (_onnx if format == "onnx" else _torch_export)(graph, sample, about)
        parity = _compared(module.net, run, graph, images)
        if graph.variable_width:
            wider = _compared(module.net, run, graph, torch.nn.functional.pad(images, (5, 22)))
            parity = max(parity, wider, key=lambda one: (one.different_sums, one.largest))
    if parity.different_sums or not parity.largest <= MAX_DIFFERENCE:
        found = f"{parity.largest:.1e}, and other sums on {parity.different_sums} of {parity.num_images} images"
        raise InputError(f"{path}: not written: expected differences of at most {MAX_DIFFERENCE:g}, found {found}")
    with written_whole(path) as file:
        file.write(content)
    return parity


def require(*names: str) -> list[ModuleType]:
    """Packages of the extra `export`; an InputError says how to get one that is missing."""
    try:
        return [importlib.import_module(name) for name in names]
    except ImportError as error:
        how = "pip install -e '.[export]' -c constraints.txt"
        raise InputError(f"ONNX needs {', '.join(names)}; install what is missing with: {how}") from error


def _graph_of(module: SumModule, outputs: str, width: int) -> Graph:
    if not isinstance(module.net, Reader):
        return SumGraph(module.net).eval()
    return (LogProbsGraph(module.net) if outputs == "log_probs" else AnswerGraph(module.net, width)).eval()


def _about(module: SumModule, graph: Graph, outputs: str, width: int, metrics: Any) -> dict[str, str]:
    """What stands in a file beside the graph."""
    height = module.image_size[0]
    hparams = {**module.hparams, "image_size": [height, width]}
    shape = ["batch", height, "width" if graph.variable_width else width]
    return {
        "digitsum_version": digitsum.__version__,
        "network": hparams["network"],
        "outputs": outputs,
        "input": json.dumps({"images": {"dtype": "uint8", "shape": shape}}),
        "output": json.dumps(graph.shapes),
        "normalisation": "the graph divides pixels 0..255 by 255; bright ink on 0",
        "hyper_parameters": json.dumps(hparams),
        **({} if metrics is None else {"metrics": json.dumps(metrics)}),
    }


_Run = Callable[[torch.Tensor], list[torch.Tensor]]


def _safetensors(module: SumModule, path: Path, metrics: Any) -> tuple[bytes, _Run]:
    about = {"digitsum_version": digitsum.__version__} | ({} if metrics is None else {"metrics": json.dumps(metrics)})
    content = safetensors_of(module, **about)
    weights = {"state_dict": safetensors.torch.load(content), "hyper_parameters": dict(module.hparams)}
    net = model_of(weights, path).net
    return content, lambda images: [net(images)]


def _onnx(graph: Graph, sample: torch.Tensor, about: dict[str, str]) -> tuple[bytes, _Run]:
    onnx, _, onnxruntime = require("onnx", "onnxscript", "onnxruntime")
    program = torch.onnx.export(
        graph,
        (sample,),
        dynamo=True,
        opset_version=_OPSET,
        input_names=["images"],
        output_names=list(graph.shapes),
        dynamic_shapes=_dynamic_shapes(graph),
        verbose=False,
    )
    assert program is not None
    model = program.model_proto
    for output, shape in zip(model.graph.output, graph.shapes.values(), strict=True):
        for dimension, name in zip(output.type.tensor_type.shape.dim, shape, strict=True):
            if isinstance(name, str):  # instead of a formula
                dimension.dim_param = name
    onnx.helper.set_model_props(model, about)
    model.producer_name, model.producer_version = "digitsum", digitsum.__version__
    onnx.checker.check_model(model, full_check=True)
    content = model.SerializeToString()
    session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])
    return content, lambda images: list(map(torch.from_numpy, session.run(None, {"images": images.numpy()})))


def _torch_export(graph: Graph, sample: torch.Tensor, about: dict[str, str]) -> tuple[bytes, _Run]:
    program = torch.export.export(
        graph,
        (sample,),
        dynamic_shapes=_dynamic_shapes(graph),
        strict=False,
        prefer_deferred_runtime_asserts_over_guards=True,  # it cannot prove which widths a strided convolution takes
    )
    file = io.BytesIO()
    torch.export.save(program, file, extra_files={f"{name}.txt": text for name, text in about.items()})
    content = file.getvalue()
    loaded = torch.export.load(io.BytesIO(content)).module()

    def run(images: torch.Tensor) -> list[torch.Tensor]:
        found = loaded(images)
        return list(found) if isinstance(found, tuple) else [found]

    return content, run


def _dynamic_shapes(graph: Graph) -> dict[str, Any]:
    dims: dict[int, Any] = {0: torch.export.Dim("batch", min=1)}
    if graph.variable_width:
        # of fewer than two frames torch would make a case of its own
        dims[2] = torch.export.Dim("width", min=2 * STRIDE, max=4_000)
    return {"images": dims}


@contextmanager
def _quiet() -> Iterator[None]:
    """Without torch's remarks on its own exporter."""
    names = ("torch.fx.experimental.symbolic_shapes", "torch.__trace", "onnxscript", "onnx_ir")
    loggers = [logging.getLogger(name) for name in names]
    levels = [logger.level for logger in loggers]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for logger in loggers:
            logger.setLevel(logging.ERROR)
        try:
            yield
        finally:
            for logger, level in zip(loggers, levels, strict=True):
                logger.setLevel(level)


@torch.no_grad()
def _compared(net: Any, run: _Run, graph: Graph, images: torch.Tensor) -> Parity:
    """The outputs of `run` against those that the network itself has."""
    prediction = net.predict(net(images))
    found = run(images)
    if graph.kind == "answer":
        sums, probability, probs, digits, _ = found
        pairs = [(probs, prediction.probs), (probability, prediction.probs.amax(1))]
        texts = ["".join(str(digit) for digit in row if digit >= 0) for row in digits.tolist()]
        different = sum(ours != theirs for ours, theirs in zip(texts, prediction.sequence.texts(), strict=True))
    else:
        output = net(images)
        pairs, different = [(found[0], output[:, 0] if graph.kind == "log_probs" else output)], 0
        sums = net.estimate(found[0][:, None] if graph.kind == "log_probs" else found[0])
    largest = torch.stack([(ours - theirs).abs().max() for ours, theirs in pairs]).max().item()  # NaN where one is
    others = int((round_sums(sums.float()) != round_sums(prediction.estimate.float())).sum())
    return Parity(largest, others, different, len(images))
