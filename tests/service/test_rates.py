"""How often a caller may ask: a minute's requests at once, and no more in the long run."""

import pytest

from hessian_spectrum.service.doors.rates import RequestRates, neighbourhood


class Clock:
    def __init__(self) -> None:
        self.seconds = 1e6

    def __call__(self) -> float:
        return self.seconds


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def rates(clock: Clock) -> RequestRates:
    return RequestRates(clock)


@pytest.mark.parametrize("limit", [1, 3, 7, 60, 1200, 999_983])
def test_a_minutes_requests_may_come_at_once_and_one_more_may_not(
    rates: RequestRates, clock: Clock, limit: int
) -> None:
    few = min(limit, 2000)
    standings = [rates.count("anna", limit) for _ in range(few)]
    assert [each.retry_seconds for each in standings] == [0] * few
    assert [each.remaining for each in standings] == list(range(limit - 1, limit - few - 1, -1))
    if few == limit:
        refused = rates.count("anna", limit)
        assert refused.remaining == 0
        clock.seconds += refused.retry_seconds
        assert rates.count("anna", limit).retry_seconds == 0


def test_requests_grow_back_one_by_one(rates: RequestRates, clock: Clock) -> None:
    for _ in range(60):
        rates.count("anna", 60)
    for _ in range(200):
        assert rates.count("anna", 60).retry_seconds == 1
        clock.seconds += 1.0
        assert rates.count("anna", 60).retry_seconds == 0
    clock.seconds += 60.0
    assert rates.count("anna", 60).remaining == 59


def test_what_is_refused_does_not_count(rates: RequestRates, clock: Clock) -> None:
    rates.count("anna", 2)
    rates.count("anna", 2)
    for _ in range(1000):
        assert rates.count("anna", 2).retry_seconds == 30
    clock.seconds += 30.0
    assert rates.count("anna", 2).retry_seconds == 0


def test_callers_are_counted_apart(rates: RequestRates) -> None:
    rates.count("anna", 1)
    assert rates.count("anna", 1).retry_seconds == 60
    assert rates.count("bob", 1).retry_seconds == 0


def test_headers_are_those_of_the_draft(rates: RequestRates) -> None:
    standing = rates.count("anna", 30)
    assert standing.headers == {"RateLimit-Policy": '"minute";q=30;w=60', "RateLimit": '"minute";r=29;t=2'}


def test_memory_does_not_grow_with_callers_who_went(rates: RequestRates, clock: Clock) -> None:
    for number in range(50_000):
        rates.count(f"caller {number}", 60)
        clock.seconds += 0.1  # six hundred in a minute
    assert len(rates._spent) <= 2000


@pytest.mark.parametrize(
    ("address", "counted_as"),
    [
        ("127.0.0.1", None),
        ("::1", None),
        ("::ffff:127.0.0.1", None),
        ("", None),
        ("unknown", "unknown"),  # as proxies may say
        ("192.0.2.7", "192.0.2.7"),
        ("::ffff:192.0.2.7", "192.0.2.7"),
        ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::/64"),
        ("2001:db8:1:2:ffff::", "2001:db8:1:2::/64"),
        ("fe80::1%eth0", "fe80::/64"),
    ],
)
def test_addresses_are_counted_by_whom_they_belong_to(address: str, counted_as: str | None) -> None:
    assert neighbourhood(address) == counted_as


def test_what_takes_longer_counts_for_more(rates: RequestRates, clock: Clock) -> None:
    rates.count("anna", 60)
    rates.charge("anna", 60, 30.0)
    assert rates.count("anna", 60).remaining == 28
    rates.charge("anna", 60, 1e6)  # what is owed is over in a minute
    assert rates.count("bob", 60).retry_seconds == 0
    assert 55 < rates.count("anna", 60).retry_seconds <= 61
    clock.seconds += 61
    assert rates.count("anna", 60).retry_seconds == 0
