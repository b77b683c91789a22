"""Adam that starts at once."""

from __future__ import annotations

from inspect import unwrap

import torch


class Adam(torch.optim.Adam):
    """torch's Adam, which here leaves torch's compiler alone.

    Its methods are wrapped to tell the compiler to pass them over, and import it for that at their first
    call: more than a second of every training, though nothing is compiled. Here they are not wrapped.
    """

    step = torch.no_grad()(unwrap(torch.optim.Adam.step))
    add_param_group = unwrap(torch.optim.Adam.add_param_group)
    zero_grad = unwrap(torch.optim.Adam.zero_grad)
    state_dict = unwrap(torch.optim.Adam.state_dict)
    load_state_dict = unwrap(torch.optim.Adam.load_state_dict)
