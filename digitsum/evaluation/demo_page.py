"""A page to draw on: gradio's, with a paper of our own that answers each stroke."""

import base64
import functools
import io
import logging
import os
import socket
from dataclasses import asdict
from pathlib import Path
from types import ModuleType
from typing import Any

from PIL import Image

from digitsum.errors import InputError
from digitsum.evaluation.answers import answers_html, answers_of, message_html
from digitsum.models.module import SumModule

MAX_FILE_SIZE = "20 MB"
NOTHING_DRAWN = "Nothing drawn yet. Write digits into the field, or choose a photo: their sum appears here."

_PAPER = """<div class="paper"><canvas aria-label="field to draw in"></canvas>
<span>Write digits here, with mouse or finger</span></div>
<div class="tools"><button class="undo">Undo</button><button class="clear">Clear</button><small>examples:</small>
<button data-rows="34">3 4</button><button data-rows="2508">2 5 0 8</button><button data-rows="197/46">two rows</button>
</div>"""
_HOST = "127.0.0.1"
_KEPT = 600  # seconds for which uploaded files are


def require_gradio() -> ModuleType:
    """The package of the extra `demo`, kept from asking anything of the network; an InputError says how to get it."""
    os.environ.update(GRADIO_ANALYTICS_ENABLED="False", HF_HUB_OFFLINE="1", HF_HUB_DISABLE_TELEMETRY="1")
    try:
        import gradio
    except ImportError as error:
        how = "pip install -e '.[demo]' -c constraints.txt"
        raise InputError(f"the page needs gradio, which is not installed; install it with: {how}") from error
    return gradio


def require_free(port: int) -> None:
    """Raise an InputError unless a page can be served at a port of this machine."""
    try:
        socket.create_server((_HOST, port)).close()
    except OSError as error:
        raise InputError(f"port: {port} is in use or may not be opened; choose another with port=N") from error


class Answerer:
    """What the page asks: a drawing or a file in, HTML or plain values out; for several threads at once.

    Args:
        module: the model, in evaluation mode.
        others: models whose sums stand beside its own, by their names.
    """

    def __init__(self, module: SumModule, others: dict[str, SumModule] | None = None) -> None:
        self.module = module
        self.others = others or {}

    def drawing(self, picture: str) -> str:
        """The answer to a drawing, a PNG as a `data:` URL; empty where nothing is drawn."""
        if not picture:
            return message_html(NOTHING_DRAWN)
        try:
            content = base64.b64decode(picture.partition("base64,")[2], validate=True)
            drawing = Image.open(io.BytesIO(content))
        except (OSError, ValueError, Image.DecompressionBombError):
            return message_html("This drawing did not arrive as a picture; draw again.", "refusal")
        return self._answer(drawing, "your drawing")

    def file(self, path: str | None) -> str:
        """The answer to a file; None where it was taken away."""
        return message_html(NOTHING_DRAWN) if path is None else self._answer(Path(path), Path(path).name)

    def values(self, path: str) -> list[dict[str, Any]]:
        """The fields of each `Reading` of a file, for other programs."""
        readings = [asdict(answer.reading) for answer in answers_of(self.module, Path(path))]
        return [{**reading, "file": Path(path).name} for reading in readings]

    def _answer(self, picture: Path | Image.Image, title: str) -> str:
        try:
            return answers_html(answers_of(self.module, picture, self.others), title)
        except InputError as error:
            return message_html(str(error).replace(str(picture), title), "refusal")


def build_page(answerer: Answerer) -> Any:
    """The page as gradio's `Blocks`; `launch_page` serves it."""
    gradio = require_gradio()

    def values(path: str | None) -> list[dict[str, Any]]:
        try:
            if path is None:
                raise InputError("expected a picture, got none")
            return answerer.values(path)
        except InputError as error:
            raise gradio.Error(str(error).replace(str(path), Path(path or "").name), print_exception=False) from error

    hidden = {"show_progress": "hidden", "api_visibility": "private"}
    with gradio.Blocks(title="digitsum", analytics_enabled=False, delete_cache=(_KEPT, _KEPT)) as page:
        html = functools.partial(gradio.HTML, apply_default_css=False)
        html("<h1>What is the sum?</h1>The digits below, read by a network that was only ever told sums.")
        with gradio.Row(elem_id="sides"):
            with gradio.Column(scale=3, min_width=320, elem_id="inputs"):
                script = _beside("demo_page.js")
                paper = html("", html_template=_PAPER, js_on_load=script)
                label = f"or a photo, a scan (at most {MAX_FILE_SIZE})"
                file = gradio.File(label=label, file_types=["image"], height=150, elem_id="file")
            with gradio.Column(scale=2, min_width=320):
                answer = html(message_html(NOTHING_DRAWN), elem_id="answer")
        call, result = gradio.Button(visible=False), gradio.JSON(visible=False)
        # of strokes that come faster than answers the last one counts
        paper.drawn(answerer.drawing, paper, answer, trigger_mode="always_last", **hidden)
        file.change(answerer.file, file, answer, **hidden)
        call.click(values, file, result, api_name="read")
    return page.queue(default_concurrency_limit=os.cpu_count())


def launch_page(page: Any, port: int) -> str:
    """Serve the page to this machine alone, from a thread, at a port that `require_free` took; returns its address."""
    gradio = require_gradio()
    logging.getLogger("httpx").setLevel(logging.WARNING)  # gradio asks its own server whether it is there
    _, address, _ = page.launch(
        server_name=_HOST,
        server_port=port,
        share=False,
        inbrowser=False,
        prevent_thread_lock=True,
        quiet=True,
        max_file_size=MAX_FILE_SIZE,
        footer_links=["api"],
        ssr_mode=False,
        mcp_server=False,
        pwa=False,
        enable_monitoring=False,
        theme=gradio.themes.Default(font=["system-ui", "sans-serif"], font_mono=["ui-monospace", "monospace"]),
        head=f"<style>{_beside('demo_page.css')}</style>",  # `css` would rewrite its selectors
    )
    return str(address)


@functools.cache
def _beside(name: str) -> str:
    return Path(__file__).with_name(name).read_text(encoding="utf-8")
