"""One comparison, checked and ready: train what is to be trained, tune the baselines, run all competitors."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from ..checking.errors import RecoptError, unknown
from ..contracts.task import Task
from ..levels.graph import Graph
from ..running.repeats import Runs, RunSettings, chunks, joined, repeated
from ..running.start import place
from ..running.task_runs import TaskRuns, raised, runs_of
from ..search.executor import Executor
from ..search.flows import Flow, carry_out
from ..search.jobs import Answer, Job
from ..search.journal import Journal
from ..stacks.build import make_task
from ..stacks.origin import digests
from ..stacks.plugins import load_strategy
from .compare_spec import CompareSpec, CompetitorSpec, report_seeds, tuning_seeds
from .comparison import Comparison
from .competitors import Competitor, competitor, stacked
from .figures import Entry
from .training import Progress, Trainee, Trainer, Untrained, trainee
from .tuning import Baseline, baseline, tune


@dataclass(frozen=True)
class Contest:
    """The competitors and the task of a comparison.

    Attributes:
        task: the family that all tasks are sampled from.
        stacks: the competitors in the spec's order, as trainees where they are trained first.
        baselines: the rules to tune.
        progress: called with a description of the work, the amount done, and the total.
        result: the kind of comparison that is made of it.
    """

    spec: CompareSpec
    task: Task
    stacks: Sequence[Competitor | Trainee]
    baselines: Sequence[Baseline]
    progress: Progress
    result: type[Comparison] = Comparison

    @property
    def names(self) -> list[str]:
        """The names of all competitors."""
        return [one.name for one in (*self.stacks, *self.baselines)]

    @property
    def digests(self) -> dict[str, str]:
        """The digests of the user's own plugins, by kind and name."""
        plans = [plan for one in self.stacks if isinstance(one, Trainee) for plan in one.plans]
        graphs = [one.graph for one in self.stacks if isinstance(one, Competitor)]
        found = [(slot, type(strategy)) for graph in graphs for slot, strategy in graph.slots.items()]
        found += [(base.rule.name, load_strategy(base.rule.name, base.plugins)) for base in self.baselines]
        trained = {key: digest for plan in plans for key, digest in plan.spec.digests.items()}
        return trained | digests((self.spec.task.name, type(self.task)), found)

    def train(self, trainer: Trainer, executor: Executor, journal: Journal[str],
              begun: Path | None) -> list[Competitor | Untrained]:  # fmt: skip
        """The stacks, with the trainees among them trained. Arguments and errors are those of :meth:`Trainer.train`."""
        trainees = [one for one in self.stacks if isinstance(one, Trainee)]
        trained = trainer.train(trainees, executor, journal, begun, self.progress)
        return [trained[one.name] if isinstance(one, Trainee) else one for one in self.stacks]

    def run(self, stacks: Sequence[Competitor], executor: Executor) -> Comparison:
        """Run the (trained) ``stacks``, and tune and run the baselines; the result does not depend on the executor.

        Raises:
            RecoptError: for a competitor that cannot work; RunFailed for an error in a strategy or task.
        """
        done = dict[str, int]()

        def heard(job: Job, answer: Answer) -> None:
            raised(answer)  # at once, and not after all others
            if isinstance(job, TaskRuns) and job.test:
                done[job.name] = done.get(job.name, 0) + len(job.seeds)
                self.progress(f"running {job.name}", done[job.name], totals[job.name])

        totals = {one.name: len(one.graphs) * self.spec.seeds for one in stacks}
        totals |= {base.name: self.spec.seeds for base in self.baselines}
        flows = [self._entry(one) for one in stacks] + [self._tuned(base) for base in self.baselines]
        entries = carry_out(executor, flows, heard)
        tuned = [entry.competitor for entry in entries[len(stacks) :]]
        leader = min(tuned, key=lambda one: one.tuning_score) if tuned else stacks[0]
        return self.result(self.spec, entries, self.spec.reference or leader.name)

    def _entry(self, one: Competitor) -> Flow[Entry]:
        """Run a competitor on the test tasks."""
        seeds = report_seeds(self.spec)
        self.progress(f"running {one.name}", 0, len(one.graphs) * len(seeds))
        jobs = [self._jobs(one.name, graph, seeds) for graph in one.graphs]
        parts = yield from _runs(jobs, len(seeds))
        return Entry(one, repeated(parts))

    def _tuned(self, base: Baseline) -> Flow[Entry]:
        """Tune a baseline, and run it on the test tasks."""
        spec, seeds, done = self.spec, tuning_seeds(self.spec), 0
        tuning = tune(base, spec.tune, spec.steps, spec.seed, len(seeds), spec.guards)
        settings = next(tuning)
        while True:
            jobs = [self._jobs(one.name, one.graph, seeds, test=False) for one in settings]
            runs = yield from _runs(jobs, len(seeds))
            done += len(settings)
            self.progress(f"tuning {base.text}", done, spec.tune)
            try:
                settings = tuning.send([float(found.score(spec.measure).mean()) for found in runs])
            except StopIteration as end:
                return (yield from self._entry(end.value))

    def _jobs(self, name: str, graph: Graph, seeds: Sequence[int], test: bool = True) -> list[TaskRuns]:
        spec, parts = self.spec, chunks(name, graph, self.task, seeds)
        how = RunSettings(spec.steps, spec.device, spec.dtype, spec.budget)
        return [TaskRuns(name, graph, self.task, part, how, test, tuple(spec.plugins)) for part in parts]


def _runs(jobs: Sequence[Sequence[TaskRuns]], count: int) -> Flow[list[Runs]]:
    """The runs of several competitors side by side, each on ``count`` tasks in chunks of its own."""
    answers = iter((yield [job for own in jobs for job in own]))
    return [joined([runs_of(next(answers)) for _ in own], count) for own in jobs]


def prepare(
    spec: CompareSpec, task: Task | None = None, graphs: Mapping[str, Graph] | None = None,
    progress: Progress | None = None, result: type[Comparison] = Comparison,
) -> Contest:  # fmt: skip
    """Make the contest of ``spec``; ``task`` and ``graphs`` (by the stack's text) are objects that replace its text.

    Raises:
        RecoptError: for a spec that cannot work; RunFailed for an error in making a strategy or task.
    """
    place(spec.device)
    family = task or make_task(spec.task, report_seeds(spec)[0], spec.plugins)
    stacks = [_competitor(asked, family, spec, graphs or {}) for asked in spec.stacks]
    baselines = [baseline(text, spec.plugins) for text in spec.baselines]
    made = Contest(spec, family, stacks, baselines, progress or (lambda what, done, total: None), result)
    names = made.names
    for name in names:
        if names.count(name) > 1:
            raise RecoptError(f"Two competitors are called '{name}': give one of them another 'name' in a spec.")
    if spec.reference is not None and spec.reference not in names:
        raise unknown("competitor", spec.reference, names, "as the 'reference'")
    return made


def _competitor(
    asked: CompetitorSpec, task: Task, spec: CompareSpec, graphs: Mapping[str, Graph]
) -> Competitor | Trainee:
    if asked.run is not None:
        return trainee(asked, spec)
    if graph := graphs.get(asked.stack or ""):
        return stacked(asked.name or graph.describe(), graph, spec)
    return competitor(asked, task, spec)
