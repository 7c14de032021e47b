"""A CSV file of stage costs: what has one reading is read, and the rest is refused with file, line and column."""

from __future__ import annotations

import csv
import io
import math
import string

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from policysearch.cli.stage_costs import total
from policysearch.core import grammar


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    return tmp_path_factory.mktemp("logs") / "log.csv"


@pytest.mark.parametrize(
    ("content", "sum_"),
    [
        ("cost\n1\n2.5\n", 3.5),
        ("t,cost\n0,1\n1,2.5", 3.5),
        ("t, cost\n0, 1\n1, 2.5\n", 3.5),
        ("t,Cost\r\n0,1\r\n1,2.5\r\n", 3.5),
        ("t;COST\n0;1\n1;2.5\n", 3.5),
        ("t\tcost\n0\t1\n1\t2.5\n", 3.5),
        ("cost\r1\r2.5\r", 3.5),
        ('"t","cost"\n"0","1"\n"1","2.5"\n', 3.5),
        ('note,cost\n"a, b\nc",1\n,2.5\n', 3.5),
        ("\n\nt,cost\n0,1\n\n1,2.5\n\n\n", 3.5),
        ("cost,\n1,\n2.5,\n", 3.5),
        ("cost\n1e3\n+.5\n-2.\n", 998.5),
        ("cost\n0.1\n0.2\n-0.3\n", math.fsum([0.1, 0.2, -0.3])),
        ("cost\n1\ninf\n", math.inf),
        ("a;b,cost\n1;2,3\n", 3.0),
        ("t,cost,temperature in °C\n0,1,20\n", 1.0),
    ],
)
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-32"])
def test_what_has_one_reading_is_read(path, content, sum_, encoding):
    path.write_bytes(content.encode(encoding))
    assert total(path) == sum_


def test_a_cost_that_is_not_a_number_makes_a_sum_that_is_none(path):
    for content in ("cost\n1\nnan\n", "cost\ninf\n-inf\n"):
        path.write_text(content)
        assert math.isnan(total(path))


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("cost\n1,5\n2,5\n", r"line 2: 2 cells under 1 column \(cost\). Decimals take a point"),
        ("t;cost\n0;1,5\n", r"line 2, column 2 \(cost\) is '1,5'; it must be a number.* Decimals take a point"),
        ('t,cost\n0,"1,5"\n', r"line 2, column 2 \(cost\) is '1,5'"),
        ("cost,cost\n1,2\n", "line 1: 2 columns are named cost"),
        ("cost,Cost\n1,2\n", "line 1: 2 columns are named cost"),
        ("cost\n1\n1_5\n", r"line 3, column 1 \(cost\) is '1_5'"),
        ("cost\n１\n", "is '１'"),
        ("cost\n0x1\n", "is '0x1'"),
        ("cost\n1 5\n", "is '1 5'"),
        ("cost\n1.5 V\n", "is '1.5 V'"),
        ("cost\n1e999\n", "the largest number is 1.8e308"),
        ("cost\n1e308\n1e308\n", "add up to more than the largest number"),
        ("t,cost\n0,\n", r"line 2, column 2 \(cost\) is ''"),
        ("t,cost\n0\n", "line 2: 1 cell under 2 columns"),
        ("t,cost\n0,1,2\n", "line 2: 3 cells under 2 columns"),
        ("cost\n1\n\n2\n", "line 3, column 1 .cost.: it is blank"),
        ("cost\n1;2\n", "is '1;2'"),
        ("costs\n1\n", "has no column `cost`: its first line is 'costs'"),
        ("1\n2\n", "has no column `cost`: its first line is '1'"),
        ("", "has no column `cost`: it is empty"),
        ("cost\n", "has no line below its header"),
        ("cost;x,cost\n1;2,3\n", "separated by commas or semicolons"),
        ('t,cost\n"0,1\n', "line 2: unexpected end of data"),
        ('t,cost\n"0"x,1\n', "line 2: ',' expected after '\"'"),
        ("cost\n" + "1" * 200_000, "line 2: a cell has more than 131072 characters"),
        ("cost\n" + "1" * 100_000, r"is '1111.*… \(100000 characters\); the largest number is"),
        ("cost\n1\0\n", "line 2: it holds bytes of value 0"),
    ],
)
def test_the_rest_is_refused_with_its_place(path, content, words):
    path.write_text(content)
    with pytest.raises(ValueError, match=words) as said:
        total(path)
    assert str(path) in str(said.value)
    assert len(str(said.value)) < 500


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("cost\n1\n".encode("utf-16-le"), "bytes of value 0"),
        ("t °C,cost\n1,2\n".encode("latin-1"), "line 1: this is no text in UTF-8"),
        (b"cost\n1\n\xff\n", "line 3: this is no text in UTF-8"),
        ("cost\n1\n".encode("utf-16")[:-1], "no text in UTF-16-LE"),
    ],
)
def test_what_is_no_text_is_refused(path, content, words):
    path.write_bytes(content)
    with pytest.raises(ValueError, match=words):
        total(path)


def sum_or_refusal(path):
    """The sum of a file; None if it is refused, with its name."""
    said = ""
    try:
        return total(path)
    except ValueError as error:
        said = str(error)
    assert str(path) in said
    return None


CELLS = st.one_of(
    st.floats(allow_nan=False).map(repr),
    st.text(string.digits + ".,;eE+-_ \t\"'", max_size=8),
    st.sampled_from(["", "nan", "inf", "1_5", "１", "0x10", "1,5", "cost", "Cost", " 1 ", "1e999"]),
    st.text(max_size=4),
)


@given(
    rows=st.lists(st.lists(CELLS, min_size=1, max_size=3), max_size=6),
    header=st.lists(st.sampled_from(["cost", "Cost", " cost", "t", "", "a;b"]), min_size=1, max_size=3),
    separator=st.sampled_from([",", ";", "\t"]),
    newline=st.sampled_from(["\n", "\r\n", "\r"]),
    encoding=st.sampled_from(["utf-8", "utf-8-sig", "utf-16", "utf-16-le"]),
)
@example([["1,5"], ["2,5"]], ["cost"], ",", "\n", "utf-8")
def test_whatever_the_cells_are_the_sum_is_that_of_a_strict_reading_or_the_file_is_refused(
    path, rows, header, separator, newline, encoding
):
    text = newline.join(separator.join(row) for row in [header, *rows])
    path.write_bytes(text.encode(encoding, "surrogatepass"))
    found = sum_or_refusal(path)
    if found is None:
        return
    # read in the plainest way: each line has as many cells as the header, and the cell under cost is a number
    table = list(csv.reader(io.StringIO(text, newline=""), delimiter=separator, skipinitialspace=True))
    table = [[cell.strip() for cell in row] for row in table if any(cell.strip() for cell in row) or len(row) > 1]
    assert {len(row) for row in table} == {len(table[0])}
    (column,) = (i for i, cell in enumerate(table[0]) if cell.lower() == "cost")
    numbers = [float(row[column]) for row in table[1:]]
    assert all(grammar.number("", row[column]) is not None for row in table[1:])
    assert all(set(row[column].lower()) <= set("0123456789.e+-infatynty") for row in table[1:])
    expected = math.fsum(numbers) if all(map(math.isfinite, numbers)) else sum(numbers)
    assert found == expected or (math.isnan(found) and math.isnan(expected))


@given(st.binary(max_size=60).map(lambda tail: b"cost\n" + tail))
def test_bytes_of_any_kind_are_read_or_refused(path, content):
    path.write_bytes(content)
    sum_or_refusal(path)
