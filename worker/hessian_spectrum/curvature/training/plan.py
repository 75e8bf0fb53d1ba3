"""Settings of training: optimizer, learning rate and batches."""

from dataclasses import KW_ONLY, dataclass, field
from math import cos, pi

from hessian_spectrum.quadrature.exceptions import InvalidProblemError


@dataclass(frozen=True)
class Sgd:
    """Stochastic gradient descent as in `torch.optim.SGD`, without dampening.

    Raises:
        InvalidProblemError: If momentum is outside 0 .. 1, or nesterov is used without momentum.
    """

    momentum: float = 0.0
    nesterov: bool = False

    def __post_init__(self) -> None:
        if not 0 <= self.momentum < 1 or (self.nesterov and self.momentum == 0):
            raise InvalidProblemError(f"momentum must be in 0 .. 1, and positive for nesterov, not {self.momentum}")


@dataclass(frozen=True, kw_only=True)
class AdamW:
    """Adam with decoupled weight decay as in `torch.optim.AdamW`.

    Parameters of one axis, which are biases and the weights of layer norms, do not decay.

    Raises:
        InvalidProblemError: If a beta is outside 0 .. 1, epsilon is not positive, or weight_decay is negative.

    References:
        Loshchilov & Hutter, ICLR 2019; the defaults and the rule on axes are those of nanoGPT.
    """

    beta1: float = 0.9
    beta2: float = 0.95
    epsilon: float = 1e-8
    weight_decay: float = 0.1  # times the learning rate

    def __post_init__(self) -> None:
        if not (0 <= self.beta1 < 1 and 0 <= self.beta2 < 1 and self.epsilon > 0 and self.weight_decay >= 0):
            raise InvalidProblemError(f"invalid optimizer settings: {self}")


@dataclass(frozen=True, kw_only=True)
class Plateau:
    """Multiplies the learning rate by `factor` when the epoch's loss stops improving; stops at the smallest rate.

    An improvement is a loss below (1 - threshold) times the smallest so far. After `patience` epochs in a row without
    improvement, the next such epoch reduces the rate. The epoch's loss is the mean over its steps, each at the
    parameters of that step.

    Raises:
        InvalidProblemError: If factor or threshold is outside 0 .. 1, or patience or rate is negative.

    References:
        Cracking the Hessian, appendix D.1.3 (factor 1/10, smallest rate 1e-5); patience and threshold are PyTorch's
        defaults.
    """

    factor: float = 0.1
    patience: int = 10  # epochs
    threshold: float = 1e-4
    min_learning_rate: float = 1e-5

    def __post_init__(self) -> None:
        if not (0 < self.factor < 1 and self.patience >= 0 and 0 <= self.threshold < 1 and self.min_learning_rate >= 0):
            raise InvalidProblemError(f"invalid schedule settings: {self}")


@dataclass(frozen=True)
class WarmupCosine:
    """A rate that grows linearly from step 0, then falls along half a cosine, and then stays at the smallest.

    With w = warmup_steps and d = decay_steps the rate is (step + 1) / (w + 1) of the largest before w, and min +
    (largest - min) (1 + cos(pi (step - w) / (d - w))) / 2 from there to d.

    Raises:
        InvalidProblemError: If the counts are not 0 <= warmup_steps <= decay_steps, or the rate is negative.

    References:
        nanoGPT, `get_lr`.
    """

    warmup_steps: int
    decay_steps: int
    min_learning_rate: float = 0.0

    def __post_init__(self) -> None:
        if not (0 <= self.warmup_steps <= self.decay_steps and self.min_learning_rate >= 0):
            raise InvalidProblemError(f"invalid schedule settings: {self}")

    def rate(self, largest: float, step: int) -> float:
        """Return the learning rate of the step after `step` steps."""
        if step < self.warmup_steps:
            return largest * (step + 1) / (self.warmup_steps + 1)
        if step >= self.decay_steps:
            return self.min_learning_rate
        done = (step - self.warmup_steps) / (self.decay_steps - self.warmup_steps)
        return self.min_learning_rate + (largest - self.min_learning_rate) * (1 + cos(pi * done)) / 2


Optimizer = Sgd | AdamW
Schedule = Plateau | WarmupCosine


@dataclass(frozen=True)
class TrainingPlan:
    """Settings of a training run.

    Args:
        num_steps: Largest number of steps; a plateau may end training earlier.
        learning_rate: Rate of parameters whose multiplier is 1, in squared parameter per loss for `Sgd`; with a
            schedule the largest rate.
        batch_size: Samples per step, drawn without replacement epoch by epoch (the last batch of an epoch may be
            smaller), or as windows of a token stream; None means all samples, in which case an epoch is one step.
        optimizer: Optimizer with its settings.
        schedule: Schedule of the learning rate; None keeps it constant.
        max_gradient_norm: Norm to which a longer gradient, of all parameters together, is shortened; None disables it.
        micro_batch_size: Number of samples whose activations are in memory at once; does not change the result beyond
            rounding.

    Raises:
        InvalidProblemError: If a count or rate is negative.
    """

    num_steps: int
    learning_rate: float
    _: KW_ONLY
    batch_size: int | None = None
    optimizer: Optimizer = field(default_factory=Sgd)
    schedule: Schedule | None = None
    max_gradient_norm: float | None = None
    micro_batch_size: int | None = None

    def __post_init__(self) -> None:
        if self.num_steps < 0 or not 0 <= self.learning_rate < float("inf"):
            raise InvalidProblemError(
                f"num_steps and learning_rate must be at least 0, not {self.num_steps} and {self.learning_rate}"
            )
        for size in (self.batch_size, self.micro_batch_size):
            if size is not None and size < 1:
                raise InvalidProblemError(f"a batch needs at least one sample, not {size}")
        if self.max_gradient_norm is not None and not self.max_gradient_norm > 0:
            raise InvalidProblemError(f"max_gradient_norm must be positive, not {self.max_gradient_norm}")

    def planned_rate(self, step: int) -> float:
        """Return the learning rate of the step after `step` steps, if no plateau occurs."""
        if isinstance(self.schedule, WarmupCosine):
            return self.schedule.rate(self.learning_rate, step)
        return self.learning_rate
