from __future__ import annotations

from blemish.report import html


def test_numbers_never_round_to_a_perfection_that_is_not_there() -> None:
    assert [html.format_area(x) for x in (1.0, 0.99996, 0.9994, 0.5)] == [
        "1.000",
        "> 0.999",
        "0.999",
        "0.500",
    ]
    assert [html.format_percent(x) for x in (1, 0.9996, 0.9994)] == ["100 %", "> 99.9 %", "99.9 %"]
    assert [html.format_percent(x) for x in (0, 0.0004, 0.0006, 0.05)] == ["0 %", "< 0.1 %", "0.1 %", "5.0 %"]
    assert [html.format_number(x) for x in (-12.3456, float("inf"), 0.00001)] == ["−12.35", "∞", "1e−05"]
    assert [html.format_seconds(x) for x in (0.0235, 1.0, 12.345)] == ["23.5 ms", "1 s", "12.3 s"]
    assert [html.format_seconds(x) for x in (99.0, 150, 6000)] == ["99 s", "2.5 min", "1.67 h"]
