"""The paper's presets of MeTAL stay what they were: a short seeded training, by numbers kept from before.

What is added to MeTAL is an option that these presets leave off, so not a bit of their models may move. The
last bits differ between processors, so the numbers are compared to 1e-5; names and shapes to the letter.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace

import pytest
import torch

from blemish.methods.metal import Metal

pytestmark = pytest.mark.usefixtures("single_thread")

SMALL = {"image_size": (32, 48), "patch_size": 8, "embedding": 8, "hidden": 16, "heads": 2}
KEPT = {
    "paper-object": {
        "tensors": "915e7a702eca11b4",
        "numbers": [0.5308585166931152, 2437.435478837535, 3404.365005195141, 1.2307491302490234],
    },
    "paper-texture": {
        "tensors": "2c42b0b442c64ddb",
        "numbers": [0.5282841324806213, 3881.3214157486036, 3414.0344593524933, 1.2587634325027466],
    },
}
"""Of each preset: a digest of the tensors' names and shapes; the loss of the third step, the sum of all
tensors' absolute values, the sum of two maps, and one value of the second."""


@pytest.mark.parametrize("preset", KEPT)
def test_papers_presets_learn_and_score_as_before(preset):
    torch.manual_seed(0)
    network = Metal(replace(Metal.presets[preset], **SMALL), channels=3)
    x = torch.rand(6, 3, 32, 48, generator=torch.Generator().manual_seed(1))
    network.prepare(lambda: x.split(4))
    optimizer = torch.optim.Adam(network.parameters(), lr=1e-3)
    for _ in range(3):
        optimizer.zero_grad()
        loss = network.loss(x)
        loss.backward()
        optimizer.step()
    network.finish(lambda: x.split(4))
    network.eval()
    tensors = {name: list(value.shape) for name, value in network.state_dict().items()}
    digest = hashlib.sha256(json.dumps(tensors, sort_keys=True).encode()).hexdigest()[:16]
    with torch.no_grad():
        maps = network(x[:2])
    weights = sum(value.double().abs().sum() for value in network.state_dict().values())
    kept = KEPT[preset]
    assert digest == kept["tensors"]
    found = [loss.item(), float(weights), maps.double().sum().item(), maps[1, 3, 5].item()]
    assert found == pytest.approx(kept["numbers"], rel=1e-5)
