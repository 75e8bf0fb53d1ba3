"""`python -m benchmarks.peers`: the same matrices by several libraries, and how far each is from plain autograd."""

import argparse
import copy
import json
import platform
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from safetensors.torch import load
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.data import DataLoader

from benchmarks.peer_problems import F64, NUM_CLASSES, Batch, Matrix, PeerProblem, problems
from hessian_spectrum.client.module_export import module_program
from hessian_spectrum.curvature.classification_losses import CrossEntropy, WeightedCrossEntropy
from hessian_spectrum.curvature.data.base import Dataset
from hessian_spectrum.curvature.linear_algebra import assemble
from hessian_spectrum.curvature.losses import EmpiricalRisk
from hessian_spectrum.curvature.models.exported import Exported
from hessian_spectrum.curvature.operators.matrices import GgnOperator, HessianOperator
from hessian_spectrum.programs.program import Program
from hessian_spectrum.service.uploads.npz import archive_members
from hessian_spectrum.service.uploads.pt2 import read_program
from hessian_spectrum.storage.program_files import GRAPH, program_pieces

RESULTS = Path(__file__).parent / "results"
MATRICES: tuple[Matrix, ...] = ("hessian", "ggn")
RIGHT = 1e-9
"""Largest relative error of a matrix that is called right."""

_MAX_MEMBERS = 10_000


class NotOfferedError(Exception):
    """A library has no such matrix or no such loss; the message says which."""


Library = Callable[[PeerProblem, Matrix, str], Tensor]
"""The matrix (P, P), or its diagonal (P,), of the loss with a reduction, mean or sum."""


def _ours(problem: PeerProblem, matrix: Matrix, reduction: str) -> Tensor:
    """Through the file that the client sends and the server reads."""
    if reduction != "mean":
        raise NotOfferedError("the loss is always the mean over the targets that count")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of torch.export
        content = module_program(problem.module, problem.batches[0][0])
    budget: Any = SimpleNamespace(grow=lambda _: None)
    read = read_program(archive_members(memoryview(content), budget, max_members=_MAX_MEMBERS))
    arrays = load(b"".join(program_pieces(read.program, read.arrays)))
    model = Exported(Program.from_json(arrays.pop(GRAPH).numpy().tobytes().decode()), arrays)
    weights = problem.class_weights
    loss = CrossEntropy() if weights is None else WeightedCrossEntropy(class_weights=weights.tolist())
    risk = EmpiricalRisk(model, loss, [Dataset(x, y) for x, y in problem.batches])
    parameters = model.initial_parameters(torch.Generator(), F64, torch.device("cpu"))
    kind = HessianOperator if matrix == "hessian" else GgnOperator
    return _in_order_of_the_module(assemble(kind(risk, parameters)), problem, model)


def _in_order_of_the_module(found: Tensor, problem: PeerProblem, model: Exported) -> Tensor:
    starts, start = {}, 0
    for name, shape in model.parameter_shapes.items():
        size = torch.Size(shape).numel()
        starts[name] = torch.arange(start, start + size)
        start += size
    order = torch.cat([starts[name] for name, _ in problem.module.named_parameters()])
    return found[order][:, order]


def _curvlinops(problem: PeerProblem, matrix: Matrix, reduction: str) -> Tensor:
    from curvlinops import GGNLinearOperator, HessianLinearOperator  # noqa: PLC0415

    kind = HessianLinearOperator if matrix == "hessian" else GGNLinearOperator
    operator = kind(problem.module, problem.criterion(reduction), problem.parameters, problem.batches)
    found: Tensor = operator @ torch.eye(operator.shape[0], dtype=F64)
    return found.detach()


def _eigenthings(problem: PeerProblem, matrix: Matrix, reduction: str) -> Tensor:
    import hessian_eigenthings as library  # noqa: PLC0415
    from hessian_eigenthings.loss_fns import standard  # noqa: PLC0415

    criterion = problem.criterion(reduction)
    if matrix == "hessian":
        operator = library.HessianOperator(problem.module, problem.batches, standard.supervised_loss(criterion))
    else:
        loss = standard.supervised_loss_of_output(criterion)
        operator = library.GGNOperator(problem.module, problem.batches, standard.supervised_forward, loss)
    found = torch.stack([operator.matvec(vector) for vector in torch.eye(operator.size, dtype=F64)], dim=1)
    # the sum of losses over all data is the mean over batches times their number
    return found.detach() * (len(problem.batches) if reduction == "sum" else 1)


