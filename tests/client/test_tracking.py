"""A tracked training run: the loop waits for nothing but the copy, whatever server and disk do."""

import copy
import logging
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load
from torch import Tensor, nn
from torch.nn.functional import mse_loss
from typer.testing import CliRunner

from hessian_spectrum.client import SpectrumClient
from hessian_spectrum.client.main import app
from hessian_spectrum.client.module_export import ModuleExportError
from hessian_spectrum.client.tracking import sending_thread
from hessian_spectrum.client.tracking.snapshots import Snapshots, tracked_program, unwrapped
from hessian_spectrum.client.tracking.spool import Spool, SpoolError
from hessian_spectrum.client.tracking.tracker import Tracker
from tests.client.outages import Passage
from tests.client.series_server import SeriesServer, series_server

X = torch.randn(8, 3, generator=torch.Generator().manual_seed(0))
Y = torch.randn(8, 2, generator=torch.Generator().manual_seed(1))
LOG = "hessian_spectrum.client.tracking.tracker"


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2))


@pytest.fixture
def series() -> Iterator[SeriesServer]:
    with series_server() as series:
        yield series


@pytest.fixture(autouse=True)
def _without_gathering(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sending_thread, "GATHERING_SECONDS", 0.05)


@pytest.fixture
def quick_programs(monkeypatch: pytest.MonkeyPatch) -> None:
    """For tests that are not about the program, which takes a second to export."""
    monkeypatch.setattr("hessian_spectrum.client.tracking.snapshots.tracked_program", lambda *_: b"program")


def track(client: SpectrumClient, module: nn.Module, directory: Path, **options: Any) -> Tracker:
    settings = {"loss": "mse", "data": (X, Y), "every": 1, "name": "run", "directory": directory, **options}
    return client.track(module, **settings)


def train(module: nn.Module, tracker: Tracker | None, num_steps: int) -> list[dict[str, Tensor]]:
    """Gradient descent; returns the parameters at each step."""
    optimizer, history = torch.optim.SGD(module.parameters(), lr=0.1, momentum=0.9), []
    for _ in range(num_steps):
        history.append({name: each.detach().clone() for name, each in module.named_parameters()})
        if tracker is not None:
            tracker.step(learning_rate=0.1)
        optimizer.zero_grad()
        mse_loss(module(X.to(next(module.parameters()).dtype)), Y).backward()
        optimizer.step()
    return history


def messages(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.name == LOG]


def sent(series: SeriesServer, point: dict[str, Any]) -> dict[str, Tensor]:
    return load(series.artifacts[point["parameters"]["id"]])


def test_each_point_holds_the_parameters_at_its_step_and_training_is_the_same(
    series: SeriesServer, tmp_path: Path
) -> None:
    module, untracked = network(), network()
    options = {"every": 3, "weight_decay": 0.5}
    with SpectrumClient(series.url) as client, track(client, module, tmp_path, **options) as tracker:
        history = train(module, tracker, 10)
        assert [point.step for point in tracker.series(wait=30).points] == [0, 3, 6, 9]
        assert tracker.picture().startswith(b"\x89PNG")
    assert series.steps() == [0, 3, 6, 9]
    for point in series.points():
        stored = sent(series, point)
        assert stored.keys() == history[0].keys()
        assert all(torch.equal(stored[name], each) for name, each in history[point["step"]].items())
    for one, other in zip(history, train(untracked, None, 10), strict=True):
        assert all(torch.equal(one[name], other[name]) for name in one)
    (request,) = {str({**each, "points": None}): each for each in series.posts}.values()
    assert (request["kind"], request["name"], request["weight_decay"]) == ("series", "run", 0.5)
    assert request["method"] == {"kind": "top-k", "k": 1}
    assert list(tmp_path.iterdir()) == []


@pytest.mark.usefixtures("quick_programs")
def test_the_loop_goes_on_while_the_server_hangs(series: SeriesServer, tmp_path: Path) -> None:
    series.may_answer.clear()
    with SpectrumClient(series.url) as client:
        tracker = track(client, network(), tmp_path)
        for _ in range(5):
            tracker.step()
        tracker.close(wait=0.2)
        assert series.posts == []
        series.may_answer.set()
        client.send_tracked(tmp_path)
    assert series.steps() == [0, 1, 2, 3, 4]


