"""Trees of tensors."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor

from recopt.contracts import trees as tree


class Pair(NamedTuple):
    a: Tensor
    b: int


@dataclass
class Node:
    x: Any
    n: int = 3


def make() -> dict[str, Any]:
    one = torch.arange(3.0)
    return {"l": [one, 2, [one + 1]], "p": Pair(one + 2, 1), "t": (None, "s"), "d": Node({"k": one + 3})}


def test_map_keeps_the_shape_and_shares_nothing_but_leaves() -> None:
    found = make()
    copy = tree.tree_map(lambda leaf: leaf, found)
    copy["l"][2].append(1)
    copy["d"].x["k"] = None
    assert found["l"][2][0] is copy["l"][2][0]
    assert len(found["l"][2]) == 1 and found["d"].x["k"] is not None
    assert isinstance(copy["p"], Pair) and copy["t"] == (None, "s") and copy["d"].n == 3


def test_tensors_and_refill_are_inverse() -> None:
    found = make()
    leaves = tree.tensors(found)
    assert len(leaves) == 4
    back = tree.refill(found, [2 * x for x in leaves])
    assert all(torch.equal(a, 2 * b) for a, b in zip(tree.tensors(back), leaves, strict=True))


def test_stack_and_unstack_are_inverse() -> None:
    trees = [tree.tree_map(lambda x, k=k: x + k, make()) for k in range(3)]
    for a, b in zip(tree.unstack(tree.stack(trees), 3), trees, strict=True):
        assert all(torch.equal(x, y) for x, y in zip(tree.tensors(a), tree.tensors(b), strict=True))


def test_choose_by_task_keeps_the_counts_of_those_that_go_on() -> None:
    mask = torch.tensor([True, False])
    found = tree.choose(mask, {"n": 1, "x": torch.zeros(2, 3)}, {"n": 2, "x": torch.ones(2, 3)})
    assert found["n"] == 2
    assert found["x"].tolist() == [[0.0] * 3, [1.0] * 3]
    assert tree.choose(torch.tensor(True), {"n": 1}, {"n": 2}) == {"n": 1}


def test_trees_are_paired_by_their_keys_in_whatever_order_these_are() -> None:
    one = {"a": torch.zeros(2), "b": [(torch.ones(2), {"c": torch.full((2,), 2.0), "d": torch.full((2,), 3.0)})]}
    other = {"b": [(torch.ones(2), {"d": torch.full((2,), 3.0), "c": torch.full((2,), 2.0)})], "a": torch.zeros(2)}
    for found in (tree.choose(torch.tensor([True, False]), one, other), *tree.unstack(tree.stack([one, other]), 2)):
        assert found["a"].sum() == 0 and found["b"][0][0].sum() == 2  # type: ignore[attr-defined, index]
        assert found["b"][0][1]["c"].sum() == 4 and found["b"][0][1]["d"].sum() == 6  # type: ignore[index]


def test_detach_shares_what_has_no_graph() -> None:
    plain, live = torch.ones(2), torch.ones(2, requires_grad=True)
    a, b = tree.detach([plain, live * 2])
    assert a is plain and not b.requires_grad


def test_norm() -> None:
    items = [torch.tensor([[3.0], [0.0]]), torch.tensor([[4.0], [2.0]])]
    assert float(tree.norm(items)) == pytest.approx(29**0.5)
    assert tree.norm(items, batched=True).tolist() == [5.0, 2.0]
    assert float(tree.norm([])) == 0
