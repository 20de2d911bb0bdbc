"""Refusals of recopt.Optimizer, each in a sentence: when it is made, and while it trains."""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import recopt
from recopt import RecoptError


def misuse() -> list[tuple[str, Any]]:
    p = [nn.Parameter(torch.ones(2)), nn.Parameter(torch.ones(3))]
    make = recopt.Optimizer
    return [
        ("got no parameters", lambda: make([], "adam")),
        ("Groups 0 and 1 share a tensor", lambda: make([{"params": p[:1]}, {"params": p}], "adam")),
        ("in a set", lambda: make([{"params": set(p)}], "adam")),
        ("Did you mean 'adam'", lambda: make(p, "adm/sgd")),
        ("empty place", lambda: make(p, "adam//sgd")),
        ("stack is empty", lambda: make(p, [])),
        ("not 3", lambda: make(p, ["adam", 3])),
        ("Did you mean 'lr'", lambda: make(p, "adam", lrr=0.1)),
        ("must be a number above 0", lambda: make(p, "adam", lr=-1.0)),
        ("Did you mean 'momentum'", lambda: make([{"params": p, "momentun": 0.9}], "sgd")),
        ("Did you mean 'stack'", lambda: make([{"params": p, "stak": "sgd"}], "adam")),
        ("Did you mean 'maximize'", lambda: make([{"params": p, "maximise": True}], "adam")),
        (
            "Level 1 has no 'momentum', which is a setting",
            lambda: make([{"params": p, "momentum": 0.9}], "adam"),
        ),
        ("betas=0.9 must be two numbers", lambda: make(p, "adam", betas=0.9)),
        ("pass model.named_parameters\\(\\) instead", lambda: make(p, "adam[*weight]")),
        ("depth=1 must be", lambda: make(p, "adam/sgd", depth=1)),
        ("scope='gruop'", lambda: make(p, "adam/sgd", scope="gruop")),
        ("log_every=0", lambda: make(p, "adam", log_every=0)),
        ("levels={4", lambda: make(p, "adam/sgd", levels={4: {"every": 2}})),
        ("Did you mean 'normalize'", lambda: make(p, "adam/sgd", levels={2: {"normalise": "rms"}})),
        ("In levels={2: …}: 'every' .*, not 0", lambda: make(p, "adam/sgd", levels={2: {"every": 0}})),
        ("'normalize' should be one of none, .*, not 'rsm'", lambda: make(p, "adam/sgd", normalize="rsm")),
        ("valid=5 must be a function", lambda: make(p, "adam/sgd").step(valid=5)),  # type: ignore[arg-type]
        ("no store at .*nowhere/mlflow.db", lambda: make(p, "runs:/abc", store=Path("nowhere"))),
        ("store=5 must be an address or a path", lambda: make(p, "runs:/abc", store=5)),  # type: ignore[arg-type]
        ("matches no parameter", lambda: make(p, "adam[*weight]/sgd")),
        ("zero-order", lambda: make(p, "annealing/adam")),
        ("call opt.step\\(closure\\)", lambda: make(p, "annealing").step()),
        ("'blend' reads the loss.*opt.step\\(loss=loss\\)", lambda: make(p, "blend").step()),
        ("'blend' reads the loss", lambda: make(p, "adam/blend").step()),
        ("neither|cannot be optimized", lambda: make([torch.ones(2, dtype=torch.int64)], "adam")),
    ]


@pytest.mark.parametrize("number", range(len(misuse())))
def test_misuse_is_refused_with_the_remedy(number: int) -> None:
    match, act = misuse()[number]
    with pytest.raises(RecoptError, match=match):
        act()


def test_a_slip_in_what_a_level_above_moves_is_not_blamed_on_names_of_parameters() -> None:
    with pytest.raises(RecoptError, match=r"^Level 2 .*: \[lrr\] matches no parameter of 'adam'. Have: lr, beta1"):
        recopt.Optimizer([nn.Parameter(torch.ones(2))], "adam/adagrad[lrr]")


