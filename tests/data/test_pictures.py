"""Pictures of every allowed kind become bright ink on a dark ground of one size, and bad ones are refused in a line."""

import os
import struct
import zlib
from contextlib import contextmanager

import numpy as np
import pytest
import torch
from PIL import Image

from digitsum.data.canvases import Layout, compose
from digitsum.data.glyphs import load_glyph_pools
from digitsum.data.pictures import NO_DIGITS, PictureBatches, find_pictures, read_picture, read_rows
from digitsum.errors import InputError

SIZE = (40, 168)


@contextmanager
def refused(*words):
    """The block is refused with one line that has all `words`."""
    with pytest.raises(InputError) as caught:
        yield
    assert all(str(word) in str(caught.value) for word in words), caught.value
    assert "\n" not in str(caught.value)


def strokes(height=40, width=168, ink=200):
    """A drawing without any symmetry, bright on black."""
    pixels = np.zeros((height, width), np.uint8)
    pixels[height // 4 : height // 2, width // 8 : width // 4] = ink
    pixels[height // 2 : height // 2 + 3, width // 4 : width // 2] = ink // 2
    return pixels


@pytest.fixture
def save(tmp_path):
    """Write a picture and return its path."""

    def save_(picture, name="picture.png", **options):
        if isinstance(picture, np.ndarray):
            picture = Image.fromarray(picture)
        picture.save(tmp_path / name, **options)
        return tmp_path / name

    return save_


def box(image):
    """Top, bottom, left and right of what is brighter than half of full ink."""
    rows, columns = np.flatnonzero((image > 127).any(1)), np.flatnonzero((image > 127).any(0))
    return rows[0], rows[-1] + 1, columns[0], columns[-1] + 1


# --- ink and ground


def test_a_picture_of_the_right_form_is_taken_as_it_is(save):
    picture = read_picture(save(strokes()), SIZE)
    assert picture.changes == "as it is"
    assert (picture.image.shape, picture.image.dtype) == (SIZE, np.uint8)
    assert np.array_equal(picture.image, strokes())


def test_dark_ink_on_bright_paper_is_inverted(save):
    picture = read_picture(save(255 - strokes()), SIZE)
    assert picture.changes == "inverted"
    assert np.array_equal(picture.image, strokes())


@pytest.mark.parametrize(("border", "inverted"), [(127, False), (128, True)])
def test_the_border_decides_whether_a_picture_is_inverted(save, border, inverted):
    pixels = np.full(SIZE, 255 - border, np.uint8)
    pixels[[0, -1]], pixels[:, [0, -1]] = border, border
    assert (read_picture(save(pixels), SIZE).changes == "inverted") == inverted


def test_ink_that_touches_the_border_does_not_decide(save):
    pixels = strokes()
    pixels[:, :20] = 255
    assert np.array_equal(read_picture(save(pixels), SIZE).image, pixels)


# --- size


@pytest.mark.parametrize("factor", [0.5, 1.75, 4])
def test_scaling_keeps_the_aspect(save, factor):
    pixels = np.zeros((int(40 * factor), int(60 * factor)), np.uint8)
    pixels[int(8 * factor) : int(32 * factor), int(12 * factor) : int(36 * factor)] = 255
    image = read_picture(save(pixels), SIZE).image
    top, bottom, left, right = box(image)
    assert np.abs(np.array([top, bottom, left, right]) - [8, 32, 12, 36]).max() <= 1


def test_scaling_says_what_it_did(save):
    assert read_picture(save(strokes(80, 336)), SIZE).changes == "scaled from 80x336 to 40x168"
    assert read_picture(save(strokes(80, 100)), SIZE).changes == "scaled from 80x100 to 40x50, padded to 40x168"
    both = read_picture(save(255 - strokes(20, 20)), SIZE)
    assert both.changes == "inverted, scaled from 20x20 to 40x40, padded to 40x168"


def test_a_narrow_picture_is_padded_with_0_on_the_right(save):
    picture = read_picture(save(255 - strokes(40, 60)), SIZE)
    assert picture.changes == "inverted, padded to 40x168"
    assert np.array_equal(picture.image[:, :60], strokes(40, 60))
    assert picture.image[:, 60:].max() == 0


def test_a_picture_that_is_too_wide_is_shrunk_and_padded_with_0_below(save):
    picture = read_picture(save(255 - strokes(40, 336)), SIZE)
    assert picture.changes == "inverted, scaled from 40x336 to 20x168, padded to 40x168"
    assert picture.image[20:].max() == 0
    assert box(picture.image) == (5, 10, 21, 42)


@pytest.mark.parametrize("size", [(1, 1), (1, 5000), (5000, 1)])
def test_a_picture_of_an_extreme_shape_still_fits(save, size):
    assert read_picture(save(np.full(size, 9, np.uint8)), SIZE).image.shape == SIZE


# --- kinds of files


@pytest.mark.parametrize("mode", ["L", "RGB", "RGBA", "LA", "P", "CMYK"])
def test_every_mode_of_colour_becomes_the_same_grey(save, mode):
    name, off = ("picture.jpg", 8) if mode == "CMYK" else ("picture.png", 1)
    options = {"quality": 95} if mode == "CMYK" else {}
    picture = read_picture(save(Image.fromarray(strokes()).convert(mode), name, **options), SIZE)
    assert np.abs(picture.image.astype(int) - strokes()).max() <= off


def test_a_picture_of_one_bit_is_black_and_white(save):
    picture = read_picture(save(Image.fromarray(strokes(ink=255)).convert("1", dither=Image.Dither.NONE)), SIZE)
    assert np.array_equal(np.unique(picture.image), [0, 255])
    assert box(picture.image) == box(strokes(ink=255))


@pytest.mark.parametrize("ink", [200, 80])
@pytest.mark.parametrize("paper", ["black", "white"])
def test_a_picture_of_16_bits_keeps_its_shades(save, ink, paper):
    pixels = strokes(ink=ink).astype(np.uint16) * 257
    picture = read_picture(save(pixels if paper == "black" else 65535 - pixels), SIZE)
    assert picture.changes == ("as it is" if paper == "black" else "inverted")
    assert np.abs(picture.image.astype(int) - strokes(ink=ink)).max() <= 1


def test_a_palette_is_read_by_its_colours_and_not_by_its_numbers(save):
    picture = Image.fromarray((strokes() > 0).astype(np.uint8), mode=None).convert("P")
    picture.putpalette([10, 10, 10, 250, 250, 250])
    picture = read_picture(save(picture), SIZE)
    assert np.array_equal(np.unique(picture.image), [10, 250])
    assert np.array_equal(picture.image == 250, strokes() > 0)


@pytest.mark.parametrize("mode", ["RGBA", "LA"])
def test_what_is_transparent_is_white_paper(save, mode):
    picture = Image.new(mode, SIZE[::-1])  # black, and transparent throughout
    picture.putalpha(Image.fromarray(strokes()))
    read = read_picture(save(picture), SIZE)
    assert read.changes == "inverted"
    assert np.abs(read.image.astype(int) - strokes()).max() <= 1


def test_a_palette_with_a_transparent_colour_is_on_white_paper(save):
    picture = Image.fromarray((strokes() > 0).astype(np.uint8)).convert("P")
    picture.putpalette([90, 90, 90, 0, 0, 0])
    read = read_picture(save(picture, transparency=0), SIZE)
    assert read.changes == "inverted"
    assert np.array_equal(read.image, np.where(strokes() > 0, 255, 0))


def test_alpha_that_hides_nothing_changes_nothing(save):
    picture = Image.fromarray(strokes()).convert("LA")
    assert read_picture(save(picture), SIZE).changes == "as it is"


@pytest.mark.parametrize("name", ["picture.jpg", "picture.JPEG"])
def test_a_jpeg_is_read_up_to_its_losses(save, name):
    picture = read_picture(save(255 - strokes(), name, quality=95), SIZE)
    assert picture.changes == "inverted"
    assert np.abs(picture.image.astype(int) - strokes()).max() <= 15


@pytest.mark.parametrize("name", ["picture.jpg", "picture.png"])
@pytest.mark.parametrize(
    ("orientation", "stored_as"),
    [
        (2, Image.Transpose.FLIP_LEFT_RIGHT),
        (3, Image.Transpose.ROTATE_180),
        (6, Image.Transpose.ROTATE_90),
        (8, Image.Transpose.ROTATE_270),
    ],
)
def test_a_picture_taken_with_the_camera_turned_is_set_upright(save, name, orientation, stored_as):
    exif = Image.Exif()
    exif[0x0112] = orientation
    stored = Image.fromarray(strokes()).transpose(stored_as)
    options = {"quality": 95} if name.endswith("jpg") else {}
    picture = read_picture(save(stored, name, exif=exif, **options), SIZE)
    assert picture.changes == "as it is"
    assert np.abs(picture.image.astype(int) - strokes()).max() <= 15


# --- what is refused


def claimed(width, height):
    """A PNG of a few bytes that claims a size."""

    def chunk(kind, content):
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    data = zlib.compress(bytes(100))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", data) + chunk(b"IEND", b"")


def test_a_small_png_made_by_hand_is_read(tmp_path):
    (tmp_path / "small.png").write_bytes(claimed(9, 10))  # 9 pixels and a filter byte in each of 10 rows
    assert read_picture(tmp_path / "small.png", SIZE).image.max() == 0


@pytest.mark.parametrize("size", [(10_000, 5_001), (15_000, 10_000), (100_000, 100_000), (2**31 - 1, 2**31 - 1)])
def test_a_picture_that_would_unpack_to_an_absurd_size_is_refused(tmp_path, size):
    (tmp_path / "huge.png").write_bytes(claimed(*size))
    with refused(tmp_path / "huge.png", "pixels"):
        read_picture(tmp_path / "huge.png", SIZE)


def png_bytes(tmp_path):
    Image.fromarray(np.random.default_rng(0).integers(256, size=SIZE, dtype=np.uint8)).save(tmp_path / "whole.png")
    return (tmp_path / "whole.png").read_bytes()


@pytest.mark.parametrize("keep", [0, 4, 20, 50, 0.5, 0.95])
def test_a_png_that_is_cut_short_is_refused(tmp_path, keep):
    content = png_bytes(tmp_path)
    path = tmp_path / "cut.png"
    path.write_bytes(content[: keep if isinstance(keep, int) else int(keep * len(content))])
    with refused(path, "cannot be read"):
        read_picture(path, SIZE)


def test_a_jpeg_that_is_cut_short_is_refused(save):
    path = save(strokes(), "cut.jpg")
    path.write_bytes(path.read_bytes()[:-200])
    with refused(path, "cannot be read"):
        read_picture(path, SIZE)


def test_a_png_with_damaged_data_is_refused(tmp_path):
    content = bytearray(png_bytes(tmp_path))
    content[500:520] = bytes(20)
    (tmp_path / "damaged.png").write_bytes(content)
    with refused(tmp_path / "damaged.png", "cannot be read"):
        read_picture(tmp_path / "damaged.png", SIZE)


def test_text_named_as_a_picture_is_refused(tmp_path):
    (tmp_path / "notes.png").write_text("17 = 9 + 8\n")
    with refused(tmp_path / "notes.png", "expected a picture"):
        read_picture(tmp_path / "notes.png", SIZE)


def test_a_format_for_which_another_program_would_be_called_is_refused(save):
    path = save(strokes(), "drawing.eps")
    path = path.rename(path.with_suffix(".png"))
    with refused(path, "expected a picture"):
        read_picture(path, SIZE)


@pytest.mark.parametrize("content", [b"", b"\0\0\0 ftypheic" + bytes(100)])
@pytest.mark.parametrize("name", ["photo.heic", "photo.HEIF"])
def test_heic_is_refused_by_its_name(tmp_path, name, content):
    (tmp_path / name).write_bytes(content)
    with refused(tmp_path / name, "HEIC", "save it as JPEG or PNG"):
        read_picture(tmp_path / name, SIZE)


def test_a_missing_picture_and_a_folder_in_its_place_are_refused(tmp_path):
    with refused(tmp_path / "none.png", "found nothing"):
        read_picture(tmp_path / "none.png", SIZE)
    with refused(tmp_path):
        read_picture(tmp_path, SIZE)


# --- several


def test_the_pictures_of_a_folder_are_found_in_the_order_of_their_names(tmp_path):
    names = ["b.png", "a.jpeg", "c.JPG", "notes.txt", "d.gif", "png", "a2.png", "a10.png"]
    for name in names:
        (tmp_path / name).touch()
    expected = ["a.jpeg", "a10.png", "a2.png", "b.png", "c.JPG", "d.gif"]
    assert [path.name for path in find_pictures(tmp_path)] == expected


def test_one_picture_is_found_by_its_path_whatever_its_name(tmp_path):
    assert find_pictures(tmp_path / "scan") == [tmp_path / "scan"]


def test_a_folder_without_pictures_is_refused(tmp_path):
    (tmp_path / "notes.txt").touch()
    with refused(tmp_path, ".png", "found none"):
        find_pictures(tmp_path)


def test_batches_hold_every_picture_in_order_with_what_was_done_to_it(save):
    drawings = [strokes(ink=100 + 20 * number) for number in range(5)]
    drawings[3] = 255 - drawings[3]
    paths = [save(pixels, f"{number}.png") for number, pixels in enumerate(drawings)]
    got = list(PictureBatches(paths, SIZE, 2))
    assert [batch["index"].tolist() for batch in got] == [[0, 1], [2, 3], [4]]
    assert [batch["lines"] for batch in got] == [[1, 1], [1, 1], [1]]
    assert [batch["changes"] for batch in got] == [["as it is"] * 2, ["as it is", "inverted"], ["as it is"]]
    images = torch.cat([batch["images"] for batch in got])
    assert (images.dtype, images.shape) == (torch.uint8, (5, *SIZE))
    drawings[3] = 255 - drawings[3]
    assert np.array_equal(images.numpy(), np.stack(drawings))


def test_batches_of_pictures_can_be_gone_through_again(save):
    batches = PictureBatches([save(strokes())], SIZE, 4)
    assert [len(list(batches)) for _ in range(2)] == [1, 1]


def test_what_cannot_be_read_is_left_out_and_named_with_its_reason(save, tmp_path):
    paths = [save(strokes(), name) for name in ("a.png", "z.png")]
    (tmp_path / "bad.png").write_text("not a picture")
    (tmp_path / "._a.png").write_bytes(b"\0\5\x16\7" + bytes(50))
    (tmp_path / "folder.png").mkdir()
    (tmp_path / "notes.txt").touch()
    batches = PictureBatches(find_pictures(tmp_path), SIZE, 8)
    for _ in range(2):  # each pass begins anew
        (batch,) = batches
        assert [batches.paths[index] for index in batch["index"]] == paths
        reasons = {path.name: reason for path, reason in batches.refused}
        assert list(reasons) == ["._a.png", "bad.png", "folder.png"]
        assert "macOS" in reasons["._a.png"]
        assert "cannot be read" in reasons["bad.png"]
        assert reasons["folder.png"] == "expected a picture, found a folder"


def test_where_nothing_can_be_read_the_first_file_is_named(tmp_path):
    paths = [tmp_path / "a.png", tmp_path / "b.png"]
    with refused(paths[0], "found nothing", "none of the 2 pictures"):
        list(PictureBatches(paths, SIZE, 8))
    with pytest.raises(InputError) as caught:
        list(PictureBatches(paths[1:], SIZE, 8))
    assert str(caught.value) == f"{paths[1]}: expected a picture, found nothing"


def test_a_name_that_is_not_utf8_is_read_like_another(tmp_path):
    path = tmp_path / os.fsdecode(b"caf\xe9.png")
    try:
        Image.fromarray(strokes()).save(path)
    except OSError:
        pytest.skip("this file system takes no such names")
    (batch,) = PictureBatches(find_pictures(tmp_path), SIZE, 8)
    assert np.array_equal(batch["images"][0], strokes())


def test_another_way_to_prepare_is_refused():
    with refused("prepare", "auto, none", "'best'"):
        PictureBatches([], SIZE, 1, prepare="best")


def test_without_preparation_a_picture_is_what_read_picture_makes_of_it(save):
    path = save(255 - strokes(80, 100))
    (batch,) = PictureBatches([path], SIZE, 8, prepare="none")
    assert np.array_equal(batch["images"][0], read_picture(path, SIZE).image)
    assert batch["warnings"] == [()]


def page(*rows):
    """White paper with rows of upright rectangles as digits, each row so many."""
    pixels = np.full((100 * len(rows), 60 + 60 * max(rows)), 255, np.uint8)
    for row, count in enumerate(rows):
        for number in range(count):
            pixels[100 * row + 30 : 100 * row + 80, 40 + 60 * number : 48 + 60 * number] = 0
    return pixels


def test_the_rows_of_a_picture_go_into_batches_one_by_one(save):
    paths = [save(page(3, 2, 4), "a.png"), save(page(1), "b.png")]
    got = list(PictureBatches(paths, SIZE, 3, variable_width=True))
    assert [batch["index"].tolist() for batch in got] == [[0, 0, 0], [1]]
    assert [batch["lines"] for batch in got] == [[1, 2, 3], [1]]
    assert [batch["num_components"] for batch in got] == [[3, 2, 4], [1]]


def test_a_model_of_any_width_gets_wide_rows_whole_and_another_one_shrunk(save):
    path = save(page(9))
    (wide,) = read_rows(path, SIZE, variable_width=True)
    assert wide.image.shape[1] > SIZE[1]
    (shrunk,) = read_rows(path, SIZE)
    assert shrunk.image.shape == SIZE
    assert "shrunk from a width of" in shrunk.changes
    assert "too many digits for the width" in shrunk.warnings
    assert shrunk.image.max() > 200


def test_images_of_one_batch_are_padded_to_the_widest(save):
    paths = [save(page(9), "a.png"), save(page(1), "b.png")]
    (batch,) = PictureBatches(paths, SIZE, 8, variable_width=True)
    assert batch["images"].shape[2] > SIZE[1]
    assert batch["images"][1, :, SIZE[1] :].max() == 0


# --- like a canvas


@pytest.mark.parametrize("name", ["canvas.png", "canvas.bmp", "canvas.tif", "canvas.gif", "canvas.pgm"])
@pytest.mark.parametrize("inverted", [False, True])
def test_a_canvas_passes_through_unchanged(save, canvases, name, inverted):
    for canvas in canvases:
        path = save(255 - canvas if inverted else canvas, name)
        (row,) = read_rows(path, SIZE, variable_width=True)
        assert np.array_equal(row.image, canvas)
        assert row.image.shape == read_picture(path, SIZE).image.shape
        assert (row.changes, row.warnings) == ("inverted" if inverted else "as it is", ())


def test_a_narrow_canvas_is_padded_as_ever(save, canvases):
    path = save(canvases[0][:, :100])
    (row,) = read_rows(path, SIZE, variable_width=True)
    assert np.array_equal(row.image, read_picture(path, SIZE).image)


@pytest.fixture
def canvases():
    pool = load_glyph_pools("bundled")["test"]
    return compose(Layout(), pool, seed=3, stream=0, start=0, count=6)[0]


# --- formats and sizes


@pytest.mark.parametrize("name", ["a.png", "a.bmp", "a.tif", "a.gif", "a.pgm", "a.webp", "a.avif", "a.jpg", "a"])
def test_every_format_is_read_alike(save, name):
    options = {"lossless": True} if name.endswith("webp") else {"quality": 95} if name[-3:] in ("jpg", "vif") else {}
    if name == "a":
        options["format"] = "PNG"
    picture = read_picture(save(strokes(), name, **options), SIZE)
    assert np.abs(picture.image.astype(int) - strokes()).max() <= (15 if options.get("quality") else 1)


def test_of_several_frames_the_first_is_read(save):
    frames = [Image.fromarray(strokes(ink=ink)) for ink in (200, 90)]
    path = save(frames[0], "moving.gif", save_all=True, append_images=frames[1:])
    assert read_picture(path, SIZE).image.max() == 200


def test_bright_ink_on_nothing_is_on_black_paper(save):
    picture = Image.new("RGBA", SIZE[::-1], (255, 255, 255, 0))
    picture.putalpha(Image.fromarray(strokes()))
    read = read_picture(save(picture), SIZE)
    assert read.changes == "as it is"
    assert np.abs(read.image.astype(int) - strokes()).max() <= 1


def test_a_picture_of_floats_is_scaled_to_its_own_range(save):
    picture = Image.fromarray(strokes().astype(np.float32) * 1e-3)
    read = read_picture(save(picture, "a.tif"), SIZE)
    assert box(read.image) == box(strokes(ink=255))


@pytest.mark.parametrize("name", ["large.jpg", "large.png"])
def test_a_large_photo_is_shrunk_early_and_boxes_are_in_its_own_pixels(save, name):
    pixels = np.full((3000, 4000), 180, np.uint8)
    for number in range(4):
        pixels[1000:1300, 800 + 300 * number : 840 + 300 * number] = 40
    path = save(Image.fromarray(pixels).convert("RGB"), name)
    (row,) = read_rows(path, SIZE, variable_width=True)
    assert row.num_components == 4
    assert np.abs(np.array(row.box) - [800, 1000, 1740, 1300]).max() <= 8


@pytest.mark.parametrize("size", [(1, 1), (1, 5000), (5000, 1), (3, 7), (40, 168)])
@pytest.mark.parametrize("value", [0, 9, 255])
def test_a_plain_picture_of_any_shape_has_no_digits(save, size, value):
    (row,) = read_rows(save(np.full(size, value, np.uint8)), SIZE)
    assert row.image.shape == SIZE
    assert row.image.max() == 0
    assert (row.warnings, row.num_components) == ((NO_DIGITS,), 0)
