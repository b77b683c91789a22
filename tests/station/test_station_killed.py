"""A station that is killed again and again while it works: whatever it acknowledged is there."""

from __future__ import annotations

import io
import json
import random
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from cameras import wait_for
from conftest import tiny_image
from PIL import Image

pytest.importorskip("fastapi", reason="the station's packages are not installed")

from stations import Senders, Served

from blemish.record.archive import Archive
from blemish.record.store import Store

LIVES = 20


def pictures(number: int) -> list[bytes]:
    found = []
    for i in range(number):
        buffer = io.BytesIO()
        Image.fromarray(np.roll(tiny_image(i % 10), i, axis=0)).save(buffer, "PNG")
        found.append(buffer.getvalue())
    return found


@pytest.mark.server
@pytest.mark.slow
def test_whatever_was_acknowledged_is_there(
    tiny_onnx: Path, tmp_path: Path, record_testsuite_property: Callable[[str, object], None]
):
    folder = tmp_path / "station"
    images, chance = pictures(64), random.Random(0)
    acknowledged: dict[str, dict] = {}
    unanswered: dict[str, bytes] = {}
    for _ in range(LIVES):
        served = Served(tiny_onnx, folder)  # starts by itself, whatever the life before it left
        senders = Senders(served, images, 8)
        number = chance.randint(3, 20)
        wait_for(lambda senders=senders, number=number: len(senders.acknowledged) >= number)
        time.sleep(chance.uniform(0, 0.05))
        served.kill()
        senders.join()
        acknowledged |= {said["id"]: said for said in senders.acknowledged}
        unanswered |= senders.unanswered
    assert len(acknowledged) > 5 * LIVES

    served = Served(tiny_onnx, folder)
    some = chance.sample(sorted(acknowledged), 20)
    for id in some:
        assert served.json(f"/v1/inspections/{id}") == acknowledged[id]
        assert served.get(acknowledged[id]["overlay"])[0] == 200
    resent = set()
    for key, image in unanswered.items():  # recorded or not: with its key it is one row
        status, body = served.request("POST", "/v1/inspections", image, {"Idempotency-Key": key})
        assert status == 201, body
        resent.add(json.loads(body)["id"])
    assert len(resent) == len(unanswered)
    assert served.stop() == 0

    store, archive = Store.open(None, folder), Archive(folder / "archive")
    rows, before = {}, None
    while page := store.find(limit=500, before=before):
        rows |= {row.id: row for row in page}
        before = page[-1].id
    assert acknowledged.keys() | resent == rows.keys()  # none is lost, and none is there twice
    assert not acknowledged.keys() & resent
    for row in rows.values():  # those too whose answer was never given: no row without its files
        assert row.image is not None
        assert row.map is not None
        assert archive.path(row.image, "image").stat().st_size
        assert archive.path(row.map, "map").stat().st_size
        assert archive.read(row.image, "image") in images
    store.close()
    for name, count in (
        ("lives", LIVES),
        ("acknowledged", len(acknowledged)),
        ("unanswered", len(unanswered)),
        ("rows", len(rows)),
    ):  # in the report of --junitxml
        record_testsuite_property(name, count)
