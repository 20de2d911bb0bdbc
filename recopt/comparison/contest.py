"""One comparison, checked and ready: train what is to be trained, tune the baselines, run all competitors."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from ..checking.errors import RecoptError, unknown
from ..contracts.task import Task
from ..levels.graph import Graph
from ..running.repeats import Runs, RunSettings, repeated, run_all
from ..running.start import place
from ..stacks.build import make_task
from .compare_spec import CompareSpec, CompetitorSpec, report_seeds, tuning_seeds
from .comparison import Comparison
from .competitors import Competitor, competitor, stacked
from .figures import Entry
from .training import Progress, Trainee, Trainer, trainee
from .tuning import Baseline, baseline, tune


@dataclass(frozen=True)
class Contest:
    """The competitors and the task of a comparison.

    Attributes:
        task: the family that all tasks are sampled from.
        stacks: the competitors in the spec's order, as trainees where they are trained first.
        baselines: the rules to tune.
        progress: called with a description of the work, the amount done, and the total.
    """

    spec: CompareSpec
    task: Task
    stacks: Sequence[Competitor | Trainee]
    baselines: Sequence[Baseline]
    progress: Progress

    def train(self, trainer: Trainer) -> list[Competitor]:
        """Train the trainees among the stacks. Errors are those of :meth:`Trainer.train`."""
        return [trainer.train(one, self.progress) if isinstance(one, Trainee) else one for one in self.stacks]

    def run(self, stacks: Sequence[Competitor]) -> Comparison:
        """Run the (trained) ``stacks``, then tune and run each baseline.

        Raises:
            RecoptError: for a competitor that cannot work; RunFailed for an error in a strategy or task.
        """
        entries, tuned = [Entry(one, self._run(one)) for one in stacks], list[Competitor]()
        for base in self.baselines:
            tuned.append(self._tune(base))
            entries.append(Entry(tuned[-1], self._run(tuned[-1])))
        leader = min(tuned, key=lambda one: one.tuning_score) if tuned else stacks[0]
        return Comparison(self.spec, entries, self.spec.reference or leader.name)

    @property
    def _how(self) -> RunSettings:
        return RunSettings(self.spec.steps, self.spec.device, self.spec.dtype)

    def _run(self, one: Competitor) -> Runs:
        graphs, seeds, parts = one.graphs, report_seeds(self.spec), list[Runs]()

        def report(done: int) -> None:
            self.progress(f"running {one.name}", len(parts) * len(seeds) + done, len(graphs) * len(seeds))

        for graph in graphs:
            report(0)
            parts.append(run_all(one.name, graph, self.task, seeds, self._how, progress=report))
        return repeated(parts)

    def _tune(self, base: Baseline) -> Competitor:
        spec, seeds = self.spec, tuning_seeds(self.spec)

        def score(one: Competitor) -> float:
            runs = run_all(one.name, one.graph, self.task, seeds, self._how, test=False)
            return float(runs.score(spec.measure).mean())

        def report(done: int) -> None:
            self.progress(f"tuning {base.text}", done, spec.tune)

        report(0)
        return tune(base, spec.tune, spec.steps, spec.seed, score, len(seeds), spec.guards, report)


def prepare(
    spec: CompareSpec, task: Task | None = None, graphs: Mapping[str, Graph] | None = None,
    progress: Progress | None = None,
) -> Contest:  # fmt: skip
    """Make the contest of ``spec``; ``task`` and ``graphs`` (by the stack's text) are objects that replace its text.

    Raises:
        RecoptError: for a spec that cannot work; RunFailed for an error in making a strategy or task.
    """
    place(spec.device)
    family = task or make_task(spec.task, report_seeds(spec)[0], spec.plugins)
    stacks = [_competitor(asked, family, spec, graphs or {}) for asked in spec.stacks]
    baselines = [baseline(text, spec.plugins) for text in spec.baselines]
    names = [one.name for one in (*stacks, *baselines)]
    for name in names:
        if names.count(name) > 1:
            raise RecoptError(f"Two competitors are called '{name}': give one of them another 'name' in a spec.")
    if spec.reference is not None and spec.reference not in names:
        raise unknown("competitor", spec.reference, names, "as the 'reference'")
    return Contest(spec, family, stacks, baselines, progress or (lambda what, done, total: None))


def _competitor(
    asked: CompetitorSpec, task: Task, spec: CompareSpec, graphs: Mapping[str, Graph]
) -> Competitor | Trainee:
    if asked.run is not None:
        return trainee(asked, spec)
    if graph := graphs.get(asked.stack or ""):
        return stacked(asked.name or graph.describe(), graph, spec)
    return competitor(asked, task, spec)
