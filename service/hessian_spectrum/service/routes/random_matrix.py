"""`POST /v1/random-matrix`: limiting laws of random matrices, as JSON, npz or a figure."""

import io
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from fastapi import APIRouter, Depends, Request, Response
from numpy.typing import NDArray
from starlette.concurrency import run_in_threadpool

from hessian_spectrum.api_schemas.random_matrix import (
    MIN_MAX_ENERGY,
    FreeSumRequest,
    Hessian,
    IndexCurveAnswer,
    IndexCurveRequest,
    IndexOfRatio,
    LawAnswer,
    LawRequest,
    LawSample,
    RandomMatrixAnswer,
    RandomMatrixRequest,
    SampleOptions,
    SingleLaw,
    Wigner,
    Wishart,
)
from hessian_spectrum.results.plots.figure_style import DEFAULT_STYLE, FigureStyle
from hessian_spectrum.results.tables import csv_text, result_table
from hessian_spectrum.service.context import service_context
from hessian_spectrum.service.problems import invalid_field
from hessian_spectrum.service.request_parsing import (
    FIGURE_PARAMETERS,
    LARGE_BODY_BYTES,
    MEDIA_TYPES,
    StrictRoute,
    chosen_options,
    figure_style,
    json_body,
    parse_body,
    require_format,
    require_json,
)
from hessian_spectrum.service.routes.documentation import (
    ACCEPT,
    INVALID_BODY,
    RANDOM_MATRIX_EXAMPLES,
    body_documentation,
    formats_documentation,
    problem_documentation,
)
from hessian_spectrum.theory.exceptions import TheoryError
from hessian_spectrum.theory.random_matrix.ensembles import wigner_law, wishart_law
from hessian_spectrum.theory.random_matrix.hessian import (
    alpha_0,
    critical_energy,
    empirical_critical_energies,
    hessian_law,
    index_at_small_energy,
    index_curve,
)
from hessian_spectrum.theory.random_matrix.law import FreeLaw
from hessian_spectrum.theory.random_matrix.sampling import Sample, draw_sample, histogram

DEFAULT_POINTS = 512
DEFAULT_ENERGIES = 257

_SOURCES = {
    "wigner": "Theories of Deep Learning C6.5, video 8: semicircle law",
    "wishart": "Marchenko & Pastur, Math. USSR-Sb. 1 (1967) 457-483",
    "hessian": "Pennington & Bahri, ICML 2017",
    "free-sum": "Voiculescu's R-transform; Biane, Indiana Univ. Math. J. 46 (1997) 705-718, for the density",
    "index-curve": "Pennington & Bahri, ICML 2017",
}

_SAMPLE_ARRAYS = ("edges", "counts", "density", "expected", "negative_fraction", "zero_fraction")
_ENERGY_FIELDS = ("critical_energy", "alpha_0", "index_at_small_energy", "empirical_critical_energies")

MAX_SIZE_RATIO = 1e8
"""Largest ratio of the root mean squares of two summands; beyond it float64 loses the smaller one near its edges."""

_RATE_TOLERANCE = 0.01

_PLOT_POINTS = 2000

_FEW_POINTS, _FEW_INDICES, _FEW_TRANSFORM_POINTS = 5000, 1000, 100
"""Points, indices and transform points that take less than a tenth of a second."""

router = APIRouter(tags=["random matrices"], route_class=StrictRoute)


@router.post(
    "/random-matrix",
    response_model=RandomMatrixAnswer,
    dependencies=[Depends(require_json)],
    responses={
        **INVALID_BODY,
        **problem_documentation(status_406="The response has none of the accepted formats."),
        200: {"content": formats_documentation()},
    },
    openapi_extra=body_documentation(RandomMatrixRequest, RANDOM_MATRIX_EXAMPLES)
    | {"parameters": [ACCEPT, *FIGURE_PARAMETERS]},
    summary="A limiting eigenvalue law, or the index of the Hessian law against the energy",
)
async def compute_random_matrix(request: Request) -> Response:
    """Density, edges, masses, index, moments and transforms of a law, and on request a sample's eigenvalues beside it.

    `wigner`, `wishart`, `hessian` (the model of a two-layer network, activation `linear` or `relu`), `free-sum` of two
    of them; `index-curve`: the share of negative eigenvalues of `hessian` against the energy, for a list of ratios.
    The answer is JSON, npz or a picture, by Accept.
    """
    name = require_format(request.headers.get("accept"))
    style = figure_style(request, name)
    content = await _render(request, await json_body(request), name=name, style=style)
    return Response(content, media_type=MEDIA_TYPES[name], headers={"Vary": "Accept"})


