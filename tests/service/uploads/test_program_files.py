"""Files of programs with any part of their JSON replaced: they are stored or refused, and never raise an error."""

import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, BinaryIO, cast

import pytest

from hessian_spectrum.api_schemas.artifacts import ProgramArtifact
from hessian_spectrum.api_schemas.problem import Problem
from hessian_spectrum.service.auth import ANONYMOUS
from hessian_spectrum.service.problems import ProblemError
from hessian_spectrum.service.uploads.artifact_service import ArtifactQuota, ArtifactService
from hessian_spectrum.service.uploads.artifact_upload import PT2, store_program
from hessian_spectrum.service.uploads.memory_budget import MemoryBudget
from hessian_spectrum.storage.artifacts import ArtifactOwners, ArtifactStore
from hessian_spectrum.storage.local_directory import LocalDirectory
from tests.security.program_files import BATCH, Parts, changed, node, parts, tensor, value

JUNK: tuple[Any, ...] = (
    *(None, True, False, 0, 1, -1, 2, 3, 7, 8, 2**31, 2**63, -(2**63), 10**300, 0.5, 1e308, -0.0),
    *(
        "",
        "x",
        "out",
        "p_weight",
        "layer.weight",
        "\ud800",
        "\0",
        "a" * 5000,
        "__class__",
        "as_tensor",
        "NaN",
        "little",
    ),
    *([], {}, [[]], [0], [-1], ["x"], {"as_int": 1}, {"as_int": -1}, {"as_tensor": {"name": "x"}}, {"": {}}),
    *({"as_none": True}, {"as_name": "x"}, {"as_expr": {"hint": {"as_int": 2**40}}}, [{"as_int": 0}], {"name": "x"}),
    *("torch.ops.aten.tanh.default", "torch.ops.aten.batch_norm.default", "torch.ops.higher_order.wrap_with_autocast"),
)


@pytest.fixture
def artifacts(tmp_path: Path) -> ArtifactService:
    directory = LocalDirectory(tmp_path)
    return ArtifactService(
        store=ArtifactStore(directory),
        owners=ArtifactOwners(LocalDirectory(tmp_path, "owners")),
        principal=ANONYMOUS,
        quota=ArtifactQuota(max_bytes=2**30, max_number=10**6),
    )


def places(value: Any) -> Iterator[tuple[Any, Any]]:
    """Every container of a document with every key in it."""
    keys = list(value) if isinstance(value, dict) else range(len(value)) if isinstance(value, list) else ()
    for key in keys:
        yield value, key
        yield from places(value[key])


def mutated(seed: int) -> bytes:
    """The file with one to three of its fields replaced, left out, doubled, renamed or exchanged with another."""
    choose = random.Random(seed)

    def change(each: Parts) -> None:
        documents = [each.model, each.model, each.model, each.weights, each.constants]
        for _ in range(choose.randint(1, 3)):
            found = list(places(choose.choice(documents)))
            if not found:
                continue
            container, key = choose.choice(found)
            other, other_key = choose.choice(found)
            match choose.randrange(6):
                case 0:
                    del container[key]
                case 1 if isinstance(container, dict):
                    container[str(choose.choice(JUNK))] = container.pop(key)
                case 2 if isinstance(container, list):
                    container.insert(key, container[key])
                case 3 if not any(inner is container for inner, _ in places({"": other[other_key]})):
                    container[key] = other[other_key]
                case _:
                    container[key] = choose.choice(JUNK)

    return changed(change)()


def stored(content: bytes, artifacts: ArtifactService, path: Path) -> bool:
    """Return whether a file is stored rather than refused."""
    path.write_bytes(content)
    problem: Problem | None = None
    with path.open("rb") as file:
        try:
            artifact, _ = store_program(cast("BinaryIO", file), artifacts, media_type=PT2, budget=MemoryBudget(2**28))
        except ProblemError as error:
            problem = error.problem
    if problem is None:
        assert artifacts.get(artifact.id) == artifact
        artifact.model_dump_json()
    else:
        assert 400 <= problem.status < 500, problem
        problem.model_dump_json()
    return problem is None


def check(seeds: range, artifacts: ArtifactService, path: Path) -> int:
    return sum(stored(mutated(seed), artifacts, path) for seed in seeds)


