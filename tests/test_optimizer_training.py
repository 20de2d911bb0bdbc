"""recopt.Optimizer in real training loops: precision, odd parameters, compile, AMP, data-parallel; and misuse."""

from __future__ import annotations

import itertools
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import recopt
from recopt import RecoptError, Strategy, tree
from recopt.kernels.sgd import SgdKernel
from recopt.plugins import load_strategy

from .processes import of_two


def steps(
    model: nn.Module, optimizer: torch.optim.Optimizer, count: int, dtype: torch.dtype = torch.float32
) -> list[float]:
    draw = torch.Generator().manual_seed(5)
    losses = []
    for _ in range(count):
        x = torch.randn(16, 6, generator=draw).to(dtype)
        optimizer.zero_grad()
        loss = (model(x) - x[:, :3]).square().mean()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses


def mlp() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 16), nn.Tanh(), nn.Linear(16, 3))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_low_precision_parameters_keep_their_moments_in_float32(dtype: torch.dtype) -> None:
    model = mlp().to(dtype)
    optimizer = recopt.Optimizer(model.parameters(), "adam(lr=0.01)/sgd[*]")
    losses = steps(model, optimizer, 60, dtype)
    state = optimizer.state_dict()["state"]["recopt"]["towers"][0]["rungs"][0]["cohorts"][0]["mover"]["state"]
    assert {t.dtype for key in ("mean", "square", "grads") for t in state[key]} == {torch.float32}
    assert {p.dtype for p in model.parameters()} == {dtype}
    assert losses[-1] < 0.5 * losses[0]


def test_complex_parameters_are_two_real_ones() -> None:
    torch.manual_seed(0)
    target = torch.randn(5, dtype=torch.complex128)
    found = []
    for real in (False, True):
        point = torch.zeros(5, 2, dtype=torch.float64) if real else torch.zeros(5, dtype=torch.complex128)
        p = nn.Parameter(point)
        optimizer = recopt.Optimizer([p], "adam(lr=0.1)/sgd")
        for _ in range(20):
            optimizer.zero_grad()
            (torch.view_as_complex(p) if real else p).sub(target).abs().square().sum().backward()
            optimizer.step()
        found.append(p.detach() if real else torch.view_as_real(p.detach()))
    assert torch.equal(*found)


def test_tied_frozen_and_absent_parameters() -> None:
    torch.manual_seed(0)
    model = nn.ModuleDict({"a": nn.Linear(6, 6), "b": nn.Linear(6, 6), "c": nn.Linear(6, 3), "idle": nn.Linear(2, 2)})
    model["b"].weight = model["a"].weight
    model["c"].bias.requires_grad_(False)
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    optimizer = recopt.Optimizer(model.parameters(), "adam(lr=0.01,weight_decay=0.1)/sgd")
    losses = []
    for _ in range(40):
        x = torch.randn(16, 6)
        optimizer.zero_grad()
        loss = (model["c"](torch.tanh(model["b"](torch.tanh(model["a"](x))))) - x[:, :3]).square().mean()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.7 * losses[0]
    assert model["b"].weight is model["a"].weight
    same = {name for name, p in model.named_parameters() if torch.equal(p, before[name])}
    assert same == {"c.bias", "idle.weight", "idle.bias"}


@pytest.mark.parametrize("fused", [True, False])
def test_a_parameter_that_joins_late_starts_afresh(fused: bool) -> None:
    """Adam's bias correction counts from the tensor's own first gradient, as in torch; a pause leaves it in place."""
    found = []
    for make in (lambda p: recopt.Optimizer(p, "adam(lr=0.1)", fused=fused), lambda p: torch.optim.Adam(p, lr=0.1)):
        a, b = nn.Parameter(torch.ones(3, dtype=torch.float64)), nn.Parameter(torch.ones(3, dtype=torch.float64))
        optimizer = make([a, b])
        for step in range(12):
            optimizer.zero_grad()
            (a.square().sum() + (b.square().sum() if step >= 5 else 0.0)).backward()
            optimizer.step()
        held = b.detach().clone()
        optimizer.zero_grad()
        a.square().sum().backward()
        optimizer.step()
        assert torch.equal(b, held)
        found.append(torch.cat([a.detach(), b.detach()]))
    assert torch.allclose(*found, rtol=0, atol=1e-12)