def _backpack(problem: PeerProblem, matrix: Matrix, reduction: str) -> Tensor:
    """GGN = V V^T with V by SqrtGGNExact, or its diagonal by DiagGGNExact; the diagonal of the Hessian by DiagHessian.

    The library has no loop over batches: they are added here, weighted by their targets that count.
    """
    total: Any = 0
    for batch in problem.batches:
        share = problem.weight_of(batch[1]) / problem.weight if reduction == "mean" else 1
        total = total + share * _backpack_of_batch(problem, matrix, batch, reduction)
    return total  # type: ignore[no-any-return]


def _backpack_of_batch(problem: PeerProblem, matrix: Matrix, batch: Batch, reduction: str) -> Tensor:
    from backpack.extensions import DiagGGNExact, DiagHessian, SqrtGGNExact  # noqa: PLC0415

    if matrix == "hessian":
        return torch.cat([each.reshape(-1) for each in _extended(problem, batch, reduction, DiagHessian())])
    try:
        roots = [each.flatten(0, 1).flatten(1) for each in _extended(problem, batch, reduction, SqrtGGNExact())]
    except NotImplementedError:
        return torch.cat([each.reshape(-1) for each in _extended(problem, batch, reduction, DiagGGNExact())])
    return torch.cat(roots, 1).T @ torch.cat(roots, 1)


def _extended(problem: PeerProblem, batch: Batch, reduction: str, extension: Any) -> list[Tensor]:
    """What an extension stores in each parameter."""
    from backpack import backpack, extend  # noqa: PLC0415

    module = copy.deepcopy(problem.module)
    module = extend(module, use_converter=not isinstance(module, nn.Sequential))
    criterion = extend(problem.criterion(reduction))
    with backpack(extension):
        criterion(module(batch[0]), batch[1]).backward()
    named = dict(module.named_parameters())
    return [getattr(named[name], extension.savefield).detach() for name, _ in problem.module.named_parameters()]


def _laplace(problem: PeerProblem, matrix: Matrix, reduction: str) -> Tensor:
    """The full posterior's matrix, a sum over the data, without the prior."""
    from laplace import Laplace  # noqa: PLC0415
    from laplace.curvature import CurvlinopsGGN  # noqa: PLC0415
    from laplace.curvature.curvlinops import CurvlinopsHessian  # noqa: PLC0415

    if problem.class_weights is not None:
        raise NotOfferedError("class weights")
    backend = CurvlinopsHessian if matrix == "hessian" else CurvlinopsGGN
    fitted = Laplace(problem.module, "classification", subset_of_weights="all", hessian_structure="full",
                     backend=backend)  # fmt: skip
    samples: Any = problem.samples
    fitted.fit(DataLoader(samples, batch_sampler=problem.batch_indices))
    found: Tensor = fitted.H.detach()
    return found / (problem.weight if reduction == "mean" else 1)


LIBRARIES: dict[str, Library] = {
    "this server": _ours,
    "curvlinops": _curvlinops,
    "hessian-eigenthings": _eigenthings,
    "BackPACK": _backpack,
    "laplace-torch": _laplace,
}
PACKAGES = {
    "curvlinops": "curvlinops-for-pytorch",
    "hessian-eigenthings": "hessian-eigenthings",
    "BackPACK": "backpack-for-pytorch",
    "laplace-torch": "laplace-torch",
}


@contextmanager
def _differentiable_attention() -> Iterator[None]:
    """Attention as the libraries' users must set it: the fast kernels have no second derivative."""
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        with sdpa_kernel(SDPBackend.MATH):
            yield
    finally:
        torch.backends.mha.set_fastpath_enabled(True)


@contextmanager
def _double_precision() -> Iterator[None]:
    """Arrays that libraries make themselves have double precision, too."""
    torch.set_default_dtype(F64)
    try:
        yield
    finally:
        torch.set_default_dtype(torch.float32)


