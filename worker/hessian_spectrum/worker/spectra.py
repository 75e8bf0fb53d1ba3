"""A spectrum by whichever method a request names, from where an earlier attempt left it, or from shards."""

from collections.abc import Sequence

from hessian_spectrum.api_schemas.spectrum import ExactMethod, LanczosMethod, SpectrumRequest, TopKMethod, TraceMethod
from hessian_spectrum.curvature.algorithms.exact import exact_spectrum
from hessian_spectrum.curvature.algorithms.stochastic_lanczos import (
    LanczosSweep,
    advance_sweep,
    join_sweeps,
    lanczos_spectrum,
    lanczos_sweep,
    start_sweep,
    summarise_sweep,
)
from hessian_spectrum.curvature.algorithms.thick_restart import top_eigenpairs
from hessian_spectrum.curvature.algorithms.trace import trace_estimate
from hessian_spectrum.curvature.operators.base import SymmetricOperator
from hessian_spectrum.curvature.progress import Continuation, Progress
from hessian_spectrum.jobs.estimate import JobEstimate
from hessian_spectrum.jobs.partition import probes_of_shard
from hessian_spectrum.quadrature.curves import Smoothing
from hessian_spectrum.quadrature.results import LanczosSpectrum
from hessian_spectrum.worker.generators import generator_of
from hessian_spectrum.worker.resumption import Unit
from hessian_spectrum.worker.spectrum_results import Spectrum


def take_spectrum(
    request: SpectrumRequest, operator: SymmetricOperator, plan: JobEstimate, progress: Progress, unit: Unit
) -> Spectrum:
    """What the method gives; `unit` hears how far it is after every block of products.

    Raises:
        CurvatureError: And whatever `progress` raises to stop.
    """
    generator = generator_of(request.seed)
    match request.method:
        case ExactMethod(eigenvectors=eigenvectors):
            return exact_spectrum(operator, eigenvectors, progress, unit)
        case LanczosMethod() as m:
            return lanczos_spectrum(
                operator,
                m.num_steps,
                m.num_probes,
                m.num_points,
                m.kappa,
                generator,
                progress,
                m.margin,
                m.reorthogonalisation,
                plan.vector_bytes,
                continuation=unit,
            )
        case TopKMethod() as m:
            return top_eigenpairs(
                operator,
                m.k,
                m.which,
                m.tolerance,
                generator,
                progress,
                m.max_products,
                plan.vector_bytes,
                unit,
                m.absolute_tolerance or 0.0,
            )
        case TraceMethod() as m:
            ends = (m.fixed_products, m.tolerance, m.most_products)
            return trace_estimate(operator, m.estimator, generator, progress, *ends, m.diagonal, unit)


class ProbeShards:
    """The probes of one Lanczos spectrum, cut into shards; a `Work` of `worker.sharing`.

    Attributes:
        num_shards, num_products: of all shards together.
        setup: how the plan, which depends on memory, has the numbers computed.

    Raises:
        InvalidProblemError: If no curve can be made, before the first product.
    """

    def __init__(self, method: LanczosMethod, seed: int, operator: SymmetricOperator, plan: JobEstimate) -> None:
        self._method, self._seed, self._operator, self._memory_bytes = method, seed, operator, plan.vector_bytes
        self._smoothing = Smoothing(method.num_points, method.kappa, method.margin)
        self._smoothing.check()
        self.num_shards = plan.num_shards
        self.setup = (plan.num_shards, plan.work.num_columns, plan.micro_batch_size, plan.recording_bytes or 0)
        self.num_products = min(method.num_steps, operator.dim) * method.num_probes

    def begin(self) -> LanczosSweep:
        """State of the first shard after its first product."""
        method, count = self._method, len(self._probes(0))
        limits = (method.reorthogonalisation, self._memory_bytes)
        sweep = start_sweep(self._operator, method.num_steps, count, generator_of(self._seed), *limits)
        advance_sweep(self._operator, sweep)
        return sweep

    def take(self, index: int, progress: Progress, continuation: Continuation) -> LanczosSweep:
        """What the probes of a shard give."""
        method, generator = self._method, generator_of(self._seed)
        limits = (method.reorthogonalisation, self._memory_bytes)
        probes = self._probes(index)
        return lanczos_sweep(self._operator, method.num_steps, probes, generator, progress, *limits, continuation)

    def join(self, sweeps: Sequence[LanczosSweep]) -> LanczosSpectrum:
        """The spectrum that all of them give."""
        return summarise_sweep(self._operator, join_sweeps(sweeps), self._smoothing)

    def _probes(self, index: int) -> range:
        return probes_of_shard(self._method.num_probes, self.num_shards, index)
