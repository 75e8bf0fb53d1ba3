"""Loggers that write results into runs of TensorBoard, Weights & Biases and MLflow."""

from hessian_spectrum.client.loggers.mlflow import MlflowLogger
from hessian_spectrum.client.loggers.result_logger import ResultLogger
from hessian_spectrum.client.loggers.tensorboard import TensorBoardLogger
from hessian_spectrum.client.loggers.wandb import WandbLogger

__all__ = ["MlflowLogger", "ResultLogger", "TensorBoardLogger", "WandbLogger"]
