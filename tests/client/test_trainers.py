"""Callbacks for Lightning and for the Trainer of transformers, with the real libraries."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning
import torch
from safetensors.torch import load
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset
from transformers import (
    BertConfig,
    BertForSequenceClassification,
    GPT2Config,
    GPT2LMHeadModel,
    Trainer,
    TrainingArguments,
)

from hessian_spectrum.client import SpectrumClient, lightning, transformers
from hessian_spectrum.client.tracking import sending_thread
from tests.client.series_server import SeriesServer, series_server

pytestmark = pytest.mark.filterwarnings("ignore")

X = torch.randn(24, 3, generator=torch.Generator().manual_seed(0))
Y = torch.randint(2, (24,), generator=torch.Generator().manual_seed(1))
TOKENS = torch.randint(11, (24, 6), generator=torch.Generator().manual_seed(2))


@pytest.fixture
def series(monkeypatch: pytest.MonkeyPatch) -> Iterator[SeriesServer]:
    monkeypatch.setattr(sending_thread, "GATHERING_SECONDS", 0.05)
    with series_server() as series:
        yield series


class Classifier(pytorch_lightning.LightningModule):
    """Records its parameters before each step of the optimizer, and at the end."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.network = nn.Sequential(nn.Linear(3, 4), nn.Dropout(0.5), nn.Tanh(), nn.Linear(4, 2))
        self.history: dict[int, Tensor] = {}

    def forward(self, x: Tensor) -> Tensor:
        return self.network(x)  # type: ignore[no-any-return]

    def training_step(self, batch: Any, index: int) -> Tensor:
        x, y = batch
        return nn.functional.cross_entropy(self(x), y)

    def on_train_batch_start(self, batch: Any, index: int) -> None:
        self.history.setdefault(self.trainer.global_step, self.network[0].weight.detach().clone())

    def configure_optimizers(self) -> Any:
        optimizer = torch.optim.SGD(self.parameters(), lr=0.5)
        schedule = torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.5)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}


def lightning_trainer(callback: Any, directory: Path, **options: Any) -> pytorch_lightning.Trainer:
    quiet = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False, "accelerator": "cpu"}
    return pytorch_lightning.Trainer(callbacks=[callback], default_root_dir=directory, **quiet, **options)


def options(directory: Path, **others: Any) -> dict[str, Any]:
    return {"loss": "cross-entropy", "data": (X, Y), "name": "run", "directory": directory} | others


def sent(series: SeriesServer, name: str) -> dict[int, Tensor]:
    return {point["step"]: load(series.artifacts[point["parameters"]["id"]])[name] for point in series.points()}


@pytest.mark.parametrize(("part", "name"), [(None, "network.0.weight"), (lambda each: each.network, "0.weight")])
def test_lightning(series: SeriesServer, tmp_path: Path, part: Any, name: str) -> None:
    """Two batches make a step; the learning rate is halved with each step."""
    module = Classifier()
    with SpectrumClient(series.url) as client:
        callback = lightning.SpectrumCallback(client, module=part, every=2, **options(tmp_path / "spool"))
        trainer = lightning_trainer(callback, tmp_path, max_epochs=2, accumulate_grad_batches=2)
        trainer.fit(module, DataLoader(TensorDataset(X, Y), batch_size=3))
    assert trainer.global_step == 8
    assert series.steps() == [0, 2, 4, 6, 8]
    found = sent(series, name)
    assert all(torch.equal(found[step], module.history[step]) for step in (0, 2, 4, 6))
    assert torch.equal(found[8], module.network[0].weight)
    assert [point["learning_rate"] for point in series.points()] == [0.5 * 0.5**step for step in (0, 2, 4, 6, 8)]
    assert module.network.training


def test_lightning_keeps_what_was_recorded_before_an_error(series: SeriesServer, tmp_path: Path) -> None:
    class Failing(Classifier):
        def training_step(self, batch: Any, index: int) -> Tensor:
            if self.trainer.global_step == 3:
                raise ArithmeticError
            return super().training_step(batch, index)

    with SpectrumClient(series.url) as client:
        callback = lightning.SpectrumCallback(client, every=1, **options(tmp_path / "spool"))
        with pytest.raises(ArithmeticError):
            lightning_trainer(callback, tmp_path, max_epochs=1).fit(
                Failing(), DataLoader(TensorDataset(X, Y), batch_size=3)
            )
    assert series.steps() == [0, 1, 2, 3]


def test_without_lightning_the_error_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lightning, "find_spec", lambda _: None)
    with pytest.raises(ImportError, match="install lightning or pytorch-lightning"):
        lightning._callback_class()


class Rows(torch.utils.data.Dataset[dict[str, Any]]):
    def __init__(self, *, with_tokens_as_labels: bool) -> None:
        self._labels = TOKENS if with_tokens_as_labels else Y

    def __len__(self) -> int:
        return len(TOKENS)

    def __getitem__(self, index: int) -> dict[str, Any]:
        return {"input_ids": TOKENS[index], "labels": self._labels[index]}


def bert() -> nn.Module:
    sizes = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 8}
    return BertForSequenceClassification(BertConfig(vocab_size=11, max_position_embeddings=8, num_labels=2, **sizes))


def gpt2() -> nn.Module:
    return GPT2LMHeadModel(GPT2Config(vocab_size=11, n_positions=8, n_embd=8, n_layer=1, n_head=2))


@pytest.mark.parametrize("build", [bert, gpt2])
def test_transformers(series: SeriesServer, tmp_path: Path, build: Any) -> None:
    torch.manual_seed(0)
    model = build()
    name, parameter = next(iter(model.named_parameters()))
    before = parameter.detach().clone()
    arguments = TrainingArguments(
        output_dir=str(tmp_path), max_steps=4, per_device_train_batch_size=4, gradient_accumulation_steps=2,
        learning_rate=0.5, lr_scheduler_type="constant", report_to=[], use_cpu=True, save_strategy="no",
        disable_tqdm=True,
    )  # fmt: skip
    labels = TOKENS if build is gpt2 else Y
    with SpectrumClient(series.url) as client:
        callback = transformers.SpectrumCallback(client, every=2, **options(tmp_path / "spool", data=(TOKENS, labels)))
        rows = Rows(with_tokens_as_labels=build is gpt2)
        Trainer(model=model, args=arguments, train_dataset=rows, callbacks=[callback]).train()
    assert series.steps() == [0, 2, 4]
    found = sent(series, f"model.{name}")
    assert torch.equal(found[0], before)
    assert torch.equal(found[4], parameter)
    assert not torch.equal(found[2], found[4])
    assert {point["learning_rate"] for point in series.points()} == {0.5}


def test_other_processes_than_the_first_do_nothing(series: SeriesServer, tmp_path: Path) -> None:
    class Other:
        is_global_zero = is_world_process_zero = False
        global_step = 1
        optimizers: tuple[Any, ...] = ()

    with SpectrumClient(series.url) as client:
        one = lightning.SpectrumCallback(client, every=1, **options(tmp_path))
        one.on_train_start(Other(), Classifier())
        one.on_train_batch_end(Other(), Classifier(), None, None, 0)
        one.teardown(Other(), Classifier(), "fit")
        other = transformers.SpectrumCallback(client, every=1, **options(tmp_path))
        state: Any = Other()
        for each in (other.on_train_begin, other.on_step_end, other.on_train_end):
            each(state, state, state, model=bert())
        assert one.tracker is other.tracker is None
    assert series.requests == {}
