"""A spectrum by whichever method a request names, from where an earlier attempt left it."""

import torch

from api_schemas.spectrum import ExactMethod, LanczosMethod, SpectrumRequest, TopKMethod, TraceMethod
from curvature.algorithms.exact import summarise_triangle
from curvature.algorithms.stochastic_lanczos import Smoothing, advance_sweep, start_sweep, summarise_sweep
from curvature.algorithms.thick_restart import advance_search, start_search, summarise_search
from curvature.algorithms.trace import advance_trace, start_trace, summarise_trace
from curvature.operators.base import SymmetricOperator
from curvature.progress import Progress
from curvature.results import ExactSpectrum, LanczosSpectrum, StochasticTrace, TopEigenpairs
from jobs.estimate import JobEstimate
from worker.resumption import Unit
from worker.spectrum_results import Spectrum
from worker.translation import generator_of


def take_spectrum(
    request: SpectrumRequest, operator: SymmetricOperator, plan: JobEstimate, progress: Progress, unit: Unit
) -> Spectrum:
    """What the method gives; `unit` hears how far it is after every block of products.

    Raises:  CurvatureError, and whatever `progress` raises to stop.
    """
    match request.method:
        case ExactMethod() as method:
            return _exact(method, operator, progress, unit)
        case LanczosMethod() as method:
            return _lanczos(method, request.seed, operator, plan, progress, unit)
        case TopKMethod() as method:
            return top_eigenpairs(method, operator, plan, generator_of(request.seed), progress, unit)
        case TraceMethod() as method:
            return _trace(method, request.seed, operator, progress, unit)


def _exact(method: ExactMethod, operator: SymmetricOperator, progress: Progress, unit: Unit) -> ExactSpectrum:
    triangle = unit.state or operator.start_triangle()
    for _ in operator.fill_triangle(triangle):
        progress("products", triangle.num_columns, operator.dim)
        unit.offer(lambda: triangle)
    found = summarise_triangle(operator, triangle, method.eigenvectors)
    progress("eigenvalues", 1, 1)
    return found


def _lanczos(
    method: LanczosMethod, seed: int, operator: SymmetricOperator, plan: JobEstimate, progress: Progress, unit: Unit
) -> LanczosSpectrum:
    smoothing = Smoothing(method.num_points, method.kappa, method.margin)
    smoothing.check()  # before the products, not after them
    sweep = unit.state or start_sweep(
        operator,
        method.num_steps,
        method.num_probes,
        generator_of(seed),
        method.reorthogonalisation,
        plan.vector_bytes,
    )
    while not sweep.finished:
        advance_sweep(operator, sweep)
        progress("products", sweep.num_settled, sweep.num_steps * sweep.num_probes)
        unit.offer(lambda: sweep)
    return summarise_sweep(operator, sweep, smoothing)


def top_eigenpairs(
    method: TopKMethod,
    operator: SymmetricOperator,
    plan: JobEstimate,
    generator: torch.Generator,
    progress: Progress,
    unit: Unit,
) -> TopEigenpairs:
    """The eigenpairs of the method; `unit` hears how far it is after every block of products.

    Raises:  as `take_spectrum`.
    """
    limits = (method.max_products, plan.vector_bytes)
    search = unit.state or start_search(operator, method.k, method.which, method.tolerance, generator, *limits)
    while search.phase != "finished":
        advance_search(operator, search)
        progress("products", search.num_products, search.max_products)
        unit.offer(lambda: search)
    return summarise_search(operator, search)


def _trace(
    method: TraceMethod, seed: int, operator: SymmetricOperator, progress: Progress, unit: Unit
) -> StochasticTrace:
    ends = (method.fixed_products, method.tolerance, method.most_products)
    state = unit.state or start_trace(operator, method.estimator, generator_of(seed), *ends, method.diagonal)
    while not state.finished:
        advance_trace(operator, state)
        progress("products", state.num_products, max(state.total, state.num_products))
        if not state.finished:  # what was found is no state
            unit.offer(lambda: state)
    return summarise_trace(state)
