"""`scripts/demo.py` as people start it and draw on it: in a browser, from other programs, ten at once."""

import base64
import io
import json
import queue
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from importlib.util import find_spec

import demo
import pytest
from conftest import ROOT
from PIL import Image, ImageDraw

import digitsum
from digitsum.evaluation.demo_page import NOTHING_DRAWN, Answerer

THREE = [(60, 20), (90, 15), (120, 30), (110, 80), (80, 95), (115, 110), (125, 140), (100, 180), (50, 185)]
FOUR = [(200, 20), (180, 110), (270, 110)], [(250, 60), (240, 190)]

needs_gradio = pytest.mark.skipif(find_spec("gradio") is None, reason="needs gradio, which the extra `demo` installs")


def best(run):
    return run / "checkpoints" / "best.ckpt"


@pytest.fixture(scope="module")
def answerer(finished_reader):
    return Answerer(digitsum.load_model(best(finished_reader)))


def as_url(picture):
    file = io.BytesIO()
    picture.save(file, "png")
    return "data:image/png;base64," + base64.b64encode(file.getvalue()).decode()


def photo(path, size=(400, 250)):
    """A 3 and a 4 in ink on grey paper."""
    picture = Image.new("L", size, 225)
    for stroke in (THREE, *FOUR):
        ImageDraw.Draw(picture).line([(x + 30, y + 30) for x, y in stroke], 40, 9, joint="curve")
    picture.save(path)
    return path


# the page's functions


def test_an_empty_drawing_is_answered_in_words(answerer):
    assert NOTHING_DRAWN in answerer.drawing("")
    assert "No digits found" in answerer.drawing(as_url(Image.new("RGB", (800, 300), "white")))


def test_a_drawing_on_transparent_ground_is_dark_on_paper(answerer, tmp_path):
    drawing = Image.new("RGBA", (800, 300), (0, 0, 0, 0))
    ImageDraw.Draw(drawing).line([(100, 50), (100, 250)], (0, 0, 0, 255), 14)
    assert 'class="sum"' in answerer.drawing(as_url(drawing))


@pytest.mark.parametrize("picture", ["hello", "data:image/png;base64,####", "data:image/png;base64,aGVsbG8="])
def test_a_drawing_that_is_no_picture_is_refused_in_words(answerer, picture):
    assert "did not arrive as a picture" in answerer.drawing(picture)


def test_a_file_that_is_no_picture_is_refused_by_its_name_alone(answerer, tmp_path):
    path = tmp_path / "notes.png"
    path.write_text("hello")
    html = answerer.file(str(path))
    assert "notes.png: expected a picture" in html
    assert str(tmp_path) not in html
    assert NOTHING_DRAWN in answerer.file(None)


def test_other_programs_get_the_fields_of_a_reading(answerer, tmp_path):
    (values,) = answerer.values(str(photo(tmp_path / "photo.png")))
    assert values["file"] == "photo.png"
    assert values["sum"] == sum(map(int, values["digits"]))
    assert {"probability", "low", "high", "positions", "warnings", "line", "changes"} <= values.keys()


# mistakes on the command line


def test_missing_gradio_is_one_line_with_what_to_install(command, monkeypatch):
    monkeypatch.setitem(sys.modules, "gradio", None)
    result = command(demo.main, "ckpt_path=best.ckpt")
    assert result.code == 1
    assert "the page needs gradio" in result.text
    assert "pip install -e '.[demo]' -c constraints.txt" in result.text
    assert "Traceback" not in result.text


@needs_gradio
@pytest.mark.parametrize(("words", "reason"), [
    (["ckpt_path=TMP/absent.ckpt"], "absent.ckpt: expected a checkpoint, found nothing"),
    (["ckpt_path=raeder"], "did you mean reader"),
    (["port=0"], "port: expected a number from 1 to 65535, got 0"),
    (["ckpt_path=READER", "num_digits=many"], "num_digits"),
    (["ckpt_path=READER", "two_conv=TMP"], "expected a checkpoint, found a folder"),
    (["ckpt_path=READER", "port=BUSY"], "is in use or may not be opened; choose another with port=N"),
])  # fmt: skip
def test_a_mistake_is_one_line(command, tmp_path, finished_reader, words, reason):
    with socket.create_server(("127.0.0.1", 0)) as busy:
        names = {"TMP": tmp_path, "READER": best(finished_reader), "BUSY": busy.getsockname()[1]}
        for name, value in names.items():
            words = [word.replace(name, str(value)) for word in words]
        result = command(demo.main, *words, f"outputs_dir={tmp_path}")
    assert result.code == 1
    assert reason in result.text
    assert "Traceback" not in result.text