async def _render(request: Request, body: bytes, *, name: str, style: FigureStyle) -> bytes | memoryview:
    if len(body) <= LARGE_BODY_BYTES:
        message = parse_body(body, RandomMatrixRequest)
        if name == "json" and is_small(message):
            return await run_in_threadpool(render, message, name)
    executor = service_context(request).executor
    arguments = {"name": name, "style": chosen_options(style)}
    return (await executor.run(request, "random-matrix", arguments=arguments, content=body)).content


def is_small(request: RandomMatrixRequest) -> bool:
    """Return whether the request is computed fast enough for a thread of the service."""
    law = request.root
    if isinstance(law, IndexCurveRequest):
        num_energies = len(law.energies or ()) or law.num_points or DEFAULT_ENERGIES
        return num_energies * len(law.ratios) <= _FEW_INDICES
    num_points = len(law.points or ()) or law.num_points or DEFAULT_POINTS
    few = num_points <= _FEW_POINTS and len(law.transform_points or ()) <= _FEW_TRANSFORM_POINTS
    return few and law.sample is None


def compute(request: RandomMatrixRequest) -> LawAnswer | IndexCurveAnswer:
    """Compute a law or index curves.

    Returns:
        The law, or the curves.

    Raises:
        ProblemError: 422 at the field of a number that the formulas refuse.
    """
    law = request.root
    try:
        return _index_curves(law) if isinstance(law, IndexCurveRequest) else _law_answer(law)
    except TheoryError as error:
        raise invalid_field([error.field] if error.field else [], str(error)) from None


def _law(request: LawRequest) -> FreeLaw:
    if isinstance(request, FreeSumRequest):
        first, second = request.laws
        laws = _single_law(first), _single_law(second)
        sizes = [math.sqrt(law.moments[1]) for law in laws]
        if max(sizes) > MAX_SIZE_RATIO * min(sizes):
            limit = f"{MAX_SIZE_RATIO:g}"
            raise TheoryError(f"their root mean squares differ by more than {limit}: the smaller is lost", field="laws")
        return laws[0] + laws[1]
    return _single_law(request)


def _single_law(request: SingleLaw) -> FreeLaw:
    match request:
        case Wigner(variance=variance):
            return wigner_law(variance)
        case Wishart(variance=variance, ratio=ratio):
            return wishart_law(variance, ratio)
        case Hessian(activation=activation, energy=energy, ratio=ratio):
            return hessian_law(activation, energy, ratio)


def _law_answer(request: LawRequest) -> LawAnswer:
    law = _law(request)
    points = law.grid(request.num_points or DEFAULT_POINTS) if request.points is None else np.asarray(request.points)
    values, masses = law.density_and_mass(points)
    density = _finite_or_none(values)
    arguments = np.asarray(request.transform_points or np.empty((0, 2)), dtype=np.float64)
    transform_points = arguments[:, 0] + 1j * arguments[:, 1]
    r_transform, stieltjes = _pairs(law.r_transform(transform_points)), _pairs(law.stieltjes(transform_points))
    support = law.support
    sample, sample_notes = _sample(law, request.sample) if request.sample else (None, [])
    notes = _law_notes(law, density=density, r_transform=r_transform, stieltjes=stieltjes)
    return LawAnswer(
        law=request.law,
        parameters=request.model_dump(
            exclude={"points", "num_points", "transform_points", "sample"}, exclude_none=True
        ),
        source=_SOURCES[request.law],
        grid=points.tolist(),
        density=density,
        cumulative=masses.tolist(),
        support=[[interval.low, interval.high] for interval in support],
        interval_masses=[interval.mass for interval in support],
        atom_at_zero=law.atom_at_zero,
        index=law.index,
        **_energy_fields(request),
        moments=list(law.moments),
        transform_points=arguments.tolist(),
        r_transform=r_transform,
        stieltjes=stieltjes,
        sample=sample,
        notes=[*notes, *_energy_notes(request), *sample_notes],
    )


