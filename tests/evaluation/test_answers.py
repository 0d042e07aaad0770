import re

import numpy as np
import pytest
from PIL import Image, ImageDraw

import digitsum
from digitsum.errors import InputError
from digitsum.evaluation.answers import _chart, answers_html, answers_of, message_html


@pytest.fixture(scope="module")
def reader(finished_reader):
    return digitsum.load_model(finished_reader / "checkpoints" / "best.ckpt")


@pytest.fixture(scope="module")
def two_conv(finished_run):
    return digitsum.load_model(finished_run / "checkpoints" / "best.ckpt")


def drawing(rows=1):
    """Black bars on white, three in a row."""
    picture = Image.new("L", (400, 150 * rows), 255)
    pen = ImageDraw.Draw(picture)
    for row in range(rows):
        for bar in range(3):
            pen.line([(80 + 100 * bar, 150 * row + 30), (80 + 100 * bar, 150 * row + 110)], 0, 8)
    return picture


def test_an_answer_is_what_the_model_reads_with_the_image_and_the_distribution(reader):
    (answer,) = answers_of(reader, drawing())
    (reading,) = reader.read(drawing())
    assert answer.reading == reading
    assert answer.image.shape[0] == reader.image_size[0]
    assert answer.probs.sum() == pytest.approx(1, abs=1e-4)
    assert answer.probs.argmax() == reading.sum

    html = answers_html([answer], "a <b> & c")
    assert "a &lt;b&gt; &amp; c" in html
    assert re.search(r'class="sum">(\d+)<', html)[1] == str(reading.sum)
    assert re.findall(r'<text x="[\d.]+" y="-3">(\d)<', html) == list(reading.digits)


def test_each_row_of_a_picture_has_its_answer_beside_the_other_models(reader, two_conv):
    answers = answers_of(reader, drawing(rows=2), {"two_conv": two_conv})
    assert [answer.reading.line for answer in answers] == [1, 2]
    expected = [reading.sum for reading in two_conv.read(drawing(rows=2))]
    assert [answer.others["two_conv"] for answer in answers] == pytest.approx(expected, abs=1e-4)
    html = answers_html(answers, "two")
    assert html.index("row 1") < html.index("row 2")
    assert f"<b>two_conv</b> says {answers[1].others['two_conv']:.1f}" in html


def test_a_row_that_is_too_wide_for_another_model_is_not_cut_for_it(reader, two_conv):
    picture = Image.new("L", (1500, 150), 255)
    for bar in range(12):
        ImageDraw.Draw(picture).line([(80 + 110 * bar, 30), (80 + 110 * bar, 110)], 0, 8)
    (answer,) = answers_of(reader, picture, {"two_conv": two_conv})
    assert answer.image.shape[1] > two_conv.image_size[1]
    assert answer.others == {"two_conv": None}
    assert "<b>two_conv</b> takes no row as wide as this" in answers_html([answer], "wide")


def test_a_network_that_reads_no_digits_answers_with_its_sum_alone(two_conv):
    html = answers_html(answers_of(two_conv, drawing()), "drawing")
    assert f'class="sum">{two_conv.read(drawing())[0].sum:.1f}<' in html
    assert "terms" not in html
    assert "chart" not in html


def test_an_empty_picture_has_no_sum_and_says_so(reader, two_conv):
    html = answers_html(answers_of(reader, Image.new("L", (400, 150), 255), {"two_conv": two_conv}), "nothing")
    assert "No digits found" in html
    assert 'class="sum"' not in html
    assert "two_conv" not in html


def test_what_is_no_picture_is_refused(reader, tmp_path):
    (tmp_path / "a.png").write_text("hello")
    with pytest.raises(InputError, match="expected a picture"):
        answers_of(reader, tmp_path / "a.png")


@pytest.mark.parametrize(("best", "low", "high"), [(0, 0, 8), (7, 3, 11), (36, 28, 36)])
def test_a_chart_of_a_sure_answer_shows_the_sums_around_it(best, low, high):
    chart = _chart(np.eye(37)[best], best)
    titles = [int(title) for title in re.findall(r"<title>(\d+):", chart)]
    assert titles == list(range(low, high + 1))
    assert re.search(r'<rect class="best"[^>]*><title>(\d+): 100.0%', chart)[1] == str(best)


def test_a_chart_of_an_unsure_answer_is_cut_and_its_numbers_stay_apart():
    chart = _chart(np.full(200, 1 / 200), 100)
    titles = [int(title) for title in re.findall(r"<title>(\d+):", chart)]
    assert titles == list(range(80, 121))
    assert len(re.findall(r"<text", chart)) <= 15


def test_a_message_is_text():
    assert "&lt;script&gt;" in message_html("<script>")
