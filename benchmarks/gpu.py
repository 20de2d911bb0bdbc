"""Steps on a GPU: recopt.Optimizer against torch.optim.Adam, with the kernels it launches and the waits it makes.

    python benchmarks/gpu.py [--rounds 20] [--steps 20] [--only NAME …] [--stacks STACK …] [--device cuda] [--small]

A perceptron (784-1024-1024-10, batch 256), a convolutional network (eight convolutions of 64 to 512 channels with batch
norms, 32 × 32 images, batch 128), and a causal transformer (12 layers of width 768, 512 places, batch 8), float32
parameters, the last two under autocast to bfloat16. Each round times a block of whole steps (forward, backward, step)
of every optimizer in turn, with the device waited for at both ends; printed are the median over rounds of the ratio
within a round, with its quartiles, and that of the step alone. Then, of one late step alone: the kernels it launched,
the time they took, and how often the host waited for the device.
"""

from __future__ import annotations

import argparse
import statistics
import time
import warnings
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from transformer import Transformer

import recopt

PLAIN, FUSED = "torch.optim.Adam", "torch.optim.Adam(fused=True)"
STACKS = ("adam", "paced", "adam/adagrad(lr=1)[lr]", "adam/sgd x5", "adam/sgd[*]", "muon")
SETTLED = 340
"""Steps after which the default looks at its gain no more, and the guard measures every twentieth update only."""


def perceptron(small: bool) -> tuple[nn.Module, Tensor, Tensor, bool]:
    """A perceptron, its batch, and whether it is trained under autocast."""
    width = 64 if small else 1024
    net = nn.Sequential(nn.Linear(784, width), nn.ReLU(), nn.Linear(width, width), nn.ReLU(), nn.Linear(width, 10))
    return net, torch.randn(256, 784), torch.randint(10, (256,)), False


def convolutions(small: bool) -> tuple[nn.Module, Tensor, Tensor, bool]:
    """A convolutional network of eight layers."""
    layers: list[nn.Module] = []
    before = 3
    for number, width in enumerate((64, 64, 128, 128, 256, 256, 512, 512)):
        width = width // 16 if small else width  # noqa: PLW2901
        layers += [nn.Conv2d(before, width, 3, padding=1, bias=False), nn.BatchNorm2d(width), nn.ReLU()]
        layers += [nn.MaxPool2d(2)] if number % 2 else []
        before = width
    net = nn.Sequential(*layers, nn.Flatten(), nn.Linear(before * 4, 10))
    return net, torch.randn(128, 3, 32, 32), torch.randint(10, (128,)), True


def transformer(small: bool) -> tuple[nn.Module, Tensor, Tensor, bool]:
    """A causal transformer over characters."""
    context, width, layers = (16, 32, 2) if small else (512, 768, 12)
    text = torch.randint(256, (2 if small else 8, context + 1))
    return Transformer(256, context, width, layers, std=0.02), text[:, :-1], text[:, 1:].flatten(), True


NETWORKS: dict[str, Callable[[bool], tuple[nn.Module, Tensor, Tensor, bool]]] = {
    "perceptron": perceptron, "convolutions": convolutions, "transformer": transformer,
}  # fmt: skip


