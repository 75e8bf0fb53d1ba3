#!/usr/bin/env bash
# PyTorch Lightning 2.6.6: if training raises, setup of a callback, of the module and of the data module has run, and
# teardown never does, although it is described as called "when fit, validate, test, predict, or tune ends". The only
# hook that follows is on_exception of callbacks and data modules; the module itself has none. Files and threads that
# setup opened stay open, unless on_exception repeats what teardown does.
# Seen for a training_step that raises in its second batch, hooks in order:
#   without the error: setup (data module, callback, module), on_train_end, on_fit_end, teardown of all three;
#   with it: setup of all three, on_exception (callback, data module), and nothing else.
# Exits with 0 while this is the case, and with 1 when it changes. Needs Python 3.11 or newer and pip.
set -euo pipefail
directory=$(mktemp -d)
trap 'rm -rf "$directory"' EXIT
"${PYTHON:-python3}" -m venv "$directory/env"
"$directory/env/bin/pip" install -q --disable-pip-version-check torch==2.13.0 numpy==2.4.6 pytorch-lightning==2.6.6
cd "$directory"
"$directory/env/bin/python" - <<'PYTHON'
import logging
import sys
import warnings

import pytorch_lightning as lightning
import torch
from torch.utils.data import DataLoader, TensorDataset

warnings.simplefilter("ignore")
logging.getLogger("pytorch_lightning").setLevel(logging.ERROR)
hooks = []


class Callback(lightning.Callback):
    def setup(self, *_, **__):
        hooks.append("callback.setup")

    def on_train_end(self, *_):
        hooks.append("callback.on_train_end")

    def on_fit_end(self, *_):
        hooks.append("callback.on_fit_end")

    def on_exception(self, *_):
        hooks.append("callback.on_exception")

    def teardown(self, *_, **__):
        hooks.append("callback.teardown")


class Data(lightning.LightningDataModule):
    def setup(self, stage):
        hooks.append("data.setup")

    def train_dataloader(self):
        return DataLoader(TensorDataset(torch.randn(8, 2)), batch_size=2)

    def on_exception(self, exception):
        hooks.append("data.on_exception")

    def teardown(self, stage):
        hooks.append("data.teardown")


class Module(lightning.LightningModule):
    def __init__(self, raises):
        super().__init__()
        self.layer, self.raises = torch.nn.Linear(2, 1), raises

    def setup(self, stage):
        hooks.append("module.setup")

    def training_step(self, batch, index):
        if self.raises and index == 1:
            raise RuntimeError("of the training step")
        return self.layer(batch[0]).square().mean()

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)

    def teardown(self, stage):
        hooks.append("module.teardown")


def hooks_of(raises):
    hooks.clear()
    quiet = dict.fromkeys(("logger", "enable_checkpointing", "enable_progress_bar", "enable_model_summary"), False)
    trainer = lightning.Trainer(accelerator="cpu", max_epochs=1, callbacks=[Callback()], **quiet)
    try:
        trainer.fit(Module(raises), datamodule=Data())
    except RuntimeError as error:
        return [*hooks], str(error)
    return [*hooks], None


whole, none = hooks_of(False)
broken, message = hooks_of(True)
print(f"pytorch-lightning {lightning.__version__}, torch {torch.__version__}")
print(f"without an error: {whole}")
print(f"with one: {broken}, then {message!r} is raised")
owners = ("callback", "data", "module")
same = none is None and message == "of the training step"
same &= all(f"{owner}.setup" in each for owner in owners for each in (whole, broken))
same &= all(f"{owner}.teardown" in whole and f"{owner}.teardown" not in broken for owner in owners)
same &= [each for each in broken if "setup" not in each] == ["callback.on_exception", "data.on_exception"]
print("as described" if same else "no longer as described")
sys.exit(0 if same else 1)
PYTHON
