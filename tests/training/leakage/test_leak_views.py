"""Views of a column: each gives its rows levels by one aspect of their values."""

from __future__ import annotations

from typing import Any

import pyarrow as pa
import pytest

from training.leakage.views import views


@pytest.mark.parametrize(
    ("values", "words", "levels"),
    [
        ([0, 1, 2, -3, None], "whether it is odd", [1, 2, 1, 2, 0]),
        ([2**60, 2**60 + 1, None], "whether it is odd", [1, 2, 0]),
        ([12.0, 19.5, None, float("nan"), -7.9], "its last digit before the decimal point", [3, 10, 0, 0, 9]),
        ([0.12, 0.3, 5.0, -2.07], "digit 2 after its decimal point", [3, 1, 1, 8]),
        ([0.29, 0.57, 1.15, 4.35], "digit 2 after its decimal point", [10, 8, 6, 6]),
        ([0.5, 0.25, 3.0, 1 / 3], "how many decimals it has", [2, 3, 1, 11]),
        ([True, False, None], "its value", None),
        (["ab", None, "b", ""], "its length", [1, 0, 2, 3]),
    ],
)
def test_a_view_numbers_rows_by_one_aspect(values: list[Any], words: str, levels: list[int] | None) -> None:
    found = {view.words: view.codes.tolist() for view in views(pa.chunked_array([values]))}

    if levels is None:
        assert len(set(found[words])) == len(set(values))
    else:
        assert found[words] == levels