def test_groups_stacks_and_scopes() -> None:
    model = mlp()
    first, last = list(model[0].parameters()), list(model[2].parameters())
    groups: list[dict[str, Any]] = [{"params": first, "lr": 0.01}, {"params": last, "stack": "sgd(lr=0.2)/sgd"}]
    optimizer = recopt.Optimizer(groups, "adam/sgd")
    assert optimizer.describe() == ["adam/sgd(lr=0.05)[lr]", "sgd(lr=0.2)/sgd(lr=0.05)[lr]"]
    assert optimizer.hyperparameters()["0/adam.lr"] == pytest.approx(0.01)
    steps(model, optimizer, 20)
    assert [g["lr"] for g in optimizer.param_groups] == pytest.approx([0.01, 0.2])
    for scope, towers in (("tensor", 4), ("group", 2), ("global", 1)):
        model = mlp()
        optimizer = recopt.Optimizer(
            [{"params": list(layer.parameters())} for layer in (model[0], model[2])], "adam/sgd", scope=scope
        )
        losses = steps(model, optimizer, 30)
        rates = [v for k, v in optimizer.hyperparameters().items() if k.endswith("adam.lr")]
        assert len(set(rates)) == len(rates) == towers
        assert losses[-1] < losses[0]


def test_add_param_group_and_one_tower_over_two_groups_is_one_group() -> None:
    found = []
    for split in (False, True):
        model = mlp()
        parts = [list(model[0].parameters()), list(model[2].parameters())]
        optimizer = recopt.Optimizer(parts[0] if split else [*parts[0], *parts[1]], "adam/sgd", scope="global")
        if split:
            optimizer.add_param_group({"params": parts[1]})
        found.append(steps(model, optimizer, 30))
    assert found[0] == found[1]


def test_patterns_give_weights_and_biases_their_own_strategy() -> None:
    model = mlp()
    optimizer = recopt.Optimizer(model.named_parameters(), "adam(lr=0.01)[*weight]+sgd(lr=0.1)[*bias]/hypergradient")
    losses = steps(model, optimizer, 40)
    values = optimizer.hyperparameters()
    assert values["adam.lr"] != pytest.approx(0.01, rel=1e-6)
    assert values["sgd.lr"] != pytest.approx(0.1, rel=1e-6)
    assert losses[-1] < losses[0]


def test_a_learned_strategy_and_its_own_tuning_run_in_the_loop() -> None:
    model = mlp()
    optimizer = recopt.Optimizer(model.parameters(), "lstm/adam(lr=1e-3)", every=5)
    weights = [c.clone() for c in optimizer._towers.all[0].slots["lstm"].coords]
    losses = steps(model, optimizer, 25)
    moved = optimizer._towers.all[0].slots["lstm"].coords
    assert any(not torch.equal(a, b) for a, b in zip(weights, moved, strict=True))
    assert all(torch.isfinite(torch.tensor(losses)))


def test_zero_order_levels_below_and_above() -> None:
    torch.manual_seed(0)
    p = nn.Parameter(torch.full((3,), 2.0))
    optimizer = recopt.Optimizer([p], "annealing")
    losses = [optimizer.step(lambda: p.square().sum()).item() for _ in range(300)]
    assert losses[-1] < 0.2 * losses[0]
    model = mlp()
    above = recopt.Optimizer(model.parameters(), "sgd(lr=0.01)/random-search", every=4)
    x = torch.randn(64, 6)
    for _ in range(60):
        above.zero_grad()
        loss = (model(x) - x[:, :3]).square().mean()
        loss.backward()
        above.step(loss=loss)
    assert above.hyperparameters()["sgd.lr"] != pytest.approx(0.01)