# the page itself


class Server:
    """`scripts/demo.py` in a process of its own, stopped with Ctrl-C."""

    def __init__(self, *words):
        with socket.create_server(("127.0.0.1", 0)) as free:
            port = free.getsockname()[1]
        command = [sys.executable, str(ROOT / "scripts" / "demo.py"), *words, f"port={port}"]
        signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored where a shell started us in the background
        self.process = subprocess.Popen(command, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        self.url = f"http://127.0.0.1:{port}/"
        self.lines = queue.Queue()
        self.seen = []
        threading.Thread(target=lambda: [self.lines.put(line) for line in self.process.stdout], daemon=True).start()
        while not self.seen or "draw at" not in self.seen[-1]:
            self.seen.append(self.lines.get(timeout=120))
        assert self.url in self.seen[-1]

    def stop(self):
        self.process.send_signal(signal.SIGINT)
        code = self.process.wait(timeout=30)
        self.process.stdout.close()
        while not self.lines.empty():
            self.seen.append(self.lines.get())
        return code, "".join(self.seen)


@pytest.fixture(scope="module")
def server(finished_reader, finished_run):
    """The page with a network that has hardly learnt; what it reads does not matter."""
    server = Server(f"ckpt_path={best(finished_reader)}", f"two_conv={best(finished_run)}")
    yield server
    code, text = server.stop()
    assert code == 0, text
    assert text.endswith("ended\n")
    assert "Traceback" not in text


@pytest.fixture(scope="module")
def browser():
    webdriver = pytest.importorskip("selenium.webdriver", reason="needs selenium, which the extra `dev` installs")
    programs = [shutil.which("chromium") or shutil.which("google-chrome"), shutil.which("chromedriver")]
    if None in programs:
        pytest.skip("needs chromium and chromedriver")
    options = webdriver.ChromeOptions()
    options.binary_location = programs[0]
    for word in ("--headless=new", "--no-sandbox", "--disable-dev-shm-usage", "--window-size=1280,900"):
        options.add_argument(word)
    options.set_capability("goog:loggingPrefs", {"performance": "ALL"})
    driver = webdriver.Chrome(options, webdriver.ChromeService(programs[1]))
    driver.implicitly_wait(30)
    yield driver
    driver.quit()


def draw(browser, *strokes):
    from selenium.webdriver.common.action_chains import ActionChains

    paper = browser.find_element("css selector", ".paper canvas")
    left, top = paper.size["width"] / 2, paper.size["height"] / 2
    for stroke in strokes:
        actions = ActionChains(browser, duration=10)
        for number, (x, y) in enumerate(stroke):
            actions.move_to_element_with_offset(paper, x + 20 - left, y + 20 - top)
            if number == 0:
                actions.click_and_hold()
        actions.release().perform()


def wait_for(words, browser, selector="#answer"):
    found = None
    for _ in range(100):
        found = [element.text for element in browser.find_elements("css selector", selector)]
        if any(words in text for text in found):
            return
        time.sleep(0.1)
    raise AssertionError(f"expected {words!r} in {selector}, found {found}")


def upload(browser, path):
    browser.find_element("css selector", "#file input[type=file]").send_keys(str(path))


@pytest.mark.slow
@needs_gradio
def test_a_three_and_a_four_are_drawn_and_seven_is_read(browser):
    server = Server("ckpt_path=reader")
    try:
        browser.get(server.url)
        draw(browser, THREE, *FOUR)
        wait_for("3 + 4", browser)
        assert browser.find_element("css selector", "#answer .sum").text == "7"
    finally:
        server.stop()


@pytest.mark.slow
@needs_gradio
def test_the_page_answers_drawings_and_files_and_refuses_in_words(server, browser, tmp_path):
    browser.get(server.url)
    wait_for(NOTHING_DRAWN, browser)
    draw(browser, THREE)
    wait_for("your drawing", browser)
    wait_for("two_conv says", browser)
    for selector in ("#answer .sum", "#answer svg.chart", "#answer svg.ink image"):
        assert browser.find_element("css selector", selector).is_displayed()
    browser.find_element("css selector", ".undo").click()
    wait_for(NOTHING_DRAWN, browser)
    browser.find_element("css selector", "[data-rows='197/46']").click()
    wait_for("row 2", browser)

    upload(browser, photo(tmp_path / "photo.png"))
    wait_for("photo.png", browser)
    browser.get(server.url)
    (tmp_path / "notes.png").write_text("hello")
    upload(browser, tmp_path / "notes.png")
    wait_for("notes.png: expected a picture", browser)
    browser.get(server.url)
    (tmp_path / "large.png").write_bytes(b"\x89PNG" + bytes(50_000_000))
    upload(browser, tmp_path / "large.png")
    wait_for("exceed the maximum allowed size of 20", browser, "body")


@pytest.mark.slow
@needs_gradio
def test_the_page_asks_nothing_of_other_machines(server, browser):
    browser.get_log("performance")  # of the tests before
    browser.get(server.url)
    draw(browser, THREE)
    wait_for("your drawing", browser)
    events = [json.loads(entry["message"])["message"] for entry in browser.get_log("performance")]
    urls = [event["params"]["request"]["url"] for event in events if event["method"] == "Network.requestWillBeSent"]
    assert len(urls) > 10
    assert [url for url in urls if not url.startswith((server.url, "data:", "blob:"))] == []


@pytest.mark.slow
@needs_gradio
def test_ten_users_at_once_get_the_answers_that_one_gets(server, tmp_path, finished_reader):
    from gradio_client import Client, handle_file

    paths = [photo(tmp_path / f"{number}.png", (400 + 10 * number, 250 + 5 * number)) for number in range(10)]
    module = digitsum.load_model(best(finished_reader))
    expected = [module.read(path, num_digits=None)[0] for path in paths]
    client = Client(server.url, verbose=False)
    with ThreadPoolExecutor(10) as pool:
        found = list(pool.map(lambda path: client.predict(handle_file(path), api_name="/read"), paths))
    assert [(row["file"], row["sum"], row["digits"]) for (row,) in found] == [
        (path.name, reading.sum, reading.digits) for path, reading in zip(paths, expected, strict=True)
    ]
    (tmp_path / "notes.png").write_text("hello")
    with pytest.raises(Exception, match=r"notes\.png: expected a picture"):
        client.predict(handle_file(tmp_path / "notes.png"), api_name="/read")


@pytest.mark.slow
@needs_gradio
def test_a_server_opens_no_connection_to_another_machine(finished_reader):
    code = (
        "import socket, sys\n"
        "connect = socket.socket.connect\n"
        "def guarded(self, address):\n"
        "    assert self.family == socket.AF_UNIX or address[0] in ('127.0.0.1', '::1', 'localhost'), address\n"
        "    return connect(self, address)\n"
        "socket.socket.connect = guarded\n"
        "look_up = socket.getaddrinfo\n"
        "def local(host, *rest, **more):\n"
        "    if host not in (None, '127.0.0.1', 'localhost', b'127.0.0.1'): print('ASKED FOR', host, flush=True)\n"
        "    return look_up(host, *rest, **more)\n"
        "socket.getaddrinfo = local\n"
        "from digitsum.evaluation.demo_page import Answerer, build_page, launch_page\n"
        "import digitsum, time\n"
        "page = build_page(Answerer(digitsum.load_model(sys.argv[1])))\n"
        "print(launch_page(page, int(sys.argv[2])))\n"
        "time.sleep(3)\n"
        "page.close(verbose=False)\n"
    )
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    command = [sys.executable, "-c", code, str(best(finished_reader)), str(port)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, timeout=120)
    assert done.returncode == 0, done.stderr
    assert "ASKED FOR" not in done.stdout
    assert "AssertionError" not in done.stderr
