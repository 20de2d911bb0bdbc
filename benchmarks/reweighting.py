"""Learned weights of examples: MNIST with flipped training labels and 1,000 clean held-out ones.

    python benchmarks/reweighting.py [--flip 0.3] [--steps 10000] [--seeds 3] [--arms none,network,slow,hand,examples]

A network of 100 hidden units is trained on batches of 100 by SGD with momentum 0.9 and a rate that falls from 0.1 along
a cosine. Weights of examples stay equal (``none``), or are moved by Adam at every step by the exact hypergradient of
the loss on a batch of clean examples: a network that weighs an example by its loss (Shu et al. 2019, 1902.07379) at
their rate for noise, 1e-3 (``network``), or at 1e-5 (``slow``), or a number for each example (``examples``). ``hand``:
Meta-Weight-Net as its authors train it, in plain torch: a step without momentum on the sum of weighed losses over the
batch's size gives the hypergradient, and the step that is made then goes back to where that one began. ``betty``: the
recipe of betty (Choe et al. 2023, 2207.02849), examples/learning_to_reweight, with its --meta_lr for noise, by
betty-ml 0.1.1 where that is installed, on the same batches: a second classifier with the label as a further input gives
the weight, and one-step hypergradients come from a difference of gradients. Loss and accuracy on the official test set
at the end.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Iterator
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

import recopt
from recopt.tasks.wrappers import members

OUTER = {
    "none": "", "network": "/loss:adam(lr=0.001)", "slow": "/loss:adam(lr=0.00001)", "examples": "/loss:adam(lr=0.1)",
}  # fmt: skip


def task_of(flip: float, weights: str) -> str:
    """The task in words."""
    classifier = "mnist(hidden=[100], activation=relu, batch_size=100)"
    return f"noisy-labels(of={classifier}, flip={flip}, weights={weights})"


def by_recopt(arm: str, flip: float, steps: int, seed: int) -> dict[str, float]:
    """Test loss and accuracy at the end of a run."""
    task = task_of(flip, "examples" if arm == "examples" else "network")
    rule = "sgd(lr=0.1, momentum=0.9, weight_decay=0.0005)"
    told = ["level1.schedule=cosine", f"level1.horizon={steps}"]
    told += ["level2.normalize=none"] if arm in ("network", "slow") else []
    found = recopt.run(task, rule + OUTER[arm], settings=told, steps=steps, seed=seed, measure=0, track=False).after
    return {key: float(found[key]) for key in ("accuracy", "loss")}


def by_hand(flip: float, steps: int, seed: int) -> dict[str, float]:
    """Test loss and accuracy at the end of Meta-Weight-Net in plain torch."""
    task: Any = members(task_of(flip, "network"), "task")[0].sample(seed)
    torch.manual_seed(seed)
    model, weigher = task.model(), task.loss_parameters()
    sgd = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, weight_decay=5e-4)
    adam = torch.optim.Adam(weigher.parameters(), lr=1e-3, weight_decay=1e-4)
    falling = torch.optim.lr_scheduler.CosineAnnealingLR(sgd, steps)
    theta = dict(model.named_parameters())

    def weights(losses: Tensor) -> Tensor:
        found: Tensor = weigher(losses.detach()[:, None])[:, 0].sigmoid()
        return found

    for step in range(steps):
        x, y, _ = task.batch(step)
        losses = functional.cross_entropy(model(x), y, reduction="none")
        weighed = (weights(losses) * losses).mean()
        grads = torch.autograd.grad(weighed, list(theta.values()), create_graph=True)
        rate = sgd.param_groups[0]["lr"]
        moved = {name: p - rate * g for (name, p), g in zip(theta.items(), grads, strict=True)}
        clean, right = task.batch(step, "valid")
        adam.zero_grad()
        held_out = functional.cross_entropy(torch.func.functional_call(model, moved, (clean,)), right)
        held_out.backward(inputs=list(weigher.parameters()))
        adam.step()
        losses = functional.cross_entropy(model(x), y, reduction="none")
        each = weights(losses).detach()
        sgd.zero_grad()
        ((each * losses).sum() / each.sum()).backward()
        sgd.step()
        falling.step()
    return tested(task, model)


def tested(task: Any, model: nn.Module) -> dict[str, float]:
    """Loss and accuracy on the test set."""
    pieces = [task.batch(index, "test") for index in range(task.batches("test"))]
    with torch.no_grad():
        losses = [float(functional.cross_entropy(model(x), y)) for x, y in pieces]
        right = [float((model(x).argmax(1) == y).float().mean()) for x, y in pieces]
    return {"accuracy": statistics.mean(right), "loss": statistics.mean(losses)}


class Batches:
    """The batches of a split, in the order of a run."""

    def __init__(self, task: Any, split: str) -> None:
        self.task, self.split, self.seen = task, split, 0

    def __len__(self) -> int:
        return 10**9

    def __iter__(self) -> Iterator[Any]:
        while True:
            yield self.task.batch(self.seen, self.split)
            self.seen += 1


class Weigher(nn.Module):
    """A classifier whose answer and the label are weighed by one more layer."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model, self.last = model, nn.Linear(20, 1)

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        answer = self.model(x).softmax(-1)
        weight: Tensor = self.last(torch.cat([answer, functional.one_hot(y, 10).to(answer)], 1)).sigmoid()
        return weight


