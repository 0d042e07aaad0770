"""The table of a comparison."""

from digitsum.runs.comparison_table import markdown_text, number_cell


def test_the_same_number_of_parameters_has_no_spread():
    assert number_cell("num_parameters", [2_640_513.0, 2_640_513.0]) == "2,640,513"
    assert number_cell("num_parameters", [5.0, 7.0]) == "6 ± 1"


def test_a_number_has_four_digits_and_several_their_mean_and_standard_deviation():
    assert number_cell("val/mae", [1.23456]) == "1.235"
    assert number_cell("val/exact", [0.5, 0.7]) == "60.0 ± 14.1 %"
    assert number_cell("fit_seconds", [1234.5]) == "1,234"
    assert number_cell("test/mae", []) == "-"


def test_markdown_shows_every_letter():
    assert markdown_text([["a|b", "c"], ["<i>", "[x]"]]) == "| a\\|b | c |\n| --- | --- |\n| \\<i> | \\[x] |"