def test_held_out_gradients_move_the_upper_levels() -> None:
    """With a held-out loss that is the training loss negated, the rate moves the other way."""
    rates = []
    for sign in (1.0, -1.0):
        model = mlp()
        optimizer = recopt.Optimizer(model.parameters(), "sgd(lr=0.01)/sgd(lr=0.05)")
        x = torch.randn(64, 6, generator=torch.Generator().manual_seed(0))
        for _ in range(20):
            optimizer.zero_grad()
            loss = (model(x) - x[:, :3]).square().mean()
            held = sign * (model(x) - x[:, :3]).square().mean()
            loss.backward()
            optimizer.step(valid_loss=held)
        rates.append(optimizer.hyperparameters()["sgd.lr"])
    assert rates[0] > 0.015
    assert rates[1] < 0.0075
    model = mlp()
    optimizer = recopt.Optimizer(model.parameters(), "sgd(lr=0.01)/sgd(lr=0.05)")
    for _ in range(20):
        optimizer.zero_grad()
        (model(x) - x[:, :3]).square().mean().backward()
        optimizer.step(valid=lambda m=model: (m(x) - x[:, :3]).square().mean())
    assert optimizer.hyperparameters()["sgd.lr"] == pytest.approx(rates[0], rel=1e-6)


def test_non_finite_gradients_are_skipped_counted_and_reported() -> None:
    model = mlp()
    optimizer = recopt.Optimizer(model.parameters(), "adam/sgd")
    steps(model, optimizer, 5)
    before = [p.detach().clone() for p in model.parameters()]
    values = optimizer.hyperparameters()
    next(iter(model.parameters())).grad.fill_(float("nan"))
    with pytest.warns(RuntimeWarning, match="gradient is not finite"):
        optimizer.step()
    assert all(torch.equal(a, b) for a, b in zip(before, model.parameters(), strict=True))
    assert optimizer.hyperparameters() == values
    assert optimizer.guards()["skipped"] == 1
    losses = steps(model, optimizer, 30)
    assert losses[-1] < losses[0]


@pytest.mark.parametrize("fused", [True, False])
def test_a_point_without_finite_gradients_is_left(fused: bool) -> None:
    """The logarithm of what a step made negative: the step is taken back, smaller ones follow."""
    p = nn.Parameter(torch.tensor([1.0], dtype=torch.float64))
    optimizer = recopt.Optimizer([p], "sgd(lr=0.002)/sgd", fused=fused)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for _ in range(60):
            optimizer.zero_grad()
            (100 * (p - 0.95) - (p - 0.95).log()).sum().backward()
            if not torch.isfinite((p - 0.95).log()).all():
                p.grad.fill_(float("nan"))
            optimizer.step()
    assert optimizer.guards()["restored"] > 0
    assert torch.isfinite((p - 0.95).log()).all()


@pytest.mark.parametrize("what", ["model", "step"])
def test_compiled(what: str) -> None:
    reference = mlp()
    expected = steps(reference, recopt.Optimizer(reference.parameters(), "adam/sgd"), 10)
    model = mlp()
    optimizer = recopt.Optimizer(model.parameters(), "adam/sgd")
    torch.compiler.reset()
    if what == "model":
        found = steps(torch.compile(model, backend="aot_eager"), optimizer, 10)  # type: ignore[arg-type]
    else:
        optimizer.step = torch.compile(optimizer.step, backend="eager")  # type: ignore[method-assign]
        found = steps(model, optimizer, 10)
    assert found == pytest.approx(expected, rel=1e-5)


def test_grad_scaler_skips_what_overflows() -> None:
    model = mlp()
    optimizer = recopt.Optimizer(model.parameters(), "adam/sgd")
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**10)
    x = torch.randn(16, 6)
    for bad in (False, True, False):
        optimizer.zero_grad()
        with torch.autocast("cpu", dtype=torch.bfloat16):
            loss = (model(x) - x[:, :3]).float().square().mean()
        scaler.scale(loss * (float("inf") if bad else 1.0)).backward()
        before = [p.detach().clone() for p in model.parameters()]
        values = optimizer.hyperparameters()
        scaler.step(optimizer)
        scaler.update()
        still = all(torch.equal(a, b) for a, b in zip(before, model.parameters(), strict=True))
        assert still == bad
        assert (optimizer.hyperparameters() == values) or not bad
    assert scaler.get_scale() == 2.0**9


