"""recopt.Optimizer and HuggingFaceCallback under Hugging Face's Trainer and Accelerate."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import recopt
from recopt import RecoptError

from ..loops import X, model_of

transformers = pytest.importorskip("transformers")
accelerate = pytest.importorskip("accelerate")
from safetensors.torch import load_file  # noqa: E402

from recopt.integrations import HuggingFaceCallback  # noqa: E402

# Both warn of what they deprecate among themselves.
pytestmark = pytest.mark.filterwarnings("ignore")
TEXTS = torch.randint(1, 3, (64, 12), generator=torch.Generator().manual_seed(1)).cumsum(1) % 16
DATA = [{"input_ids": text, "labels": text} for text in TEXTS]
AVERAGED = ("adam(lr=0.01)/kesten[lr]", True)


class Watch(transformers.TrainerCallback):  # type: ignore[misc, name-defined]
    """Keeps the hyperparameters of each step, and where the model was evaluated."""

    def __init__(self) -> None:
        self.values: list[dict[str, float]] = []
        self.seen: list[Tensor] = []
        self.breaks = False

    def on_step_end(self, args: Any, state: Any, control: Any, optimizer: Any = None, **rest: Any) -> None:
        self.values.append(optimizer.optimizer.hyperparameters())  # accelerate wraps the optimizer

    def on_prediction_step(self, args: Any, state: Any, control: Any, model: Any = None, **rest: Any) -> None:
        self.seen = flat(model)
        if self.breaks:
            raise ValueError("broken data")


def flat(model: nn.Module) -> list[Tensor]:
    return [p.detach().clone() for p in model.parameters()]


def same(one: list[Tensor], other: list[Tensor]) -> bool:
    return all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


def gpt(weights: Path | None = None) -> Any:
    torch.manual_seed(0)
    config = transformers.GPT2Config(
        vocab_size=16, n_positions=16, n_embd=16, n_layer=1, n_head=2, bos_token_id=0, eos_token_id=0,
        resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0,
    )  # fmt: skip
    model = transformers.GPT2LMHeadModel(config)
    if weights is not None:
        model.load_state_dict(load_file(weights / "model.safetensors"), strict=False)
    return model


def trainer_of(
    folder: Path, stack: str | None, average: bool = False, *, callback: bool = True, **given: Any
) -> tuple[Any, Any, Any]:
    """A trainer of a small language model, its optimizer, and what watches both."""
    model, watch = gpt(), Watch()
    optimizer = recopt.Optimizer(model.parameters(), stack, average=average)
    scheduler = transformers.get_cosine_schedule_with_warmup(optimizer, 2, 20)
    usual = {"max_steps": 20, "save_steps": 10, "logging_steps": 5, "gradient_accumulation_steps": 2, "report_to": []}
    options = transformers.TrainingArguments(
        str(folder), per_device_train_batch_size=4, use_cpu=True, disable_tqdm=True, **{**usual, **given}
    )
    trainer = transformers.Trainer(
        model, options, train_dataset=DATA, eval_dataset=DATA[:8], optimizers=(optimizer, scheduler), callbacks=[watch]
    )
    if callback:
        trainer.add_callback(HuggingFaceCallback(trainer))
    return trainer, optimizer, watch


@pytest.mark.parametrize("stack", [None, "adam(lr=0.01)/sgd", "learned"])
def test_a_scheduler_accumulation_and_resume(tmp_path: Path, stack: str | None) -> None:
    trainer, optimizer, watch = trainer_of(tmp_path / "whole", stack)
    trainer.train()
    again, _, rest = trainer_of(tmp_path / "rest", stack)
    again.train(resume_from_checkpoint=str(tmp_path / "whole" / "checkpoint-10"))
    assert len(watch.values) == 20
    assert watch.values[10:] == rest.values
    assert same(flat(trainer.model), flat(again.model))
    logged = [entry for entry in trainer.state.log_history if "loss" in entry]
    assert logged[-1]["loss"] < logged[0]["loss"]
    assert logged[-1].items() >= optimizer.hyperparameters().items()
    assert logged[-1]["guards/skipped"] == 0
    assert stack == "learned" or len({values["adam.lr" if stack else "paced.rate"] for values in watch.values}) > 10


@pytest.mark.parametrize(("stack", "average"), [AVERAGED, ("schedule-free(lr=0.02)", False)])
def test_it_evaluates_and_saves_at_the_mean_and_trains_as_without(tmp_path: Path, stack: str, average: bool) -> None:
    plain, _, _ = trainer_of(tmp_path / "plain", stack, average, callback=False, save_strategy="no")
    plain.train()
    # Evaluated where nothing is saved, and saved where nothing is evaluated.
    often = {"eval_strategy": "steps", "eval_steps": 4, "save_steps": 5}
    trainer, optimizer, watch = trainer_of(tmp_path / "whole", stack, average, **often)
    trainer.train()
    with optimizer.averaged():
        mean = flat(trainer.model)
    assert same(flat(trainer.model), mean)
    assert same(watch.seen, mean)
    assert same(flat(gpt(tmp_path / "whole" / "checkpoint-20")), mean)
    optimizer.train()
    last = flat(trainer.model)
    assert not same(last, mean)
    assert same(last, flat(plain.model))
    for step in (5, 15):
        again, its, _ = trainer_of(tmp_path / "rest", stack, average, **often)
        again.train(resume_from_checkpoint=str(tmp_path / "whole" / f"checkpoint-{step}"))
        assert same(flat(again.model), mean)
        its.train()
        assert same(flat(again.model), last)


def test_the_best_model_stays_when_it_is_loaded_at_the_end(tmp_path: Path) -> None:
    best = {"eval_strategy": "steps", "eval_steps": 5, "save_steps": 5, "load_best_model_at_end": True}
    trainer, optimizer, watch = trainer_of(tmp_path, *AVERAGED, metric_for_best_model="eval_loss", **best)
    trainer.state.best_metric = None
    trainer.add_callback(_BestFirst())
    trainer.train()
    assert trainer.state.best_model_checkpoint.endswith("checkpoint-5")
    wanted = flat(gpt(tmp_path / "checkpoint-5"))
    assert same(flat(trainer.model), wanted)
    trainer.evaluate()
    assert same(watch.seen, wanted)
    optimizer.train()
    assert not same(flat(trainer.model), wanted)


class _BestFirst(transformers.TrainerCallback):  # type: ignore[misc, name-defined]
    """Makes the first evaluation the best."""

    def on_evaluate(self, args: Any, state: Any, control: Any, metrics: Any = None, **rest: Any) -> None:
        metrics["eval_loss"] = state.global_step


def test_an_error_in_evaluation_leaves_the_way_back(tmp_path: Path) -> None:
    trainer, optimizer, watch = trainer_of(tmp_path, *AVERAGED, eval_strategy="steps", eval_steps=10, max_steps=10)
    watch.breaks = True
    with pytest.raises(ValueError, match="broken data"):
        trainer.train()
    with optimizer.averaged():
        assert same(flat(trainer.model), watch.seen)
    plain, _, _ = trainer_of(tmp_path / "plain", *AVERAGED, callback=False, save_strategy="no", max_steps=10)
    plain.train()
    assert not same(flat(trainer.model), flat(plain.model))
    optimizer.train()
    assert same(flat(trainer.model), flat(plain.model))


@pytest.mark.parametrize("way", ["model", "function", "smoothed"])
def test_a_rule_is_told_the_loss_that_was_differentiated(tmp_path: Path, way: str) -> None:
    """Losses of micro-batches are sums over tokens divided by those of the step, in the outputs and in functions."""
    told: list[float] = []

    def weighted(outputs: Any, labels: Tensor, num_items_in_batch: Any = None) -> Tensor:
        logits = outputs["logits"][:, :-1].flatten(0, 1)
        return 3 * nn.functional.cross_entropy(logits, labels[:, 1:].flatten(), reduction="sum") / num_items_in_batch

    given = {"label_smoothing_factor": 0.1} if way == "smoothed" else {}
    trainer, optimizer, _ = trainer_of(tmp_path, "learned", max_steps=6, logging_steps=1, save_strategy="no", **given)
    trainer.compute_loss_func = weighted if way == "function" else None
    take = optimizer._observed.take

    def heard() -> Any:
        told.append(take())
        return told[-1]

    optimizer._observed.take = heard  # type: ignore[method-assign]
    trainer.train()
    logged = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    assert [float(x) for x in told] == pytest.approx(logged, rel=1e-4)


def test_what_is_tuned_is_in_the_reports(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    given = {"max_steps": 5, "logging_steps": 1, "save_strategy": "no", "report_to": ["tensorboard"]}
    trainer, optimizer, _ = trainer_of(tmp_path, None, **given)
    trainer.train()
    (file,) = tmp_path.rglob("events.out.*")
    events = EventAccumulator(str(file)).Reload()
    assert {"train/paced.rate", "train/guards/skipped", "train/loss"} <= set(events.Tags()["scalars"])
    assert events.Scalars("train/paced.rate")[-1].value == pytest.approx(optimizer.hyperparameters()["paced.rate"])


def test_a_trainer_without_one_of_ours_is_refused(tmp_path: Path) -> None:
    trainer, _, _ = trainer_of(tmp_path, None)
    trainer.optimizer = torch.optim.SGD(trainer.model.parameters())
    with pytest.raises(RecoptError, match=r"HuggingFaceCallback found no recopt.Optimizer .* has SGD: give"):
        trainer.train()


@pytest.mark.parametrize("stack", ["learned", "adam/annealing", None])
def test_accelerate_with_accumulation_and_an_observed_loss(stack: str | None, tmp_path: Path) -> None:
    ends = []
    for ours in (False, True):
        model = model_of()
        optimizer = recopt.Optimizer(model.parameters(), stack)
        if ours:
            for pair in X.view(4, 2, 8, 6):
                optimizer.zero_grad()
                losses = [(model(x) - x[:, :3].sin()).square().mean() for x in pair]
                (losses[0] / 2 + losses[1] / 2).backward()
                optimizer.step(loss=(losses[0] + losses[1]) / 2)
        else:
            accelerator = accelerate.Accelerator(cpu=True, gradient_accumulation_steps=2)
            wrapped, prepared = accelerator.prepare(model, optimizer)
            for x in X.view(8, 8, 6):
                with accelerator.accumulate(wrapped):
                    loss = (wrapped(x) - x[:, :3].sin()).square().mean()
                    optimizer.observe(loss)
                    accelerator.backward(loss)
                    prepared.step()
                    prepared.zero_grad()
            accelerator.save_state(str(tmp_path / "state"))
            accelerator.load_state(str(tmp_path / "state"))
        ends.append(torch.cat([p.detach().flatten() for p in model.parameters()]))
    assert torch.allclose(*ends, rtol=1e-9)


def test_accelerate_saves_at_the_mean_and_goes_on_from_where_it_trained(tmp_path: Path) -> None:
    def made() -> tuple[Any, ...]:
        model = model_of()
        accelerator = accelerate.Accelerator(cpu=True)
        return accelerator, *accelerator.prepare(model, recopt.Optimizer(model.parameters(), "adam/sgd", average=True))

    def train(accelerator: Any, model: Any, optimizer: Any) -> None:
        optimizer.train()
        for x in X.view(8, 8, 6):
            optimizer.zero_grad()
            accelerator.backward((model(x) - x[:, :3].sin()).square().mean())
            optimizer.step()

    whole, again = made(), made()
    train(*whole)
    last = flat(whole[1])
    whole[2].eval()
    whole[0].save_state(str(tmp_path))
    again[0].load_state(str(tmp_path))
    assert same(flat(again[1]), flat(whole[1]))
    assert not same(flat(again[1]), last)
    train(*whole)
    train(*again)
    assert same(flat(again[1]), flat(whole[1]))