def test_slips_in_each_argument_of_the_optimizer_are_told() -> None:
    arguments = [k for k, a in inspect.signature(recopt.Optimizer).parameters.items() if a.kind is a.KEYWORD_ONLY]
    assert len(arguments) > 10
    for name in arguments:
        with pytest.raises(RecoptError, match=f"of recopt.Optimizer. Did you mean '{name}'"):
            recopt.Optimizer([nn.Parameter(torch.ones(2))], "adam", **{f"{name}s": 1})


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


def slips_in_making() -> list[tuple[str, Any]]:
    make = recopt.Optimizer
    w, linear = nn.Parameter(torch.ones(2)), nn.Linear(2, 2)
    return [
        ("not 5", lambda: make([w], 5)),  # type: ignore[arg-type]
        ("a list of them, not <class", lambda: make([w], torch.optim.Adam)),  # type: ignore[arg-type]
        ("levels=", lambda: make([w], "adam/sgd", levels={"2": {}})),  # type: ignore[dict-item]
        ("levels=", lambda: make([w], "adam/sgd", levels={2: 3})),  # type: ignore[dict-item]
        ("levels=", lambda: make([w], "adam/sgd", levels=[1])),  # type: ignore[arg-type]
        ("valid_loss=…", lambda: make([w], "adam/sgd", levels={2: {"on": "valid"}})),
        ("trust: it bounds", lambda: make([w], "adam/sgd", levels={1: {"trust": 0.1}})),
        ("seed='x'", lambda: make([w], seed="x")),  # type: ignore[arg-type]
        ("model.parameters\\(\\), not Linear", lambda: make(linear)),  # type: ignore[arg-type]
        ("not NoneType", lambda: make(None)),  # type: ignore[arg-type]
        ("params of group 0", lambda: make([{"params": 5}])),
        ("one with 'param'", lambda: make([{"param": [w]}])),
        ("plugins=3 must be a folder", lambda: make([w], plugins=3)),  # type: ignore[arg-type]
        ("Plugins cannot be read from 'nowhere'", lambda: make([w], "adam", plugins="nowhere")),
        ("callback=3", lambda: make([w], callback=3)),  # type: ignore[arg-type]
        ("maximize='yes'", lambda: make([w], maximize="yes")),  # type: ignore[arg-type]
        ("guard='no'", lambda: make([w], guard="no")),  # type: ignore[arg-type]
        ("domains=3 must read like", lambda: make([w], "sgd", domains=3)),
        ("Did you mean 'real'", lambda: make([w], "sgd", domains={"lr": "rael"})),
        ("Unknown strategy 'adm' in 'adm/sgd'", lambda: make([w], "adm/sgd")),
        ("every=True", lambda: make([w], every=True)),
        ("an optimizer of its own", lambda: make([{"params": [w]}, {"params": linear.weight, "stack": "annealing"}])),
        ("an optimizer of its own", lambda: make(linear.named_parameters(), "adam[*weight]+annealing[*bias]")),
    ]  # fmt: skip


def slips_in_training() -> list[tuple[str, Any]]:
    make = recopt.Optimizer
    w, linear = nn.Parameter(torch.ones(2)), nn.Linear(2, 2)
    w.grad = torch.ones(2)
    done = linear(torch.ones(2)).sum()
    done = done * done
    done.backward()

    def lr(value: Any) -> recopt.Optimizer:
        optimizer = make([w], "adam")
        optimizer.param_groups[0]["lr"] = value
        return optimizer

    return [
        ("by its name, opt.step\\(loss=loss\\)", lambda: make([w]).step(torch.tensor(1.0))),  # type: ignore[arg-type]
        ("shape \\(2,\\)", lambda: make([w]).step(loss=torch.ones(2))),
        ("gave str as the loss", lambda: make([w]).step(loss="low")),  # type: ignore[arg-type]
        ("The closure gave NoneType", lambda: make([w], "annealing").step(lambda: None)),
        ("The closure gave dict", lambda: make([w], "blend").step(lambda: {"loss": 1.0})),
        ("valid_loss must be one number", lambda: make([w]).step(valid_loss=1.0)),  # type: ignore[arg-type]
        ("valid_loss must be one number", lambda: make([w]).step(valid=lambda: None)),  # type: ignore[arg-type, return-value]
        ("differentiated already", lambda: make(linear.parameters(), "adam/sgd").step(valid_loss=done)),
        ("of which there is none here", lambda: make([w]).step(valid_loss=w.sum())),
        ("of which there is none here", lambda: make([w], "learned").step(loss=1.0, valid=w.sum)),
        ("set to nan", lambda: lr(float("nan")).step()),
        ("set to None", lambda: lr(None).step()),
        ("set to 'a'", lambda: lr("a").step()),
        ("use scope='group'", lambda: make([{"params": [w]}, {"params": linear.weight, "maximize": True}], "annealing",
                                           scope="global").step(lambda: 1.0)),
    ]  # fmt: skip