def _rank(rank: int) -> Any:
    torch.manual_seed(rank)
    model = nn.parallel.DistributedDataParallel(mlp())
    optimizer = recopt.Optimizer(model.parameters(), "adam(lr=0.01)/sgd/sgd")
    data = torch.randn(40, 32, 6, generator=torch.Generator().manual_seed(9))
    for batch in data:
        x = batch[rank * 16 : rank * 16 + 16]
        optimizer.zero_grad()
        (model(x) - x[:, :3]).square().mean().backward()
        optimizer.step()
    flat = torch.cat([p.detach().flatten() for p in model.parameters()])
    return optimizer.hyperparameters(), flat.tolist()


@pytest.mark.slow
def test_two_ranks_have_identical_hyperparameters(tmp_path: Path) -> None:
    one, other = of_two(_rank, tmp_path)
    assert one == other
    model = mlp()
    single = recopt.Optimizer(model.parameters(), "adam(lr=0.01)/sgd/sgd")
    for x in torch.randn(40, 32, 6, generator=torch.Generator().manual_seed(9)):
        single.zero_grad()
        (model(x) - x[:, :3]).square().mean().backward()
        single.step()
    assert one[0]["adam.lr"] == pytest.approx(single.hyperparameters()["adam.lr"], rel=1e-3)


def misuse() -> list[tuple[str, Any]]:
    p = [nn.Parameter(torch.ones(2)), nn.Parameter(torch.ones(3))]
    make = recopt.Optimizer
    return [
        ("got no parameters", lambda: make([], "adam")),
        ("Group 1 is empty", lambda: make([{"params": p[:1]}, {"params": []}], "adam")),
        ("Groups 0 and 1 share a tensor", lambda: make([{"params": p[:1]}, {"params": p}], "adam")),
        ("Group 0 has a tensor twice", lambda: make([p[0], p[0]], "adam")),
        ("in a set", lambda: make([{"params": set(p)}], "adam")),
        ("Did you mean 'adam'", lambda: make(p, "adm/sgd")),
        ("empty place", lambda: make(p, "adam//sgd")),
        ("stack is empty", lambda: make(p, [])),
        ("not 3", lambda: make(p, ["adam", 3])),
        ("Did you mean 'lr'", lambda: make(p, "adam", lrr=0.1)),
        ("must be a number above 0", lambda: make(p, "adam", lr=-1.0)),
        ("Did you mean 'momentum'", lambda: make([{"params": p, "momentun": 0.9}], "sgd")),
        ("depth=1 must be", lambda: make(p, "adam/sgd", depth=1)),
        ("scope='gruop'", lambda: make(p, "adam/sgd", scope="gruop")),
        ("log_every=0", lambda: make(p, "adam", log_every=0)),
        ("levels={4", lambda: make(p, "adam/sgd", levels={4: {"every": 2}})),
        ("Did you mean 'normalize'", lambda: make(p, "adam/sgd", levels={2: {"normalise": "rms"}})),
        ("levels={2: …}, every", lambda: make(p, "adam/sgd", levels={2: {"every": 0}})),
        ("matches no parameter", lambda: make(p, "adam[*weight]/sgd")),
        ("zero-order", lambda: make(p, "annealing/adam")),
        ("call opt.step\\(closure\\)", lambda: make(p, "annealing").step()),
        ("'blend' reads the loss.*opt.step\\(loss=loss\\)", lambda: make(p, "blend").step()),
        ("'blend' reads the loss", lambda: make(p, "adam/blend").step()),
        ("neither|cannot be optimized", lambda: make([torch.ones(2, dtype=torch.int64)], "adam")),
    ]


