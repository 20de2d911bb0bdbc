"""Lightning's and Hugging Face's trainers on a GPU, with recopt's callbacks."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

import recopt

from .places import needs_a_gpu

# Both warn of what they deprecate among themselves.
pytestmark = [needs_a_gpu, pytest.mark.filterwarnings("ignore")]
X = torch.linspace(-3, 3, 64 * 6).sin().reshape(64, 6)


@pytest.mark.parametrize(
    ("stack", "precision"),
    [*((s, p) for s in (None, "adam/sgd") for p in ("32-true", "bf16-mixed", "16-mixed")), ("learned", "32-true")],
)
def test_lightning_trains_as_on_the_cpu(stack: str | None, precision: str, tmp_path: Path) -> None:
    lightning = pytest.importorskip("lightning")
    from recopt.integrations import LightningCallback

    class Module(lightning.LightningModule):  # type: ignore[misc, name-defined]
        def __init__(self) -> None:
            super().__init__()
            torch.manual_seed(0)
            self.net, self.losses = nn.Sequential(nn.Linear(6, 16), nn.Tanh(), nn.Linear(16, 3)), list[Tensor]()

        def training_step(self, batch: Tensor, index: int) -> Tensor:
            loss = (self.net(batch) - batch[:, :3]).square().mean()
            self.losses.append(loss.detach())
            return loss

        def configure_optimizers(self) -> Any:
            return recopt.Optimizer(self.parameters(), stack, **({"steps": 32} if stack is None else {}))

    ends = []
    for accelerator, how in (("cpu", "32-true"), ("gpu", precision)):
        module, callback = Module(), LightningCallback()
        lightning.Trainer(
            accelerator=accelerator,
            devices=1,
            precision=how,
            max_epochs=4,
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            callbacks=[callback],
            default_root_dir=tmp_path,
        ).fit(module, DataLoader(X, batch_size=8))  # type: ignore[arg-type]
        ends.append([float(loss) for loss in module.losses])
    here, there = ends
    assert len(there) == len(here) == 32
    assert there[:8] == pytest.approx(here[:8], rel=1e-3 if precision == "32-true" else 0.1)
    assert sum(there[-8:]) < sum(there[:8])


@pytest.mark.parametrize("stack", [None, "adam(lr=0.01)/sgd", "learned"])
def test_hugging_face_trains_and_goes_on_to_the_bit(stack: str | None, tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    pytest.importorskip("accelerate")
    from recopt.integrations import HuggingFaceCallback

    texts = torch.randint(1, 3, (64, 12), generator=torch.Generator().manual_seed(1)).cumsum(1) % 16
    data = [{"input_ids": text, "labels": text} for text in texts]

    def trainer(folder: Path) -> Any:
        torch.manual_seed(0)
        config = transformers.GPT2Config(
            vocab_size=16, n_positions=16, n_embd=16, n_layer=1, n_head=2, bos_token_id=0, eos_token_id=0,
            resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0,
        )  # fmt: skip
        model = transformers.GPT2LMHeadModel(config).cuda()
        optimizer = recopt.Optimizer(model.parameters(), stack)
        scheduler = transformers.get_cosine_schedule_with_warmup(optimizer, 2, 20)
        options = transformers.TrainingArguments(
            str(folder), per_device_train_batch_size=4, disable_tqdm=True, max_steps=20, save_steps=10, bf16=True,
            report_to=[], logging_steps=5,
        )  # fmt: skip
        made = transformers.Trainer(model, options, train_dataset=data, optimizers=(optimizer, scheduler))
        made.add_callback(HuggingFaceCallback(made))
        return made

    whole, again = trainer(tmp_path / "whole"), trainer(tmp_path / "rest")
    whole.train()
    again.train(resume_from_checkpoint=str(tmp_path / "whole" / "checkpoint-10"))
    logged = [entry["loss"] for entry in whole.state.log_history if "loss" in entry]
    assert logged[-1] < logged[0]
    assert all(p.is_cuda for p in whole.model.parameters())
    for a, b in zip(whole.model.parameters(), again.model.parameters(), strict=True):
        assert torch.equal(a, b)
