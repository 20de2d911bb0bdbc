"""One comparison, checked and ready: train the trainees, tune the baselines, run all competitors."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from ..contracts.errors import RecoptError, unknown
from ..contracts.task import Task
from ..levels.graph import Graph
from ..running.repeats import Runs, RunSettings, repeated, run_all
from ..running.start import place
from ..stacks.build import make_task
from .contenders import Competitor, contender, stacked
from .figures import Entry
from .result import Comparison
from .spec import CompareSpec, Contender, report_seeds, tuning_seeds
from .training import Progress, Trainee, Trainer, trainee
from .tuning import Baseline, Tuned, baseline, tune


@dataclass(frozen=True)
class Contest:
    """The competitors and the task of a comparison.

    Attributes:
        task: the family that all tasks are sampled from.
        rivals: the stacks in the spec's order, as trainees where they are trained first.
        baselines: the rules to tune.
        progress: called with a description of the work, the amount done, and the total.
    """

    spec: CompareSpec
    task: Task
    rivals: Sequence[Competitor | Trainee]
    baselines: Sequence[Baseline]
    progress: Progress

    def train(self, trainer: Trainer) -> list[Competitor]:
        """Train the trainees among the rivals. Errors are those of :meth:`Trainer.train`."""
        return [trainer.train(one, self.progress) if isinstance(one, Trainee) else one for one in self.rivals]

    def run(self, rivals: Sequence[Competitor]) -> Comparison:
        """Run the (trained) ``rivals``, then tune and run each baseline.

        Raises:
            RecoptError: for a competitor that cannot work; RunFailed for an error in a strategy or task.
        """
        entries = [Entry(rival, self._run(rival)) for rival in rivals]
        tuned = []
        for base in self.baselines:
            tuned.append(best := self._tune(base))
            entries.append(Entry(best.competitor, self._run(best.competitor), best.trials, best.score))
        leader = min(tuned, key=lambda one: one.score).competitor.name if tuned else rivals[0].name
        return Comparison(self.spec, entries, self.spec.reference or leader)

    @property
    def _how(self) -> RunSettings:
        return RunSettings(self.spec.steps, self.spec.device, self.spec.dtype)

    def _run(self, rival: Competitor) -> Runs:
        graphs, seeds, parts = rival.graphs, report_seeds(self.spec), list[Runs]()

        def told(done: int) -> None:
            self.progress(f"running {rival.name}", len(parts) * len(seeds) + done, len(graphs) * len(seeds))

        for graph in graphs:
            parts.append(run_all(rival.name, graph, self.task, seeds, self._how, progress=told))
        return repeated(parts)

    def _tune(self, base: Baseline) -> Tuned:
        spec, seeds = self.spec, tuning_seeds(self.spec)

        def score(rival: Competitor) -> float:
            runs = run_all(rival.name, rival.graph, self.task, seeds, self._how, test=False)
            return float(runs.score(spec.measure).mean())

        def told(done: int) -> None:
            self.progress(f"tuning {base.text}", done, spec.tune)

        return tune(base, spec.tune, spec.steps, spec.seed, score, len(seeds), spec.guards, told)


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
    rivals = [_rival(asked, family, spec, graphs or {}) for asked in spec.stacks]
    bases = [baseline(text, spec.plugins) for text in spec.baselines]
    _distinct([rival.name for rival in rivals] + [base.name for base in bases], spec.reference)
    return Contest(spec, family, rivals, bases, progress or (lambda what, done, total: None))


def _rival(asked: Contender, task: Task, spec: CompareSpec, graphs: Mapping[str, Graph]) -> Competitor | Trainee:
    if asked.run is not None:
        return trainee(asked, spec)
    if graph := graphs.get(asked.stack or ""):
        return stacked(asked.name or graph.describe(), graph, spec)
    return contender(asked, task, spec)


def _distinct(names: Sequence[str], reference: str | None) -> None:
    for name in names:
        if names.count(name) > 1:
            raise RecoptError(f"Two competitors are called '{name}': give one of them another 'name' in a spec.")
    if reference is not None and reference not in names:
        raise unknown("competitor", reference, names, "as the 'reference'")
