"""Adam here is torch's, to the last bit, and imports no compiler."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch
from warm import Warm

from blemish.training.optimizer import Adam


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


def imports_of_a_training() -> int:
    import sys

    trained(Adam)
    print("torch._dynamo" in sys.modules, "torch" in sys.modules)
    return 0


def test_it_imports_no_compiler(tmp_path: Path):
    process = Warm(imports_of_a_training, out=tmp_path / "said")
    assert process.communicate(300)[0] == "False True\n"