def _energy_fields(request: LawRequest) -> dict[str, Any]:
    """Return the fields that only the Hessian law has."""
    if not isinstance(request, Hessian):
        return dict.fromkeys(_ENERGY_FIELDS)
    named = request.activation, request.ratio
    values = critical_energy(*named), alpha_0(*named), index_at_small_energy(*named)
    return dict(zip(_ENERGY_FIELDS, (*values, empirical_critical_energies(request.ratio)), strict=True))


def _finite_or_none(values: NDArray[np.float64]) -> list[float | None]:
    if np.isfinite(values).all():
        return list(values.tolist())
    return [value if np.isfinite(value) else None for value in values.tolist()]


def _pairs(values: NDArray[np.complex128]) -> list[list[float] | None]:
    return [[value.real, value.imag] if np.isfinite(value) else None for value in values.tolist()]


def _law_notes(
    law: FreeLaw, *, density: Sequence[object], r_transform: Sequence[object], stieltjes: Sequence[object]
) -> list[str]:
    notes = []
    if law.atom_at_zero:
        notes.append("density leaves out the atom at 0; cumulative counts it from 0 on")
    if law.diverges_at_zero:
        notes.append("the density grows beyond all bounds at 0")
    if None in density:
        notes.append("density is null at 0, where it is infinite")
    if None in r_transform:
        notes.append("r_transform is null at its poles, the inverse jumps of the Wishart parts")
    if None in stieltjes:
        notes.append("stieltjes is null at 0, or too near to it, where there is an atom or an infinite density")
    return notes


def _energy_notes(request: LawRequest) -> list[str]:
    if not isinstance(request, Hessian):
        return [f"{', '.join(_ENERGY_FIELDS)} are null: they belong to the law hessian"]
    if request.ratio < 1:
        return []
    notes = [_supercritical_note(request.ratio)]
    if request.activation == "relu" and request.ratio >= 2:
        notes.append("for relu and a ratio of at least 2 the index is 1 / (2 ratio) at every positive energy")
    return notes


def _supercritical_note(ratio: float) -> str:
    return (
        f"critical_energy and what follows from it are null for the ratio {ratio:g}, as for all of at least 1: "
        "every positive energy has negative eigenvalues, a share of index_at_small_energy as it falls to 0"
    )


def _sample(law: FreeLaw, options: SampleOptions) -> tuple[LawSample, list[str]]:
    drawn = draw_sample(law, options.size, options.seed)
    bins = histogram(law, drawn, options.num_bins)
    message = LawSample(
        size=options.size,
        seed=options.seed,
        edges=bins.edges.tolist(),
        counts=bins.counts.tolist(),
        density=bins.density.tolist(),
        expected=bins.expected.tolist(),
        largest_deviation=float(np.abs(bins.density - bins.expected).max()),
        negative_fraction=drawn.negative_fraction,
        zero_fraction=drawn.zero_fraction,
        realised_rates=list(drawn.realised_rates),
    )
    return message, _sample_notes(law, drawn)


def _sample_notes(law: FreeLaw, drawn: Sample) -> list[str]:
    notes = []
    rates = zip(law.rates, drawn.realised_rates, strict=True)
    if any(abs(realised - rate) > _RATE_TOLERANCE * rate for rate, realised in rates):
        notes.append("sample: whole numbers of columns do not come within 1% of the rates; see realised_rates")
    unresolved = law.index - law.cumulative([-drawn.resolution])[0]
    if unresolved > _RATE_TOLERANCE:
        notes.append("sample: rounding hides the sign of eigenvalues; negative_fraction leaves them out")
    return notes


def _index_curves(request: IndexCurveRequest) -> IndexCurveAnswer:
    energies = _energies(request)
    curves = []
    for ratio in request.ratios:
        index = index_curve(request.activation, energies, ratio)
        curves.append(
            IndexOfRatio(
                ratio=ratio,
                energies=energies.tolist(),
                index=index.tolist(),
                critical_energy=critical_energy(request.activation, ratio),
                alpha_0=alpha_0(request.activation, ratio),
                index_at_small_energy=index_at_small_energy(request.activation, ratio),
            )
        )
    return IndexCurveAnswer(
        law="index-curve",
        parameters=request.model_dump(exclude={"energies"}, exclude_none=True),
        source=_SOURCES["index-curve"],
        curves=curves,
        notes=[_supercritical_note(ratio) for ratio in dict.fromkeys(request.ratios) if ratio >= 1],
    )