def by_betty(flip: float, steps: int, seed: int) -> dict[str, float]:
    """Test loss and accuracy at the end of betty's recipe."""
    from betty.configs import Config, EngineConfig
    from betty.engine import Engine
    from betty.problems import ImplicitProblem
    from torch.optim.lr_scheduler import MultiStepLR

    task: Any = members(task_of(flip, "network"), "task")[0].sample(seed)
    torch.manual_seed(seed)
    model, weigher = task.model(), Weigher(task.model())

    class Outer(ImplicitProblem):  # type: ignore[misc]
        def training_step(self, batch: Any) -> Tensor:
            return functional.cross_entropy(self.inner(batch[0]), batch[1])

    class Inner(ImplicitProblem):  # type: ignore[misc]
        def training_step(self, batch: Any) -> Tensor:
            losses = functional.cross_entropy(self.module(batch[0]), batch[1], reduction="none")
            return (self.outer(batch[0], batch[1]) * losses[:, None]).mean()

    sgd = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, weight_decay=5e-4)
    adam = torch.optim.Adam(weigher.parameters(), lr=1e-3, weight_decay=1e-4)
    outer = Outer(
        "outer", config=Config(type="darts", retain_graph=True, log_step=-1), module=weigher, optimizer=adam,
        train_data_loader=Batches(task, "valid"), scheduler=MultiStepLR(adam, [steps * 6 // 10, steps * 8 // 10]),
    )  # fmt: skip
    inner = Inner(
        "inner", config=Config(type="darts", unroll_steps=1), module=model, optimizer=sgd,
        train_data_loader=Batches(task, "train"), scheduler=MultiStepLR(sgd, [steps // 2, steps * 3 // 4]),
    )  # fmt: skip
    links = {"u2l": {outer: [inner]}, "l2u": {inner: [outer]}}
    Engine(config=EngineConfig(train_iters=steps), problems=[outer, inner], dependencies=links).run()
    return tested(task, model)


def main() -> None:
    """Print one line for each way of weighing."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--flip", type=float, default=0.3)
    parser.add_argument("--steps", type=int, default=10_000)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--arms", default="none,network,slow,hand,examples", help="and betty, separated by commas")
    given = parser.parse_args()
    torch.set_num_threads(1)
    for arm in given.arms.split(","):
        begin, ends = time.perf_counter(), list[dict[str, float]]()
        for seed in range(given.seeds):
            others = {"betty": by_betty, "hand": by_hand}
            ends.append(others.get(arm, partial(by_recopt, arm))(given.flip, given.steps, seed))
        accuracy, loss = ([end[key] for end in ends] for key in ("accuracy", "loss"))
        spread = statistics.stdev(accuracy) if len(accuracy) > 1 else 0.0
        took = 1000 * (time.perf_counter() - begin) / given.seeds / given.steps
        print(f"flip {given.flip:g} {arm:10} accuracy {statistics.mean(accuracy):.4f} ± {spread:.4f}  "
              f"loss {statistics.mean(loss):.3f}  {took:.1f} ms a step", flush=True)  # fmt: skip


if __name__ == "__main__":
    main()
