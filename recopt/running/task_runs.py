"""The runs of a graph on some tasks as a job, for any process."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import torch
from safetensors.torch import load, save
from torch import Tensor

from ..checking.errors import RecoptError
from ..contracts.strategy import Strategy
from ..contracts.task import Task
from ..levels.graph import Graph
from ..levels.level import Level
from ..search.jobs import FAILED, LOST, Answer, RemoteTraceback
from ..stacks.build import make_strategies, make_task
from ..stacks.exported import Trained
from ..stacks.failures import RunFailed
from ..stacks.named import Named
from .plan import strategy_in_words, task_in_words
from .repeats import Runs, RunSettings, run_chunk


@dataclass(frozen=True)
class TaskRuns:
    """One chunk of the runs of ``graph`` (see :func:`.repeats.run_chunk`).

    Attributes:
        plugins: folders and files in which its strategies and its task are found by name.
    """

    name: str
    graph: Graph
    task: Task
    seeds: Sequence[int]
    how: RunSettings
    test: bool = True
    plugins: tuple[str, ...] = ()

    def words(self) -> dict[str, Any]:
        """Its description, with all values of the strategies. Raises RecoptError for a class that no name finds."""
        graph = graph_in_words(self.graph, self.plugins)
        task = task_in_words(self.task, graph["plugins"])
        _check_found(task)
        return {
            "name": self.name, **graph, "task": task.model_dump(mode="json"), "task_seed": self.task.seed,
            "seeds": list(self.seeds), "how": list(self.how), "test": self.test,
        }  # fmt: skip

    @classmethod
    def read(cls, words: Mapping[str, Any]) -> Self:
        """The job with this description."""
        task = make_task(Named.model_validate(words["task"]), words["task_seed"], words["plugins"])
        return cls(words["name"], graph_of(words), task, words["seeds"], RunSettings(*words["how"]), words["test"])

    def run(self) -> dict[str, Any]:
        """The runs in words, which :func:`runs_of` reads."""
        found = run_chunk(self.name, self.graph, self.task, self.seeds, self.how, self.test)
        arrays = {"losses": found.losses, **{f"test/{key}": values for key, values in found.test.items()}}
        return {
            "arrays": _text({key: torch.from_numpy(np.ascontiguousarray(x)) for key, x in arrays.items()}),
            "evaluations": found.evaluations, "hypergradients": found.hypergradients, "seconds": found.seconds,
            "restored": found.restored,
        }  # fmt: skip


def graph_in_words(graph: Graph, plugins: Sequence[str]) -> dict[str, Any]:
    """A graph with all values of its strategies in JSON, which :func:`graph_of` reads.

    Raises:
        RecoptError: for a class that no name finds.
    """
    folders = [str(type(s).export.folder) for s in graph.slots.values() if isinstance(s, Trained)]
    places = [*folders, *plugins]
    named = {slot: strategy_in_words(strategy, places) for slot, strategy in graph.slots.items()}
    for one in named.values():
        _check_found(one)
    return {
        "levels": [level.model_dump(mode="json") for level in graph.levels],
        "strategies": {slot: one.model_dump(mode="json") for slot, one in named.items()},
        "values": _text({f"{slot}/{key}": x for slot, s in graph.slots.items() for key, x in s.state_dict().items()}),
        "labels": graph.labels, "plugins": places,
    }  # fmt: skip


def graph_of(words: Mapping[str, Any]) -> Graph:
    """The graph that ``words`` describe."""
    named = {slot: Named.model_validate(one) for slot, one in words["strategies"].items()}
    slots, values = make_strategies(named, 0, words["plugins"]), _tensors(words["values"])
    for slot, strategy in slots.items():
        _fill(strategy, {key.removeprefix(f"{slot}/"): x for key, x in values.items() if key.startswith(f"{slot}/")})
    return Graph([Level.model_validate(one) for one in words["levels"]], slots, labels=words["labels"])


def _check_found(one: Named) -> None:
    if ":" in one.name:
        raise RecoptError(
            f"'{one.name}' is a class that no other process finds: put it into a file of its own, or leave the work to "
            "the executor 'inline'."
        )


def raised(answer: Answer) -> None:
    """Raise the failure of a job, if it has one.

    Raises:
        RecoptError: for a graph, task or device that cannot work.
        RunFailed: for an error in a strategy or task, or if the job's workers died.
    """
    if (failure := answer.failure) is not None:
        kind = RunFailed if failure.kind in (FAILED, LOST) else RecoptError
        raise kind(failure.message) from RemoteTraceback(f"\n{failure.traceback}")


def runs_of(answer: Answer) -> Runs:
    """The runs in the answer to a job. Errors are those of :func:`raised`."""
    raised(answer)
    arrays, rest = _tensors(answer.found["arrays"]), {k: v for k, v in answer.found.items() if k != "arrays"}
    test = {key.removeprefix("test/"): x.numpy() for key, x in arrays.items() if key.startswith("test/")}
    return Runs(arrays["losses"].numpy(), test, **rest)


def _fill(strategy: Strategy, values: Mapping[str, Tensor]) -> None:
    """Set all parameters and buffers to ``values``, in their dtype."""
    with torch.no_grad():
        for key, own in strategy.state_dict().items():
            own.copy_(values[key])


def _text(tensors: Mapping[str, Tensor]) -> str:
    """Tensors as text: safetensors, in base64."""
    return base64.b64encode(save({key: x.detach().cpu().clone().contiguous() for key, x in tensors.items()})).decode()


def _tensors(text: str) -> dict[str, Tensor]:
    return load(base64.b64decode(text))