def _outcome(library: Library, problem: PeerProblem, matrix: Matrix, reduction: str) -> dict[str, Any]:
    """The relative error of the matrix, in the norm of Frobenius, or why there is none."""
    references = problem.references(matrix)
    try:
        with warnings.catch_warnings(), _differentiable_attention(), _double_precision():
            warnings.simplefilter("ignore")
            found = library(problem, matrix, reduction) / (problem.weight if reduction == "sum" else 1)
    except NotOfferedError as error:
        return {"not_offered": str(error)}
    except ImportError:
        raise  # it is not installed as it must be, which says nothing about it
    except Exception as error:  # noqa: BLE001 - libraries refuse with errors of many classes
        lines = str(error).strip().splitlines()
        return {"refused": f"{type(error).__name__}: {lines[0][:160] if lines else ''}"}
    errors = [_relative_error(found, reference) for reference in references]
    return {"error": min(errors), "is_diagonal": found.ndim == 1}


def _relative_error(found: Tensor, reference: Tensor) -> float:
    reference = reference.diagonal() if found.ndim == 1 else reference
    return float((found - reference).norm() / reference.norm())


def report() -> dict[str, Any]:
    """Every problem by every library, and the reference beside differences of gradients."""
    rows = []
    for problem in problems():
        reductions = ["mean", "sum"] if len(problem.batches) > 1 else ["mean"]
        row: dict[str, Any] = {
            "problem": problem.name,
            "num_parameters": sum(each.numel() for each in problem.parameters),
            "reference_against_differences": problem.disagreement(),
            "outcomes": [],
        }
        for reduction in reductions:
            for matrix in MATRICES:
                cells = {name: _outcome(each, problem, matrix, reduction) for name, each in LIBRARIES.items()}
                row["outcomes"].append({"matrix": matrix, "reduction": reduction, "cells": cells})
        rows.append(row)
    versions = {name: version(package) for name, package in PACKAGES.items()}
    return {
        "versions": {"python": platform.python_version(), "torch": torch.__version__.split("+")[0]} | versions,
        "rows": rows,
    }


def table(found: Mapping[str, Any]) -> str:
    """The report as Markdown: the table, and the reasons of refusals below it."""
    versions = ", ".join(f"{name} {number}" for name, number in found["versions"].items())
    names = list(LIBRARIES)
    notes: dict[str, int] = {}
    lines = [
        "# The same matrices by several libraries",
        "",
        f"{versions}; float64 on a CPU; cross-entropy of {NUM_CLASSES} classes, averaged over the targets that count.",
        "Each cell: ‖found − reference‖ / ‖reference‖, Hessian / Gauss-Newton matrix, in Frobenius norms.",
        "",
        f"| network and data | {' | '.join(names)} |",
        f"|---|{'---|' * len(names)}",
    ]
    for row in found["rows"]:
        for reduction in dict.fromkeys(each["reduction"] for each in row["outcomes"]):
            pair = [each["cells"] for each in row["outcomes"] if each["reduction"] == reduction]
            cells = [" / ".join(_cell(each[name], notes) for each in pair) for name in names]
            suffix = ', `reduction="sum"`' if reduction == "sum" else ""
            lines.append(f"| {row['problem']}{suffix} | {' | '.join(cells)} |")
    lines += ["", *(f"{number}. {text}" for text, number in notes.items())]
    return "\n".join(lines) + "\n"


def _cell(outcome: Mapping[str, Any], notes: dict[str, int]) -> str:
    if "not_offered" in outcome:
        return "–"
    if "refused" in outcome:
        number = notes.setdefault(outcome["refused"].replace("|", "\\|"), len(notes) + 1)
        return f"refused ({number})"
    error = outcome["error"]
    text = "right" if error < RIGHT else f"**{error:.2g}**"
    return f"{text} (diagonal)" if outcome["is_diagonal"] else text


def main() -> None:
    """Compute, print, and with --save keep the table beside the code."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.peers", description=__doc__)
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    parser.add_argument("--save", action="store_true", help=f"write {RESULTS.name}/peers.json and .md")
    arguments = parser.parse_args()
    found = report()
    document, text = json.dumps(found, indent=1) + "\n", table(found)
    if arguments.save:
        (RESULTS / "peers.json").write_text(document)
        (RESULTS / "peers.md").write_text(text)
    print(document if arguments.json else text, end="")


if __name__ == "__main__":
    main()