def test_a_group_that_is_refused_leaves_the_optimizer_as_it_was() -> None:
    first, second = (nn.Parameter(torch.ones(2)) for _ in range(2))
    optimizer = recopt.Optimizer([first], "adam/sgd")
    for group in ({"params": second, "lrr": 1.0}, {"params": second, "stack": "adamm"}, {"params": second, "lr": -1.0}):
        with pytest.raises(RecoptError):
            optimizer.add_param_group(group)
    assert len(optimizer.param_groups) == 1
    first.grad, second.grad = torch.ones(2), torch.ones(2)
    optimizer.step()
    assert torch.equal(second, torch.ones(2)) and not torch.equal(first, torch.ones(2))
    optimizer.add_param_group({"params": second, "lr": 0.5})
    optimizer.step()
    assert not torch.equal(second, torch.ones(2))


def test_nor_does_one_that_is_refused_at_its_second_tensor_leave_a_tower() -> None:
    first, second, odd = nn.Parameter(torch.ones(2)), nn.Parameter(torch.ones(2)), torch.ones(2, dtype=torch.int64)
    optimizer = recopt.Optimizer([first], "adam/sgd", scope="tensor")
    with pytest.raises(RecoptError, match="int64 cannot be optimized"):
        optimizer.add_param_group({"params": [second, odd]})
    first.grad, second.grad = torch.ones(2), torch.ones(2)
    optimizer.step()
    assert len(optimizer.describe()) == 1
    assert torch.equal(second, torch.ones(2))


@pytest.mark.parametrize("number", range(len(misuse())))
def test_misuse_is_refused_with_the_remedy(number: int) -> None:
    match, act = misuse()[number]
    with pytest.raises(RecoptError, match=match):
        act()


def test_misuse_while_training() -> None:
    p = nn.Parameter(torch.ones(4, 2))
    optimizer = recopt.Optimizer([p], "sgd/annealing")
    p.grad = torch.ones_like(p)
    with pytest.raises(RecoptError, match="zero-order and needs losses"):
        optimizer.step()
    with pytest.raises(RecoptError, match="with its graph"):
        optimizer.step(valid_loss=torch.tensor(1.0))
    table = nn.Embedding(4, 2, sparse=True)
    sparse = recopt.Optimizer(table.parameters(), "adam")
    table(torch.tensor([1])).sum().backward()
    with pytest.raises(RecoptError, match="sparse"):
        sparse.step()
    two = recopt.Optimizer([{"params": [p]}, {"params": [nn.Parameter(torch.ones(2))]}], "sgd/sgd", scope="global")
    two.param_groups[0]["lr"] *= 0.5
    with pytest.raises(RecoptError, match="scope='group'"):
        two.step()


def test_a_users_kernel_comes_in_by_the_same_hook_and_a_subclass_does_not_inherit_it() -> None:
    sgd: Any = load_strategy("sgd")
    used = []

    class Kernel(SgdKernel):
        def step(self, *arguments: Any) -> None:
            used.append(1)
            super().step(*arguments)

    class Mine(Strategy):
        lr = recopt.positive(0.1)
        momentum = recopt.unit(0.0, off=0.0)
        weight_decay = recopt.positive(0.0, off=0.0)
        nesterov = recopt.option(False)
        kernel = Kernel
        init, forward = sgd.init, sgd.forward

    class Changed(Mine):
        def forward(self, *arguments: Any) -> Any:
            deltas, state = super().forward(*arguments)
            return [2 * d for d in deltas], state

    found = []
    for strategy in (Mine(), sgd(lr=0.1), Changed(), sgd(lr=0.2)):
        p = nn.Parameter(torch.ones(3))
        optimizer = recopt.Optimizer([p], [strategy])
        for _ in range(3):
            optimizer.zero_grad()
            p.square().sum().backward()
            optimizer.step()
        found.append(p.detach())
    assert len(used) == 3
    assert torch.equal(found[0], found[1])
    assert torch.allclose(found[2], found[3])

    class Broken(Mine):
        kernel = "recopt.kernels.nowhere:Kernel"

        def forward(self, *arguments: Any) -> Any:
            return super().forward(*arguments)

    p.grad = torch.ones(3)
    broken = recopt.Optimizer([p], [Broken()])
    with pytest.raises(RecoptError, match="nothing that can be imported"):
        broken.step()


