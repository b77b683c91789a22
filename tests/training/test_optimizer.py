"""Adam here is torch's, to the last bit, and a training imports nothing that it does not use."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

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


@pytest.mark.heavy
def test_a_training_imports_neither_a_compiler_nor_distributed_tensors(tiny_category: Path, tmp_path: Path):
    code = f"""
import sys
from pathlib import Path
from blemish.methods.metal_config import MetalConfig
from blemish.training import fit
fit.fit(Path({str(tiny_category)!r}), config={CONFIG!r}, device="cpu", precision="fp32")
print(*sorted({{"torch", "torch._dynamo", "torch.distributed.tensor", "sympy"}} & set(sys.modules)))
"""
    command = [sys.executable, "-c", code]  # not a fork: who forks may have imported more
    said = subprocess.run(command, cwd=tmp_path, check=True, capture_output=True, text=True).stdout
    assert said == "torch\n"
