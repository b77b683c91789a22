"""Events of a station for other machines: which, of whose parts, signed, and to whom."""

from __future__ import annotations

import json
import shlex
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from inspected import part

pytest.importorskip("fastapi", reason="the station's packages are not installed")

from blemish.cli.commands.serve import ServeOptions, _outgoing
from blemish.core.errors import UsageError
from blemish.record.identifiers import IdSequence
from blemish.record.labels import Labelling, Labels
from blemish.record.sampling import SamplingPlan
from blemish.record.store import Store
from blemish.station.following import Following
from blemish.station.notifications import Notifications
from blemish.watch.notify import Receivers, signature


class Line:
    """As much of a station as telling needs."""

    def __init__(self, folder: Path) -> None:
        self.store = Store.open(None, folder)
        self.labelling = Labelling(Labels(station="east"))
        self.following = Following(self.store, IdSequence(None))


def test_rejects_reviews_and_alarms_of_this_station_are_told(tmp_path: Path):
    line, told = Line(tmp_path), list[dict[str, Any]]()
    Notifications(line, told.append)  # type: ignore[arg-type]
    line.store.record([part(0, rejected=True, station="east"), part(1, rejected=True, station="west")])
    line.store.set_sampling(SamplingPlan(1.0))
    line.store.record([part(2, station="east"), part(3, station=None)])
    line.following.tell("0" * 64, kind="drift", value=2.5, message="odd")
    line.following.follow()
    assert [(row["event"], row.get("part")) for row in told] == [
        *(("reject", "P-0"), ("review", "P-2"), ("alarm", None)),
    ]
    assert told[0]["decision"] == "rejected"
    assert told[0]["regions"] == []
    assert (told[2]["kind"], told[2]["value"]) == ("drift", 2.5)
    json.dumps(told)
    line.following.follow()
    assert len(told) == 3
    line.store.close()


def test_a_reject_is_read_from_the_record_only_where_somebody_is_told(tmp_path: Path):
    line = Line(tmp_path)
    for to, listeners in (({}, 0), ({"on_reject": "true"}, 1)):
        with _outgoing(ServeOptions(model=(), **to), line):  # type: ignore[arg-type]
            assert len(line.following.listeners) == listeners
    line.store.close()


def test_a_command_for_rejects_hears_of_nothing_else(tmp_path: Path):
    (tmp_path / "secret").write_text("0123456789abcdef\n")
    to = {name: f"sh -c {shlex.quote(f'cat >> {tmp_path}/{name}')}" for name in ("on_reject", "on_event")}
    with Receivers(**to).telling(pytest.fail) as tell:
        for event in ("reject", "review", "alarm"):
            tell({"event": event})
    assert (tmp_path / "on_reject").read_text() == '{"event": "reject"}'
    assert (tmp_path / "on_event").read_text().count("event") == 3


def test_a_secret_is_read_and_a_signature_is_what_everybody_can_make(tmp_path: Path):
    # printf '%s' '1700000000.{}' | openssl dgst -sha256 -hmac 0123456789abcdef
    assert signature(b"0123456789abcdef", "1700000000", b"{}") == SIGNED
    with (
        pytest.raises(UsageError, match=r"--webhook-secret .*: cannot be read"),
        Receivers(webhook="http://127.0.0.1/", webhook_secret=tmp_path / "none").telling(pytest.fail),
    ):
        pass
    (tmp_path / "short").write_text("abc")
    for given, said in (({"webhook": "http://127.0.0.1/"}, "is too short"), ({}, "add --webhook")):
        with (
            pytest.raises(UsageError, match=said),
            replace(Receivers(**given), webhook_secret=tmp_path / "short").telling(pytest.fail),
        ):
            pass


SIGNED = "e4f8e2ecae2295b2ddb2f0b5584c8275e226c0ebe9b3b819e70156bb67122e3e"
