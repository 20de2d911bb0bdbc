"""A loop as one writes it in plain torch, for the models of the zoo."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn.parameter import is_lazy

from recopt.contracts.task import Task
from recopt.levels.seeds import mix


def by_torch(task: Task, steps: int, lr: float, *, last: bool = False) -> tuple[list[float], nn.Module]:
    """The losses of ``steps`` updates in float64 (``last``: and the one after them), and the model."""
    torch.manual_seed(task.seed)
    model = task.model().double()
    if any(is_lazy(t) for t in (*model.parameters(), *model.buffers())):
        task.loss(model.eval(), task.batch(0))
        model.train()
    moved = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.SGD(moved, lr=lr, momentum=0.9, weight_decay=0.01)
    torch.manual_seed(mix(0, 1))
    losses = []
    for step in range(steps + last):
        optimizer.zero_grad()
        loss = task.loss(model, task.batch(step))
        losses.append(float(loss.detach()))
        if step < steps:
            loss.backward()
            for p in moved:
                if p.grad is not None and p.grad.is_sparse:  # which torch's momentum does not take
                    p.grad = p.grad.to_dense()
            optimizer.step()
    return losses, model
