"""Uploaded files of several callers: each sees their own, and the same content is kept once until the last lets go."""

import random
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from hessian_spectrum.api_schemas.artifacts import ArtifactError
from hessian_spectrum.service.auth import ANONYMOUS, UNAUTHENTICATED, Principal
from hessian_spectrum.service.problems import ProblemError
from hessian_spectrum.service.uploads.artifact_service import ArtifactQuota, ArtifactService
from hessian_spectrum.storage.artifacts import ArtifactOwners, ArtifactStore, UnknownArtifactError
from hessian_spectrum.storage.local_directory import LocalDirectory

MAX_NUMBER = 40
MAX_BYTES = 10_000
QUOTA = ArtifactQuota(max_bytes=MAX_BYTES, max_number=MAX_NUMBER)
ANNA, BOB, ADMIN = (
    Principal("a" * 12, is_admin=False),
    Principal("b" * 12, is_admin=False),
    Principal("c" * 12, is_admin=True),
)


@pytest.fixture
def of(tmp_path: Path) -> Callable[[Principal], ArtifactService]:
    store = ArtifactStore(LocalDirectory(tmp_path))
    owners = ArtifactOwners(LocalDirectory(tmp_path, "owners"))
    return lambda principal: ArtifactService(store=store, owners=owners, principal=principal, quota=QUOTA)


def upload(artifacts: ArtifactService, *tokens: int) -> tuple[str, bool]:
    artifact, is_new = artifacts.write_tokens(lambda: iter([np.asarray(tokens)]))
    return artifact.id, is_new


def listed(artifacts: ArtifactService) -> set[str]:
    return {artifact.id for artifact in artifacts.page(100, None)[0]}


def test_each_sees_their_own_and_an_admin_all(of: Callable[[Principal], ArtifactService]) -> None:
    annas, is_new = upload(of(ANNA), 1, 2, 3)
    bobs, _ = upload(of(BOB), 4, 5, 6)
    assert is_new
    assert (listed(of(ANNA)), listed(of(BOB)), listed(of(ADMIN))) == ({annas}, {bobs}, {annas, bobs})
    assert listed(of(ANONYMOUS)) == {annas, bobs}
    assert of(ANNA).get(annas) == of(ADMIN).get(annas)
    for principal in (BOB, UNAUTHENTICATED):
        for call in (of(principal).get, of(principal).delete):
            with pytest.raises(UnknownArtifactError):
                call(annas)
        with pytest.raises(ArtifactError, match="no such artifact"):
            of(principal).arrays(annas)
    assert of(ANNA).get(annas).id == annas


def test_the_same_content_stays_until_the_last_lets_go(
    of: Callable[[Principal], ArtifactService], tmp_path: Path
) -> None:
    artifact_id, _ = upload(of(ANNA), 7, 8, 9)
    assert upload(of(BOB), 7, 8, 9) == (artifact_id, True)  # as if nobody had sent it
    assert upload(of(BOB), 7, 8, 9) == (artifact_id, False)
    assert len(list(tmp_path.glob("??/*"))) == 1
    of(ANNA).delete(artifact_id)
    with pytest.raises(UnknownArtifactError):
        of(ANNA).get(artifact_id)
    assert of(BOB).get(artifact_id).id == artifact_id
    of(BOB).delete(artifact_id)
    assert not list(tmp_path.glob("??/*"))
    assert upload(of(BOB), 7, 8, 9) == (artifact_id, True)


def test_an_admin_deletes_for_all(of: Callable[[Principal], ArtifactService], tmp_path: Path) -> None:
    artifact_id, _ = upload(of(ANNA), 1)
    upload(of(BOB), 1)
    of(ADMIN).delete(artifact_id)
    assert listed(of(ANNA)) == listed(of(BOB)) == listed(of(ADMIN)) == set()
    assert not list(tmp_path.glob("owners/*/*"))


def test_what_was_uploaded_before_there_were_keys_is_the_admins(of: Callable[[Principal], ArtifactService]) -> None:
    artifact_id, _ = upload(of(ANONYMOUS), 1)
    assert listed(of(ANNA)) == set()
    upload(of(ANNA), 1)
    of(ANNA).delete(artifact_id)
    assert listed(of(ADMIN)) == {artifact_id}


def test_uploads_and_deletions_at_once_lose_nothing(of: Callable[[Principal], ArtifactService]) -> None:
    def come_and_go(number: int) -> str:
        principal = Principal(f"{number:012x}", is_admin=False)
        dice = random.Random(number)
        artifact_id = ""
        for _ in range(30):
            artifact_id, _ = upload(of(principal), 1, 2)
            assert of(principal).get(artifact_id).id == artifact_id
            if dice.random() < 0.9:
                of(principal).delete(artifact_id)
                with pytest.raises(UnknownArtifactError):
                    of(principal).get(artifact_id)
        return upload(of(principal), 1, 2)[0]

    with ThreadPoolExecutor(6) as pool:
        ids = list(pool.map(come_and_go, range(6)))
    for number, artifact_id in enumerate(ids):
        assert of(Principal(f"{number:012x}", is_admin=False)).get(artifact_id).id == artifact_id


def test_a_key_takes_three_quarters_of_the_room_and_all_together_no_more_than_there_is(
    of: Callable[[Principal], ArtifactService], tmp_path: Path
) -> None:
    numbers = iter(range(1000))

    def taken() -> int:
        return sum(path.stat().st_size for path in tmp_path.glob("??/*"))

    def fill(principal: Principal) -> str:
        for number in numbers:
            try:
                upload(of(principal), *range(number, number + 200))
            except ProblemError as refusal:
                return f"{refusal.problem.status}: {refusal.problem.detail}"
        raise AssertionError

    first, _ = upload(of(ANNA), *range(next(numbers), 200))
    one = taken()
    assert fill(ANNA).startswith("507: Your files take too much space")
    assert 0.75 * MAX_BYTES - one < taken() <= 0.75 * MAX_BYTES
    assert fill(BOB).startswith("507: An admin")
    assert MAX_BYTES - one < taken() <= MAX_BYTES
    assert upload(of(ANNA), *range(200)) == (first, False)  # what is theirs takes no room
    of(ANNA).delete(first)
    upload(of(BOB), *range(5, 205))
    assert taken() <= MAX_BYTES
    assert {path.name.split(".")[0] for path in tmp_path.glob("??/*")} == listed(of(ANNA)) | listed(of(BOB))


def test_a_key_keeps_no_more_files_than_it_may(of: Callable[[Principal], ArtifactService]) -> None:
    ids = [upload(of(ANNA), number)[0] for number in range(MAX_NUMBER)]
    with pytest.raises(ProblemError) as refusal:
        upload(of(ANNA), MAX_NUMBER)
    assert (refusal.value.problem.status, refusal.value.problem.type) == (507, "/problems/too-many-uploads")
    assert refusal.value.problem.detail == "An API key may keep 40 files: delete some that no job needs."
    assert listed(of(ANNA)) == set(ids)
    assert upload(of(ANNA), 0) == (ids[0], False)
    upload(of(BOB), 0)
    of(ANNA).delete(ids[0])
    upload(of(ANNA), MAX_NUMBER)
