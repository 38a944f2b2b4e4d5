import csv

import pytest
import torch
from measurement import append_rows, peak_of, provenance, quantiles


def test_rows_are_appended_below_one_header(tmp_path):
    path = tmp_path / "history" / "head.csv"
    append_rows(path, [{"date": "2026-01-01", "ms": 1.5}])
    append_rows(path, [{"date": "2026-01-02", "ms": 2.5}, {"date": "2026-01-03", "ms": 3.5}])
    with path.open() as file:
        assert [float(row["ms"]) for row in csv.DictReader(file)] == [1.5, 2.5, 3.5]


@pytest.mark.parametrize("columns", ["date,seconds", "ms,date", "date", "date,ms,more"])
def test_a_file_with_other_columns_is_refused_and_left_alone(tmp_path, columns):
    path = tmp_path / "head.csv"
    path.write_text(columns + "\n")
    with pytest.raises(ValueError, match=rf"head.csv has the columns {columns.replace(',', ', ')}, the measurement"):
        append_rows(path, [{"date": "2026-01-01", "ms": 1.5}])
    assert path.read_text() == columns + "\n"


def test_an_empty_file_gets_a_header(tmp_path):
    path = tmp_path / "head.csv"
    path.touch()
    append_rows(path, [{"ms": 1}])
    assert path.read_text() == "ms\n1\n"


def test_the_origin_names_a_processor_and_the_versions():
    origin = provenance(torch.device("cpu"))
    assert origin["processor"]
    assert origin["torch"] == torch.__version__
    assert origin["threads"] == torch.get_num_threads()


def test_the_peak_of_a_call():
    assert peak_of(lambda: torch.zeros(2**23).add_(1)) == pytest.approx(32, abs=4)


def test_the_quantiles():
    assert quantiles(range(11)) == (2, 5, 8)
