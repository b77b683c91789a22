"""Adam here is torch's, to the last bit, and a training imports nothing that it does not use."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from warm import Warm

from blemish.methods.metal_config import MetalConfig
from blemish.training.optimizer import Adam

CONFIG = MetalConfig(image_size=32, patch_size=8, embedding=8, hidden=16, heads=2, steps=2)


def trained(kind: Callable[..., torch.optim.Adam]) -> tuple[dict, dict]:
    """Train a small network for six steps, its optimiser saved and loaded after three; all that is left."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network, images = torch.nn.Linear(5, 3), torch.rand(6, 4, 5)
    optimizer = kind(network.parameters(), lr=0.01, fused=True)
    for step, x in enumerate(images):
        if step == 3:
            state = optimizer.state_dict()
            optimizer = kind(network.parameters(), lr=0.5, fused=True)
            optimizer.load_state_dict(state)
        optimizer.zero_grad()
        network(x).square().sum().backward()
        optimizer.step()
    assert all(not parameter.grad_fn for parameter in network.parameters())
    return network.state_dict(), optimizer.state_dict()


def test_it_does_what_torchs_does():
    ours, theirs = trained(Adam), trained(torch.optim.Adam)
    torch.testing.assert_close(ours, theirs, rtol=0, atol=0)
    assert ours[1]["param_groups"][0]["lr"] == 0.01


def imports_of_a_training(data: Path) -> int:
    import sys

    from blemish.training import fit

    fit.fit(data, config=CONFIG, device="cpu", precision="fp32")
    print(*sorted({"torch", "torch._dynamo", "torch.distributed.tensor", "sympy"} & set(sys.modules)))
    return 0


@pytest.mark.heavy
def test_a_training_imports_neither_a_compiler_nor_distributed_tensors(tiny_category: Path, tmp_path: Path):
    process = Warm(imports_of_a_training, tiny_category, out=tmp_path / "said")
    assert process.communicate(300)[0] == "torch\n"