@pytest.mark.parametrize("number", range(len(slips_in_making())))
def test_slips_in_making_one_are_answered_in_a_sentence(number: int) -> None:
    match, act = slips_in_making()[number]
    with pytest.raises(RecoptError, match=match):
        act()


@pytest.mark.parametrize("number", range(len(slips_in_training())))
def test_slips_in_training_are_answered_in_a_sentence(number: int) -> None:
    match, act = slips_in_training()[number]
    with pytest.raises(RecoptError, match=match):
        act()


@pytest.mark.parametrize(
    ("stack", "name", "value"),
    [("adam", "weight_decay", 0.1), ("adam", "beta1", 0.5), ("adam", "betas", (0.5, 0.9)), (None, "eps", 1e-3),
     ("sgd/sgd", "nesterov", True), ("learned", "weight_decay", 0.0), ("lstm", "scale", 0.5)],
)  # fmt: skip
@pytest.mark.parametrize("scope", ["group", "tensor", "global"])
def test_a_setting_that_is_written_into_a_group_is_not_ignored(
    stack: str | None, name: str, value: object, scope: Any
) -> None:
    a, b = nn.Parameter(torch.ones(2)), nn.Parameter(torch.ones(3))
    optimizer = recopt.Optimizer([{"params": [a]}, {"params": [b]}], stack, scope=scope)
    optimizer.param_groups[1][name] = value
    calls: list[int] = []
    with pytest.raises(RecoptError, match=f"Group 1: '{name}' was set after the group was made.*with {name}=… instead"):
        optimizer.step(lambda: calls.append(0))
    assert not calls
    del optimizer.param_groups[1][name]
    optimizer.step(lambda: torch.ones(()))


def test_what_schedules_and_others_keep_in_a_group_is_left_there() -> None:
    w = nn.Parameter(torch.ones(2))
    optimizer = recopt.Optimizer([{"params": [w], "weight_decay": 0.1, "name": "all"}], "sgd", lr=0.5)
    schedules = [
        torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=1.0, total_steps=9, cycle_momentum=False),
        torch.optim.swa_utils.SWALR(optimizer, swa_lr=0.1),
        torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer),
    ]
    optimizer.param_groups[0] |= {"note": "of mine", "layer": 3, "maximize": True}
    w.grad = torch.ones(2)
    optimizer.step()
    assert len(schedules) == 3 and bool((w > 0.95).all())


def test_tensors_and_groups_that_are_put_in_by_hand_are_not_ignored() -> None:
    a, b = nn.Parameter(torch.ones(2)), nn.Parameter(torch.ones(3))
    optimizer = recopt.Optimizer([a], "adam")
    optimizer.param_groups[0]["params"].append(b)
    with pytest.raises(RecoptError, match="Group 0 was made of 1 tensors and has 2 now.*add_param_group"):
        optimizer.step()
    optimizer.param_groups[0]["params"].pop()
    optimizer.param_groups.append({"params": [b], "lr": 1.0})
    with pytest.raises(RecoptError, match="There were 1 groups and now there are 2: use opt.add_param_group"):
        optimizer.step()
    optimizer.param_groups.pop()
    optimizer.add_param_group({"params": [b]})
    optimizer.step()
