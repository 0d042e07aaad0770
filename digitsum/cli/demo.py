"""The page to draw on as a config describes it."""

import threading
from typing import Any

import numpy as np
import torch
from omegaconf import DictConfig
from PIL import Image

from digitsum.cli.build import settings_of
from digitsum.cli.console import log
from digitsum.errors import check
from digitsum.evaluation.answers import answers_of
from digitsum.evaluation.demo_page import Answerer, build_page, launch_page, require_free, require_gradio
from digitsum.models.checkpoints import load_model


def run(cfg: DictConfig) -> None:
    """Serve the page until Ctrl-C."""
    page = page_of(cfg)
    address = launch_page(page, cfg.port)
    log.info("draw at %s (this machine alone; Ctrl-C ends it)", address)
    try:
        threading.Event().wait()
    except KeyboardInterrupt:
        log.info("ended")
    finally:
        page.close(verbose=False)


def page_of(cfg: DictConfig) -> Any:
    """The page that `cfg` describes, its model loaded and warm."""
    settings = settings_of(cfg)
    check("port", settings.port, 1 <= settings.port <= 65_535, "a number from 1 to 65535")
    require_free(settings.port)
    require_gradio()
    module = load_model(settings.ckpt_path)
    if module.net.predicts_digits:  # another model says its sum and nothing else
        module.net.set_decoding(num_digits=settings.num_digits)
    others = {}
    if settings.two_conv is not None:
        other = load_model(settings.two_conv)
        others[str(other.hparams["network"])] = other
    torch.set_num_threads(1)  # an image is too small to share; cores go to users instead
    stroke = Image.fromarray(np.pad(np.zeros((60, 10), np.uint8), 30, constant_values=255))
    answers_of(module, stroke, others)  # what the first picture imports and compiles takes seconds
    return build_page(Answerer(module, others))
