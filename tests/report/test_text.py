"""Text from records is inert and visible; numbers stay numbers."""

from __future__ import annotations

import csv
import io
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from segue.report.sheets import Sheet
from segue.report.text import (
    csv_cell,
    name_of,
    number,
    plain,
    plotly_text,
    setting_text,
    signed,
)


@given(st.text())
def test_plain_text_has_no_invisible_or_reordering_characters(text: str) -> None:
    shown = plain(text)
    assert not any(
        ord(c) < 32 or "\u202a" <= c <= "\u202e" or "\u2066" <= c <= "\u2069" for c in shown
    )
    shown.encode("utf-8")  # lone surrogates would raise


def test_other_scripts_pass_unchanged() -> None:
    for text in ("שלום עולם", "مرحبا", "日本語", "naïve ß", "👩\u200d🔬"):
        assert plain(text) == text


def test_plotly_text_leaves_no_tag_or_entity_to_interpret() -> None:
    shown = plotly_text("<b>x</b> &lt;i&gt; <a href='javascript:1'>")
    assert "<" not in shown
    assert ">" not in shown
    assert shown.startswith("&lt;b&gt;x&lt;/b&gt; &amp;lt;i")


def test_long_names_are_shortened_in_labels_only() -> None:
    assert len(plotly_text("x" * 300)) == 40
    assert len(plain("x" * 300)) == 300


def test_underscores_inside_words_become_spaces_and_others_stay() -> None:
    assert name_of("hard_switch") == "hard switch"
    assert name_of("__proto__") == "__proto__"


@pytest.mark.parametrize("text", ["=1", "+1", "-1+1", "@A1", "\t=1", "\r=1", "\n=1", " =1", "＝1"])
def test_formulas_become_text_in_csv(text: str) -> None:
    cell = csv_cell(text)
    assert isinstance(cell, str)
    assert cell.startswith("'")


@given(
    st.lists(st.one_of(st.floats(), st.integers(), st.none(), st.text()), min_size=1, max_size=4)
)
def test_csv_reads_back_numbers_exactly_and_text_in_one_cell(row: list[object]) -> None:
    columns = tuple(f"c{i}" for i in range(len(row)))
    read = list(csv.reader(io.StringIO(Sheet("x", columns, (row,)).to_csv())))
    assert read[0] == list(columns)
    assert len(read) == 2
    assert len(read[1]) == len(row)
    for value, cell in zip(row, read[1], strict=True):
        if isinstance(value, int | float) and math.isfinite(value):
            assert float(cell) == float(value)
        elif isinstance(value, str):
            assert not cell.startswith(("=", "+", "-", "@", "\t", "\r"))
        else:
            assert cell == ""


def test_file_names_cannot_leave_their_folder() -> None:
    assert Sheet("../../etc/passwd", (), ()).file_name == "etc-passwd.csv"
    assert Sheet("\u202e", (), ()).file_name == "data.csv"


def test_numbers_have_true_minus_signs_and_no_negative_zero() -> None:
    assert number(-1.26) == "−1.3"
    assert signed(0.5) == "+0.5"
    assert signed(-0.001) == "0.0"
    assert number(math.nan) == "–"


def test_an_item_of_a_list_says_whose_it_is() -> None:
    assert setting_text("source.learner.hidden_widths.0", 64) == "hidden width 1: 64"
    assert setting_text("num_target_steps", 300) == "300 target steps"
    assert setting_text("source.dataset.name", "cifar10") == "dataset cifar10"