class Work:
    """A network that one optimizer trains."""

    def __init__(self, name: str, stack: str, device: str, small: bool) -> None:
        torch.manual_seed(0)
        net, x, y, self.half = NETWORKS[name](small)
        self.net, self.x, self.y, self.device = net.to(device), x.to(device), y.to(device), device
        params = list(self.net.parameters())
        self.optimizer: Any
        if stack.startswith("torch"):
            self.optimizer = torch.optim.Adam(params, 1e-4, fused=stack == FUSED or None)
        else:
            stack, _, depth = stack.partition(" x")
            self.optimizer = recopt.Optimizer(params, stack, depth=int(depth) if depth else None)

    def backward(self) -> None:
        """Forward and backward."""
        self.optimizer.zero_grad()
        with torch.autocast(self.device, dtype=torch.bfloat16, enabled=self.half):
            loss = cross_entropy(self.net(self.x).float(), self.y)
        loss.backward()

    def wait(self) -> None:
        """Wait for the device."""
        if self.device != "cpu":
            torch.cuda.synchronize()

    def block(self, steps: int) -> float:
        """Seconds of a whole step."""
        self.wait()
        begin = time.perf_counter()
        for _ in range(steps):
            self.backward()
            self.optimizer.step()
        self.wait()
        return (time.perf_counter() - begin) / steps

    def alone(self, steps: int) -> float:
        """Seconds of the optimizer's step, waited for. Gradients change their sign, so that nothing drifts."""
        self.backward()
        grads = [p.grad for p in self.net.parameters() if p.grad is not None]
        took = 0.0
        for _ in range(steps):
            torch._foreach_neg_(grads)
            self.wait()
            begin = time.perf_counter()
            self.optimizer.step()
            self.wait()
            took += time.perf_counter() - begin
        return took / steps

    def launches(self) -> str:
        """The kernels of a step, the time they take, and the waits."""
        if self.device == "cpu":
            return ""
        self.backward()
        self.wait()
        with warnings.catch_warnings(record=True) as told:
            warnings.simplefilter("always")
            torch.cuda.set_sync_debug_mode("warn")
            self.optimizer.step()
            torch.cuda.set_sync_debug_mode("default")
        waits = sum("synchronizing CUDA operation" in str(each.message) for each in told)
        kinds = [torch.profiler.ProfilerActivity.CPU, torch.profiler.ProfilerActivity.CUDA]
        self.wait()
        with torch.profiler.profile(activities=kinds) as seen:
            self.optimizer.step()
            self.wait()
        done = [e for e in seen.events() if e.device_type == torch.autograd.DeviceType.CUDA and "#" not in e.name]
        spent = sum(e.self_device_time_total for e in done)
        skipped = 0 if isinstance(self.optimizer, torch.optim.Adam) else self.optimizer.guards()["skipped"]
        assert not skipped, f"{skipped} steps were skipped"
        return f"{len(done):5d} kernels {spent:8.0f} µs  {waits} waits"


def measured(name: str, given: argparse.Namespace) -> None:
    """Print the rows of one network."""
    work = {stack: Work(name, stack, given.device, given.small) for stack in (PLAIN, FUSED, *given.stacks)}
    count = sum(p.numel() for p in work[PLAIN].net.parameters())
    tensors = len(list(work[PLAIN].net.parameters()))
    whole: dict[str, list[float]] = {stack: [] for stack in work}
    alone: dict[str, list[float]] = {stack: [] for stack in work}
    for each in work.values():
        each.block(3)
        each.alone(3 if given.small else SETTLED)
    for _ in range(given.rounds):
        for stack, each in work.items():
            whole[stack].append(each.block(given.steps))
            alone[stack].append(each.alone(given.steps))
    print(f"{name}: {count:,} parameters in {tensors} tensors; {PLAIN}: {1e3 * min(whole[PLAIN]):.2f} ms a step, "
          f"{1e3 * min(alone[PLAIN]):.3f} ms its own")  # fmt: skip
    for stack, each in work.items():
        low, middle, high = statistics.quantiles(_over(whole[stack], whole[PLAIN]), n=4)
        own, fused = (statistics.median(_over(alone[stack], alone[peer])) for peer in (PLAIN, FUSED))
        print(f"  {stack:30s} whole {middle:.3f} [{low:.3f}, {high:.3f}]  alone {own:6.2f}, over fused {fused:6.2f}  "
              f"{1e3 * min(alone[stack]):7.3f} ms  {each.launches()}", flush=True)  # fmt: skip


def _over(one: list[float], other: list[float]) -> list[float]:
    return [a / b for a, b in zip(one, other, strict=True)]


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--only", nargs="*", choices=NETWORKS, default=list(NETWORKS))
    parser.add_argument("--stacks", nargs="*", default=STACKS)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--small", action="store_true", help="small networks, to see that it works")
    given = parser.parse_args()
    card = torch.cuda.get_device_name() if given.device != "cpu" else "CPU"
    print(f"{card}, torch {torch.__version__}")
    for name in given.only:
        measured(name, given)


if __name__ == "__main__":
    main()
