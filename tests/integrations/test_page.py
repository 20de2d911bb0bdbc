"""The blocks of docs/integrations.md, run as they stand."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import recopt
import recopt.integrations

from ..loops import X, model_of, steps

lightning = pytest.importorskip("lightning")
transformers = pytest.importorskip("transformers")
accelerate = pytest.importorskip("accelerate")
from .test_hugging_face import DATA, gpt  # noqa: E402

pytestmark = pytest.mark.filterwarnings("ignore")
PAGE = Path(__file__).parents[2] / "docs" / "integrations.md"


class Base(lightning.LightningModule):  # type: ignore[misc, name-defined]
    """What a reader has."""

    def __init__(self) -> None:
        super().__init__()
        self.net = model_of()

    def training_step(self, batch: Any, index: int) -> Any:
        return (self.net(batch) - batch[:, :3].sin()).square().mean()

    validation_step = training_step


def had(section: str) -> dict[str, Any]:
    """What a reader of a section has before it."""
    import mlflow

    loader = torch.utils.data.DataLoader(X.view(8, 8, 6), batch_size=None)
    own: dict[str, Any] = {"recopt": recopt, "lightning": lightning, "transformers": transformers, "mlflow": mlflow}
    own |= {"Base": Base, "loader": loader, "model": model_of(), "data": DATA}
    own |= {"batches": [(x, x[:, :3].sin()) for x in X.view(8, 8, 6)], "loss_function": nn.functional.mse_loss}
    own["train"] = lambda model, optimizer: steps(model, optimizer, 5, torch.float64)
    if section.startswith("Accelerate"):
        own["accelerator"] = accelerate.Accelerator(cpu=True)
    if section.startswith("Hugging"):
        own["model"] = gpt()
        own["args"] = transformers.TrainingArguments("out", max_steps=4, use_cpu=True, report_to=[], disable_tqdm=True)
    return own


SECTIONS = re.findall(r"^## (.*?)\n(.*?)(?=^## |\Z)", PAGE.read_text(), flags=re.MULTILINE | re.DOTALL)
BLOCKS = {title: re.findall(r"```python\n(.*?)```", text, flags=re.DOTALL) for title, text in SECTIONS}


@pytest.mark.parametrize("section", [title for title in BLOCKS if title != "FSDP2" and BLOCKS[title]])
def test_the_block_runs(section: str, here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    (block,) = BLOCKS[section]
    names = had(section)
    try:
        exec(compile(block, str(PAGE), "exec"), names)
    finally:
        names["mlflow"].set_tracking_uri(None)
    optimizer = names.get("optimizer") or names["trainer"].optimizers[0]
    hyperparameters = getattr(optimizer, "optimizer", optimizer).hyperparameters()
    assert hyperparameters
    assert section not in ("Lightning", "Hugging Face Trainer") or not optimizer.training


def test_every_trainer_has_a_block() -> None:
    assert [title for title in BLOCKS if BLOCKS[title]] == [
        "Lightning", "Hugging Face Trainer", "Accelerate, and loops of your own", "MLflow", "FSDP2"
    ]  # fmt: skip
