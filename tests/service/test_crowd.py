"""Places for requests and for those who wait, of which no key gets all."""

from contextlib import ExitStack

import pytest

from hessian_spectrum.service.doors.crowd import Crowd
from hessian_spectrum.service.problems import ProblemError


def test_one_key_leaves_places_to_others_and_all_come_back() -> None:
    crowd = Crowd(8, 4)
    with ExitStack() as requests:
        for _ in range(6):
            requests.enter_context(crowd.place("greedy"))
        with pytest.raises(ProblemError):
            requests.enter_context(crowd.place("greedy"))
        for owner in ("other", None):
            requests.enter_context(crowd.place(owner))
        with pytest.raises(ProblemError):
            requests.enter_context(crowd.place(None))
        assert crowd.requests.num_taken == 8
    assert crowd.requests.num_taken == 0


def test_who_waits_makes_room_for_requests() -> None:
    crowd = Crowd(2, 4)
    with ExitStack() as requests:
        places = []
        for _ in range(3):
            places.append(requests.enter_context(crowd.place("greedy")))
            places[-1].listen()
        fourth = requests.enter_context(crowd.place("greedy"))
        assert not fourth.may_listen()
        with pytest.raises(ProblemError):
            fourth.listen()
        requests.enter_context(crowd.place("other")).listen()
        assert places[0].may_listen()
        places[0].listen()
        assert (crowd.requests.num_taken, crowd.listeners.num_taken) == (1, 4)
    assert (crowd.requests.num_taken, crowd.listeners.num_taken) == (0, 0)


def test_without_keys_all_places_are_for_whoever_comes() -> None:
    crowd = Crowd(4, 0)
    with ExitStack() as requests:
        for _ in range(4):
            requests.enter_context(crowd.place(None))
