"""Flows: pieces of work that ask for jobs step by step, carried out side by side."""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from typing import TypeVar

from .executor import Executor
from .jobs import Answer, Job

T = TypeVar("T")
Flow = Generator[Sequence[Job], list[Answer], T]
"""Yields jobs that may be done side by side, is sent their answers in the same order, and returns its result."""


def carry_out(
    executor: Executor, flows: Sequence[Flow[T]], heard: Callable[[Job, Answer], None] = lambda job, answer: None
) -> list[T]:
    """The results of ``flows``, which do not depend on the executor.

    ``heard`` is called with each answer as it comes; its errors, and those of the flows, are raised here.
    """
    results, owners = dict[int, T](), list[tuple[int, int, Job]]()
    asked = [list[Answer | None]() for _ in flows]

    def step(which: int, answers: list[Answer] | None) -> None:
        flow = flows[which]
        try:
            jobs = next(flow) if answers is None else flow.send(answers)
        except StopIteration as end:
            results[which] = end.value
            return
        asked[which] = [None] * len(jobs)
        for at, job in enumerate(jobs):
            owners.append((which, at, job))
            executor.submit(len(owners) - 1, job)

    for which in range(len(flows)):
        step(which, None)
    while len(results) < len(flows):
        answer = executor.next()
        which, at, job = owners[answer.number]
        heard(job, answer)
        asked[which][at] = answer
        if all(one is not None for one in asked[which]):
            step(which, [one for one in asked[which] if one is not None])
    return [results[which] for which in range(len(flows))]