def test_a_file_made_by_hand_is_stored(artifacts: ArtifactService, tmp_path: Path) -> None:
    assert stored(parts().file(), artifacts, tmp_path / "file")


def test_sixty_mutations_are_stored_or_refused(artifacts: ArtifactService, tmp_path: Path) -> None:
    assert 0 < check(range(60), artifacts, tmp_path / "file") < 60


def without_arguments(op: str) -> Callable[[Parts], None]:
    return lambda each: each.nodes.append(node(f"torch.ops.aten.{op}", "more") | {"inputs": []})


def without_results(op: str, *arguments: tuple[str, Any]) -> Callable[[Parts], None]:
    return lambda each: each.nodes.append(node(f"torch.ops.aten.{op}", "more", *arguments) | {"outputs": []})


def attention(*shapes: tuple[int, ...]) -> Callable[[Parts], None]:
    """Attention of queries and keys of these shapes, as far as the file says."""

    def change(each: Parts) -> None:
        names = ("linear", "tanh")[: len(shapes)]
        each.values.update({name: tensor(*shape) for name, shape in zip(names, shapes, strict=True)})
        arguments = zip(("query", "key"), map(value, names), strict=False)
        each.call("torch.ops.aten.scaled_dot_product_attention.default", *arguments)

    return change


def repeated_output(each: Parts) -> None:
    each.call("torch.ops.aten.expand.default", ("self", value("out")), ("size", {"as_ints": [-1, 10]}))
    each.values["more"] = tensor(BATCH, 10)


@pytest.mark.parametrize(
    "change",
    [
        without_arguments("zero_.default"),
        without_arguments("batch_norm.default"),
        without_results("view.default", ("self", value("x")), ("size", {"as_ints": [3, 2]})),
        attention((3, 1)),
        attention((), ()),
        attention((3,), (3, 1)),
        attention((3, 0), (3, 0)),
        repeated_output,
        lambda each: each.values.pop("b_scale"),
    ],
    ids=[
        *("nothing-to-change", "norm-of-nothing", "no-results", "no-key", "no-axes", "one-axis", "no-entries"),
        *("output-larger-than-the-result", "constant-without-type"),
    ],
)
def test_incomplete_calls_are_stored_or_refused(
    artifacts: ArtifactService, tmp_path: Path, change: Callable[[Parts], object]
) -> None:
    stored(changed(change)(), artifacts, tmp_path / "file")
    assert len(artifacts.page(10, None)[0]) <= 1


def renamed(parameter: str) -> bytes:
    """The file with another name of its first parameter."""

    def change(each: Parts) -> None:
        each.weights[parameter] = each.weights.pop("layer.weight")
        each.signature["input_specs"][0]["parameter"]["parameter_name"] = parameter

    return changed(change)()


@pytest.mark.parametrize("name", ["block/layer/weight", "/", "..", "metadata", "__metadata", "__dict__", "a b", "слой"])
def test_a_parameter_has_the_name_that_it_has_in_the_module(
    artifacts: ArtifactService, tmp_path: Path, name: str
) -> None:
    assert stored(renamed(name), artifacts, tmp_path / "file")
    (artifact,) = artifacts.page(10, None)[0]
    assert name in {each.name for each in cast("ProgramArtifact", artifact).parameters}


@pytest.mark.parametrize("name", ["__metadata__", "", "program:graph", "constant:w"])
def test_names_that_the_stored_file_gives_to_others_are_refused(
    artifacts: ArtifactService, tmp_path: Path, name: str
) -> None:
    assert not stored(renamed(name), artifacts, tmp_path / "file")


@pytest.mark.slow
def test_two_thousand_mutations_are_stored_or_refused(artifacts: ArtifactService, tmp_path: Path) -> None:
    assert 0 < check(range(100, 2100), artifacts, tmp_path / "file") < 2000


def test_bytes_of_a_file_replaced_are_stored_or_refused(artifacts: ArtifactService, tmp_path: Path) -> None:
    choose = random.Random(0)
    plain = parts().file()
    for _ in range(100):
        content = bytearray(plain)
        for _ in range(choose.randint(1, 8)):
            content[choose.randrange(len(content))] = choose.randrange(256)
        stored(bytes(content), artifacts, tmp_path / "file")