def test_memory_is_one_copy_over_torch_and_no_graph_is_kept() -> None:
    model = mlp()
    optimizer = recopt.Optimizer(model.parameters(), "adam", depth=6)
    steps(model, optimizer, 3)
    count = sum(p.numel() for p in model.parameters())
    held: list[Tensor] = []
    tree.tree_map(held.append, optimizer.state_dict())
    assert sum(t.numel() for t in held) <= 3 * count  # two means, as torch.optim.Adam, and the last gradient
    assert not any(t.requires_grad for t in itertools.chain(held, (p.grad for p in model.parameters())))


def digits() -> tuple[Tensor, Tensor]:
    from sklearn.datasets import load_digits

    found = load_digits()
    return torch.tensor(found.data, dtype=torch.float32) / 16, torch.tensor(found.target)


@pytest.mark.parametrize("stack", [None, "sgd(momentum=0.9)/adagrad(lr=1)[lr]"])
def test_no_start_value_makes_a_tower_fail_where_a_good_value_exists(stack: str | None) -> None:
    """Over ten decades of start values the end is the same to within three points of accuracy."""
    x, y = digits()
    right = []
    for rate in (1e-7, 1e-4, 1e-1, 1e3):
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(64, 32), nn.Tanh(), nn.Linear(32, 10))
        optimizer = recopt.Optimizer(model.parameters(), stack, lr=rate)
        for _ in range(8):
            for rows in torch.randperm(len(x)).split(64):
                optimizer.zero_grad()
                nn.functional.cross_entropy(model(x[rows]), y[rows]).backward()
                optimizer.step()
        right.append((model(x).argmax(1) == y).double().mean().item())
    assert min(right) > 0.95
    assert max(right) - min(right) < 0.03


@pytest.mark.parametrize("fused", [True, False])
def test_a_wild_first_step_is_cut_back_and_its_rate_lowered(fused: bool) -> None:
    model = mlp()
    before = torch.cat([p.detach().flatten() for p in model.parameters()])
    optimizer = recopt.Optimizer(model.parameters(), "adam(lr=1000)/adagrad(lr=1)[lr]", fused=fused)
    steps(model, optimizer, 1)
    after = torch.cat([p.detach().flatten() for p in model.parameters()])
    assert float((after - before).norm() / before.norm()) == pytest.approx(0.2, rel=1e-3)
    assert optimizer.guards()["bounded"] == 1
    assert optimizer.hyperparameters()["adam.lr"] < 1
    assert steps(model, optimizer, 30)[-1] < 1
    plain = mlp()
    steps(plain, recopt.Optimizer(plain.parameters(), "adam(lr=1000)"), 1)
    moved = torch.cat([p.detach().flatten() for p in plain.parameters()]) - before
    assert float(moved.abs().median()) == pytest.approx(1000, rel=1e-2)  # alone it is torch.optim.Adam


RATES = ["sgd(lr=0.1)", "sgd(lr=0.1,momentum=0.9)", "adam(weight_decay=0.1)", "rmsprop", "adagrad"]


@pytest.mark.parametrize("bottom", RATES)
def test_windows_over_the_rate_need_no_tape(bottom: str) -> None:
    found = []
    for fused in (True, False):
        model = mlp().double()
        optimizer = recopt.Optimizer(model.parameters(), f"{bottom}/adagrad(lr=0.3)[lr]", every=4, fused=fused)
        found.append((steps(model, optimizer, 30, torch.float64), optimizer.hyperparameters()))
        kind = type(optimizer._towers.all[0].bottoms[0].cohorts[0].mover).__name__
        assert kind == ("KernelMover" if fused else "TapedMover")
    assert found[0][0] == pytest.approx(found[1][0], rel=1e-10)
    assert found[0][1] == pytest.approx(found[1][1], rel=1e-9)
