"""A spectrum by whichever method a request names, from where an earlier attempt left it."""

from api_schemas.spectrum import ExactMethod, LanczosMethod, SpectrumRequest, TopKMethod, TraceMethod
from curvature.algorithms.exact import exact_spectrum
from curvature.algorithms.stochastic_lanczos import lanczos_spectrum
from curvature.algorithms.thick_restart import top_eigenpairs
from curvature.algorithms.trace import trace_estimate
from curvature.operators.base import SymmetricOperator
from curvature.progress import Progress
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
            limits = (m.max_products, plan.vector_bytes)
            return top_eigenpairs(operator, m.k, m.which, m.tolerance, generator, progress, *limits, unit)
        case TraceMethod() as m:
            ends = (m.fixed_products, m.tolerance, m.most_products)
            return trace_estimate(operator, m.estimator, generator, progress, *ends, m.diagonal, unit)