@pytest.mark.usefixtures("quick_programs")
def test_the_loop_goes_on_while_the_disk_hangs(
    series: SeriesServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Copies that do not fit into memory are dropped."""
    disk_answers, add = threading.Event(), Spool.add

    def slow(spool: Spool, *arguments: Any) -> int:
        assert threading.current_thread() is not threading.main_thread()
        disk_answers.wait(30)
        return add(spool, *arguments)

    monkeypatch.setattr(Spool, "add", slow)
    module = network()
    num_bytes = Snapshots(module, 0).num_bytes
    with SpectrumClient(series.url) as client, track(client, module, tmp_path, memory_bytes=3 * num_bytes) as tracker:
        for _ in range(6):
            tracker.step()
        disk_answers.set()
        tracker.series(wait=30)
        tracker.step()
    assert series.steps() == [0, 1, 2, 6]
    assert messages(caplog) == [
        "a point of run is dropped: the disk is slower than the loop, and the memory for copies is used up",
        "3 points of run were dropped",
    ]


@pytest.mark.usefixtures("quick_programs")
def test_the_loop_opens_no_file_and_no_connection(series: SeriesServer, tmp_path: Path) -> None:
    """Seen by the interpreter's own audit, in the thread of the loop."""
    watched: list[str] = []
    is_watching = threading.Event()
    main = threading.main_thread()

    def hook(event: str, arguments: Any) -> None:
        if is_watching.is_set() and threading.current_thread() is main:
            watched.append(event)

    sys.addaudithook(hook)  # for good: it does nothing after this test
    with SpectrumClient(series.url) as client, track(client, network(), tmp_path) as tracker:
        is_watching.set()
        for _ in range(20):
            tracker.step()
        is_watching.clear()
    assert not [event for event in watched if event.startswith(("open", "os.", "socket.", "tempfile.", "subprocess."))]
    assert len(series.steps()) == 20


@pytest.mark.usefixtures("quick_programs")
def test_a_server_that_was_away_gets_all_points_in_order(
    series: SeriesServer, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    passage = Passage(series.url)
    with SpectrumClient(passage.url) as client, track(client, network(), tmp_path) as tracker:
        tracker.step()
        tracker.series(wait=30)
        passage.close()
        for _ in range(4):
            tracker.step()
        deadline = time.monotonic() + 20
        while not messages(caplog) and time.monotonic() < deadline:
            time.sleep(0.02)
        passage.open()
        tracker.series(wait=30)
        tracker.step()
    passage.close()
    assert series.steps() == [0, 1, 2, 3, 4, 5]
    (line,) = messages(caplog)
    assert f"points are kept in {tmp_path / 'run'} until the server answers" in line


@pytest.mark.usefixtures("quick_programs")
def test_the_end_does_not_wait_for_a_server_that_is_away(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """And the command sends what is left."""
    with SpectrumClient("http://127.0.0.1:1") as client, track(client, network(), tmp_path) as tracker:
        for _ in range(3):
            tracker.step()
        started = time.monotonic()
    assert time.monotonic() - started < 20, "of the minute that it waits for one that answers"
    assert messages(caplog)[-1] == (
        f"3 points of run were not sent; to send them later: spectrum track send {tmp_path / 'run'}"
    )
    assert {path.suffix for path in (tmp_path / "run").iterdir()} == {".json", ".safetensors", ".pt2", ""}
    command = ["track", "send", str(tmp_path)]
    refused = CliRunner().invoke(app, [*command, "--url", "http://127.0.0.1:1"])
    assert refused.exit_code == 1
    assert "does not answer" in refused.output
    with series_server() as series:
        called = CliRunner().invoke(app, [*command, "--url", series.url])
        assert called.output == "run  3 points\n"
        assert series.steps() == [0, 1, 2]
        assert CliRunner().invoke(app, [*command, "--url", series.url]).exit_code == 1
    assert list(tmp_path.iterdir()) == []


@pytest.mark.usefixtures("quick_programs")
@pytest.mark.parametrize("status", [401, 422, 500])
def test_a_refusal_is_reported_once_and_the_loop_goes_on(
    series: SeriesServer, tmp_path: Path, caplog: pytest.LogCaptureFixture, status: int
) -> None:
    series.refusal = (status, {})
    with SpectrumClient(series.url) as client:
        with track(client, network(), tmp_path) as tracker:
            tracker.step()
            deadline = time.monotonic() + 20
            while not messages(caplog) and time.monotonic() < deadline:
                time.sleep(0.02)
            for _ in range(3):
                tracker.step()
        report, end = messages(caplog)
        assert f"not sent: {status} Refused" in report
        assert end.startswith("4 points of run were not sent")
        series.refusal = None
        client.send_tracked(tmp_path)
    assert series.steps() == [0, 1, 2, 3]
    assert max(series.uploads.values()) == 1


@pytest.mark.usefixtures("quick_programs")
def test_a_busy_server_is_asked_again(series: SeriesServer, tmp_path: Path) -> None:
    series.refusal = (429, {"Retry-After": "1"})
    with SpectrumClient(series.url) as client, track(client, network(), tmp_path) as tracker:
        tracker.step()
        threading.Timer(0.5, setattr, (series, "refusal", None)).start()
    assert series.steps() == [0]


@pytest.mark.usefixtures("quick_programs")
def test_a_run_that_is_resumed_goes_on_with_what_was_left(series: SeriesServer, tmp_path: Path) -> None:
    module = network()
    with SpectrumClient("http://127.0.0.1:1") as nowhere, track(nowhere, module, tmp_path) as tracker:
        for step in range(4):
            tracker.step(step)
    with torch.no_grad():
        next(module.parameters()).zero_()
    with SpectrumClient(series.url) as client:
        with pytest.raises(SpoolError, match="another run"):
            track(client, module, tmp_path, loss="cross-entropy")
        with track(client, module, tmp_path) as tracker:
            with pytest.raises(SpoolError, match="another process"):
                track(client, module, tmp_path)
            for step in range(4, 6):
                tracker.step(step)
    assert series.steps() == [0, 1, 2, 3, 4, 5]


@pytest.mark.usefixtures("quick_programs")
def test_steps_and_learning_rates_as_the_server_takes_them(series: SeriesServer, tmp_path: Path) -> None:
    with SpectrumClient(series.url) as client, track(client, network(), tmp_path, learning_rate=0.5) as tracker:
        for step, rate in ((10, None), (20, 0.0), (20, 0.3), (30, torch.tensor(0.25)), (40, float("nan"))):
            tracker.step(step, rate)
    found = [(point["step"], point["learning_rate"]) for point in series.points()]
    assert found == [(10, 0.5), (20, None), (30, 0.25), (40, None)]


@pytest.mark.usefixtures("quick_programs")
def test_nothing_is_raised_in_the_loop(series: SeriesServer, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    unusable: list[tuple[Any, Any]] = [(-1, None), (float("nan"), None), ("one", None), (4, [0.1]), (5, "x"), ([], 0.1)]
    with SpectrumClient(series.url) as client, track(client, network(), tmp_path) as tracker:
        for step, rate in [(3, 0.5), *unusable, (6, 0.5)]:
            tracker.step(step, rate)
    tracker.step(7)
    tracker.close()
    assert series.steps() == [3, 6]
    assert f"{len(unusable)} points of {tracker.name} were dropped" in caplog.text
    assert "is negative" in caplog.text
    assert "the tracker is closed" in caplog.text


@pytest.mark.usefixtures("quick_programs")
def test_parameters_that_cannot_be_measured_are_dropped(
    series: SeriesServer, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    module = network()
    weight = next(module.parameters())
    with SpectrumClient(series.url) as client, track(client, module, tmp_path) as tracker:
        tracker.step()
        with torch.no_grad():
            kept = weight.clone()
            weight[0, 0] = torch.nan
            tracker.step()
            tracker.step()
            weight.copy_(kept)
        module[0] = nn.Linear(3, 5)
        tracker.step()
        module[0] = nn.Linear(3, 4)
        tracker.step()
    assert series.steps() == [0, 4]
    assert {line.partition(":")[2].strip() for line in messages(caplog)[:2]} == {
        "step 1 cannot be measured: 0.weight must be finite: no NaN, no infinity",
        "the parameters could not be copied: names or shapes of the parameters have changed",
    }
    assert messages(caplog)[2:] == ["3 points of run were dropped"]


@pytest.mark.usefixtures("quick_programs")
def test_the_limit_of_the_disk_thins_the_points(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, series: SeriesServer
) -> None:
    module = network()
    limit = 5 * Snapshots(module, 0).num_bytes
    nowhere = SpectrumClient("http://127.0.0.1:1")
    with nowhere, track(nowhere, module, tmp_path, disk_bytes=limit) as tracker:
        train(module, tracker, 40)
    lines = messages(caplog)
    assert f"the limit of disk space for {tmp_path / 'run'} is reached" in " ".join(lines)
    assert "35 points of run were dropped" in lines
    with SpectrumClient(series.url) as client:
        client.send_tracked(tmp_path)
    assert len(series.steps()) == 5
    assert (series.steps()[0], series.steps()[-1]) == (0, 39)


class Unusual(nn.Module):
    """Parameters of several types: one number, tied ones, a frozen one, a buffer that training changes."""

    def __init__(self, dtype: torch.dtype) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.tensor(1.5))
        self.one = nn.Linear(3, 3)
        self.other = nn.Linear(3, 3)
        self.other.weight = self.one.weight
        self.other.bias.requires_grad_(False)
        self.norm = nn.BatchNorm1d(3)
        self.to(dtype)
        self.register_buffer("mask", torch.tensor([0.0, -torch.inf, 0.0]))
        self.register_buffer("table", torch.zeros(3), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.scale * self.other(torch.tanh(self.norm(self.one(x))))


@pytest.mark.usefixtures("quick_programs")
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_parameters_of_every_type_arrive_bit_by_bit(series: SeriesServer, tmp_path: Path, dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    module = Unusual(dtype)
    with SpectrumClient(series.url) as client, track(client, module, tmp_path) as tracker:
        tracker.step()
        module.norm.running_mean.add_(1)  # type: ignore[union-attr, operator]
        tracker.step()
    first, second = (sent(series, point) for point in series.points())
    expected = dict(module.named_parameters()) | {
        f"norm.{name}": module.norm.get_buffer(name) for name in ("running_mean", "running_var")
    }
    assert second.keys() == expected.keys()
    assert all(second[name].dtype == each.dtype and torch.equal(second[name], each) for name, each in expected.items())
    assert [name for name in first if not torch.equal(first[name], second[name])] == ["norm.running_mean"]


def test_the_program_is_the_same_at_all_steps_and_leaves_the_module_alone() -> None:
    torch.manual_seed(0)
    module = Unusual(torch.float32).train()
    module.other.eval()
    before = copy.deepcopy(module)
    generator = torch.get_rng_state()
    program = tracked_program(module, X[:4], None)
    assert torch.equal(torch.get_rng_state(), generator)
    assert list(module.state_dict()) == list(before.state_dict())
    assert all(torch.equal(each, before.state_dict()[name]) for name, each in module.state_dict().items())
    assert [part.training for part in module.modules()] == [part.training for part in before.modules()]
    grads = [(name, each.requires_grad, each.grad) for name, each in module.named_parameters()]
    assert grads == [(name, each.requires_grad, None) for name, each in before.named_parameters()]
    with torch.no_grad():
        for each in module.parameters():
            each.normal_()
    assert tracked_program(module, X[:4], None) == program
    assert tracked_program(module, X[:4], "one.*") != program
    assert [name for name, each in module.named_parameters() if not each.requires_grad] == ["other.bias"]


@pytest.mark.parametrize(
    ("module", "options", "message"),
    [
        (nn.Linear(3, 2, device="meta"), {}, "weight has no numbers yet .it is on meta"),
        (nn.LazyLinear(2), {}, "weight has no numbers yet .it is lazy"),
        (nn.Identity(), {}, "no parameters"),
        (nn.Linear(3, 2), {"trainable": "x*"}, "no parameter matches the glob 'x.'"),
        (nn.Linear(3, 2), {"every": 0}, "every must be at least 1"),
        (nn.Linear(3, 2), {"name": "../run"}, "the name '../run' must"),
        (nn.Linear(3, 2), {"data": {"kind": "digits"}}, "example_inputs is needed"),
        (object(), {}, "a torch.nn.Module"),
    ],
)
def test_what_cannot_be_tracked_is_refused_at_once(
    module: nn.Module, options: dict[str, Any], message: str, tmp_path: Path
) -> None:
    with SpectrumClient("http://127.0.0.1:1") as client, pytest.raises((ModuleExportError, ValueError), match=message):
        track(client, module, tmp_path, **options)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.filterwarnings("ignore")
def test_modules_are_taken_out_of_what_wraps_them(tmp_path: Path) -> None:
    class Wrapper(nn.Module):
        def __init__(self, module: nn.Module) -> None:
            super().__init__()
            self.module = module

    inner = network()
    torch.distributed.init_process_group("gloo", init_method=f"file://{tmp_path / 'group'}", rank=0, world_size=1)
    try:
        parallel = nn.parallel.DistributedDataParallel(inner)
        assert unwrapped(torch.compile(parallel)) is inner  # type: ignore[arg-type]
        assert unwrapped(nn.DataParallel(torch.compile(inner))) is inner  # type: ignore[arg-type]
    finally:
        torch.distributed.destroy_process_group()
    wrapper = Wrapper(inner)
    assert unwrapped(wrapper) is wrapper


@pytest.mark.usefixtures("quick_programs")
def test_files_are_where_the_user_keeps_state_unless_told_otherwise(
    series: SeriesServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    with SpectrumClient(series.url) as client:
        names = set()
        for _ in range(2):
            with client.track(network(), loss="mse", data=(X, Y), every=1) as tracker:
                names.add(tracker.name)
                assert tracker.directory == tmp_path / "hessian-spectrum" / "tracked" / tracker.name
    assert len(names) == 2
    assert all(name.startswith("sequential-") for name in names)


def test_nothing_is_logged_where_all_goes_well(
    series: SeriesServer, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING)
    with SpectrumClient(series.url) as client, track(client, network(), tmp_path, trainable="0.*") as tracker:
        tracker.step()
    assert messages(caplog) == []
