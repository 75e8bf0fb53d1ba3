"""Rate limits: a minute's requests at once, and no more in the long run."""

import pytest

from hessian_spectrum.service.middleware.rate_limit import TokenBucketLimiter, client_network


class Clock:
    def __init__(self) -> None:
        self.seconds = 1e6

    def __call__(self) -> float:
        return self.seconds


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def limiter(clock: Clock) -> TokenBucketLimiter:
    return TokenBucketLimiter(clock)


@pytest.mark.parametrize("limit", [1, 3, 7, 60, 1200, 999_983])
def test_a_minutes_requests_may_come_at_once_and_one_more_may_not(
    limiter: TokenBucketLimiter, clock: Clock, limit: int
) -> None:
    few = min(limit, 2000)
    statuses = [limiter.acquire("anna", limit) for _ in range(few)]
    assert [each.retry_after_seconds for each in statuses] == [0] * few
    assert [each.remaining for each in statuses] == list(range(limit - 1, limit - few - 1, -1))
    if few == limit:
        refused = limiter.acquire("anna", limit)
        assert refused.remaining == 0
        clock.seconds += refused.retry_after_seconds
        assert limiter.acquire("anna", limit).retry_after_seconds == 0


def test_requests_grow_back_one_by_one(limiter: TokenBucketLimiter, clock: Clock) -> None:
    for _ in range(60):
        limiter.acquire("anna", 60)
    for _ in range(200):
        assert limiter.acquire("anna", 60).retry_after_seconds == 1
        clock.seconds += 1.0
        assert limiter.acquire("anna", 60).retry_after_seconds == 0
    clock.seconds += 60.0
    assert limiter.acquire("anna", 60).remaining == 59


def test_what_is_refused_does_not_count(limiter: TokenBucketLimiter, clock: Clock) -> None:
    limiter.acquire("anna", 2)
    limiter.acquire("anna", 2)
    for _ in range(1000):
        assert limiter.acquire("anna", 2).retry_after_seconds == 30
    clock.seconds += 30.0
    assert limiter.acquire("anna", 2).retry_after_seconds == 0


def test_clients_are_counted_apart(limiter: TokenBucketLimiter) -> None:
    limiter.acquire("anna", 1)
    assert limiter.acquire("anna", 1).retry_after_seconds == 60
    assert limiter.acquire("bob", 1).retry_after_seconds == 0


def test_headers_are_those_of_the_draft(limiter: TokenBucketLimiter) -> None:
    status = limiter.acquire("anna", 30)
    assert status.headers == [(b"ratelimit-policy", b'"minute";q=30;w=60'), (b"ratelimit", b'"minute";r=29;t=2')]


def test_memory_does_not_grow_with_clients_who_left(limiter: TokenBucketLimiter, clock: Clock) -> None:
    for number in range(50_000):
        limiter.acquire(f"client {number}", 60)
        clock.seconds += 0.1  # six hundred in a minute
    assert len(limiter._used) <= 2000


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
    assert client_network(address) == counted_as


def test_what_takes_longer_counts_for_more(limiter: TokenBucketLimiter, clock: Clock) -> None:
    limiter.acquire("anna", 60)
    limiter.charge("anna", 60, 30.0)
    assert limiter.acquire("anna", 60).remaining == 28
    limiter.charge("anna", 60, 1e6)  # what is owed is over in a minute
    assert limiter.acquire("bob", 60).retry_after_seconds == 0
    assert 55 < limiter.acquire("anna", 60).retry_after_seconds <= 61
    clock.seconds += 61
    assert limiter.acquire("anna", 60).retry_after_seconds == 0
