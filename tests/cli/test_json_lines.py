"""Logs as JSON: each line an object, whoever writes it."""

from __future__ import annotations

import json
import logging
import sys
from datetime import UTC, datetime

import pytest

from blemish.cli.json_lines import json_lines
from blemish.cli.streams import complain, write_line


def test_each_line_is_an_object_with_its_time(capsys: pytest.CaptureFixture[str]):
    with json_lines():
        print("blemish station:", "http://127.0.0.1:8000")
        write_line(sys.stdout, 'a "quoted" line')
        complain("blemish serve: the disk is full")
        print(end="begun, ", file=sys.stderr)
        print("and ended\n", file=sys.stderr)
        logger = logging.Logger("uvicorn.error")
        logger.addHandler(logging.StreamHandler())
        try:
            raise ValueError("ä")
        except ValueError:
            logger.exception("a fault")
    out, err = ([json.loads(line) for line in text.splitlines()] for text in capsys.readouterr())
    assert [(line["level"], line["text"]) for line in out] == [
        ("info", "blemish station: http://127.0.0.1:8000"),
        ("info", 'a "quoted" line'),
    ]
    assert [line["level"] for line in err] == ["warning"] * 3
    assert err[0]["text"] == "blemish serve: the disk is full"
    assert err[1]["text"] == "begun, and ended"
    fault = err[2]["text"].splitlines()
    assert (fault[0], fault[1], fault[-1]) == (
        "a fault",
        "Traceback (most recent call last):",
        "ValueError: ä",
    )
    assert all(datetime.fromisoformat(line["time"]) <= datetime.now(UTC) for line in out + err)
    print("plain again")
    assert capsys.readouterr().out == "plain again\n"