def _energies(request: IndexCurveRequest) -> NDArray[np.float64]:
    if request.energies is not None:
        return np.asarray(request.energies)
    critical = [critical_energy(request.activation, ratio) for ratio in request.ratios]
    # Next to the ratio 1 the critical energy falls below what a grid that begins at 0 may step by.
    largest = max((energy for energy in critical if energy), default=0.25)
    highest = request.max_energy or max(4 * largest, MIN_MAX_ENERGY)
    return np.linspace(0.0, highest, request.num_points or DEFAULT_ENERGIES)


def render(request: RandomMatrixRequest, name: str, style: FigureStyle = DEFAULT_STYLE) -> bytes:
    """Compute a request and render the answer in a format.

    Args:
        request: The law, or the index curves.
        name: `json`, `npz`, `csv` or a format of figures.
        style: Options of a figure that the caller chose.

    Returns:
        The body of the response.

    Raises:
        ProblemError: 422 at the field of a number that the formulas refuse.
    """
    if name in ("json", "npz"):
        answer = compute(request)
        return answer.model_dump_json().encode() if name == "json" else _npz(answer)
    if name == "csv":
        return csv_text(result_table(compute(request))).encode()
    from hessian_spectrum.results.plots.random_matrix import (  # noqa: PLC0415 - loads matplotlib
        plot_index_curves,
        plot_law,
    )

    answer = compute(_request_of_plot(request))
    if isinstance(answer, IndexCurveAnswer):
        return plot_index_curves(answer).file(name, style)
    return plot_law(answer).file(name, style)


def _request_of_plot(request: RandomMatrixRequest) -> RandomMatrixRequest:
    law = request.root
    if isinstance(law, IndexCurveRequest):
        return request
    whole = {"points": None, "num_points": _PLOT_POINTS, "transform_points": None}
    return RandomMatrixRequest.model_construct(law.model_copy(update=whole))


def _npz(answer: LawAnswer | IndexCurveAnswer) -> bytes:
    """Write the answer as arrays without pickle; `document` holds the rest of the answer as JSON.

    Where JSON has null, the array holds 0 and its companion `..._defined` holds false.

    Returns:
        The bytes of the npz file.
    """
    if isinstance(answer, IndexCurveAnswer):
        arrays = _index_curve_arrays(answer)
        rest = answer.model_dump_json(exclude={"curves"})
    else:
        arrays = _law_arrays(answer)
        rest = answer.model_dump_json(exclude={*arrays, "sample"})
        if answer.sample is not None:
            arrays |= {f"sample_{name}": np.asarray(getattr(answer.sample, name)) for name in _SAMPLE_ARRAYS}
    buffer = io.BytesIO()
    np.savez_compressed(buffer, allow_pickle=False, document=np.asarray(rest), **arrays)
    return buffer.getvalue()


def _law_arrays(answer: LawAnswer) -> dict[str, NDArray[Any]]:
    return {
        **{name: np.asarray(getattr(answer, name)) for name in ("grid", "cumulative", "support", "interval_masses")},
        **{name: np.asarray(getattr(answer, name)) for name in ("atom_at_zero", "index", "moments")},
        **_masked("density", answer.density),
        "transform_points": _complexes(answer.transform_points),
        **_masked("r_transform", answer.r_transform),
        **_masked("stieltjes", answer.stieltjes),
    }


def _index_curve_arrays(answer: IndexCurveAnswer) -> dict[str, NDArray[Any]]:
    curves = answer.curves
    return {
        "ratios": np.asarray([curve.ratio for curve in curves]),
        "energies": np.asarray(curves[0].energies),
        "index": np.asarray([curve.index for curve in curves]),
        "index_at_small_energy": np.asarray([curve.index_at_small_energy for curve in curves]),
        **_masked("critical_energy", [curve.critical_energy for curve in curves]),
        **_masked("alpha_0", [curve.alpha_0 for curve in curves]),
    }


def _masked(name: str, values: Sequence[float | list[float] | None]) -> dict[str, NDArray[Any]]:
    defined = np.asarray([value is not None for value in values], dtype=bool)
    pairs = any(isinstance(value, list) for value in values)
    filled = [([0.0, 0.0] if pairs else 0.0) if value is None else value for value in values]
    return {name: _complexes(filled) if pairs else np.asarray(filled), f"{name}_defined": defined}


def _complexes(pairs: Sequence[Any]) -> NDArray[np.complex128]:
    array = np.asarray(pairs, dtype=np.float64).reshape(-1, 2)
    return np.asarray(array[:, 0] + 1j * array[:, 1])
