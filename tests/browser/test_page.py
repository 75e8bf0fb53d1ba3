"""The page in Chromium: submit, watch, look, compare, cancel; keys, errors, outages, phones, keyboards."""

import ast
import base64
import json
import math
import os
import re
import shlex
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import quote

import httpx
import numpy as np
import pytest
import torch
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Page, Response, Route, expect
from safetensors.torch import save_file

from hessian_spectrum.api_schemas.methods.lanczos import LanczosResult
from hessian_spectrum.client.http import SpectrumClient
from hessian_spectrum.results.plots.spectrum import density_curve
from hessian_spectrum.service.auth import KeyStore
from tests.fixtures.exported import saved, saved_as_onnx

VIEWS = ("jobs", "new", "closed-form", "random-matrix", "series", "figures", "server")
JOB: dict[str, Any] = {
    "kind": "spectrum",
    "model": {"kind": "mlp", "widths": [64, 8, 10]},
    "data": {"kind": "digits", "num_samples": 64},
    "loss": "cross-entropy",
}
METHODS: dict[str, dict[str, Any]] = {
    "lanczos": {"kind": "lanczos", "num_steps": 20, "num_probes": 3},
    "exact": {"kind": "exact"},
    "top-k": {"kind": "top-k", "k": 4},
    "trace": {"kind": "trace", "num_probes": 8},
}
LONG: dict[str, Any] = JOB | {
    "train": {"num_steps": 1_000_000, "learning_rate": 0.01},
    "method": {"kind": "trace", "num_probes": 8},
}
OpenPage = Callable[..., Page]
LINEAR, LOGARITHMIC = 1, 3  # kinds of axes of uPlot


@pytest.fixture(scope="module")
def results(server: Any) -> dict[str, str]:
    """The ids of ended jobs by method."""
    with SpectrumClient(server.url) as client:
        jobs = {
            name: client.submit(JOB | {"method": method, "tags": {"method": name}}).id
            for name, method in METHODS.items()
        }
        return {name: client.wait(job_id).id for name, job_id in jobs.items()}


def without_nulls(value: Any) -> Any:
    return (
        {name: without_nulls(each) for name, each in value.items() if each is not None}
        if isinstance(value, dict)
        else value
    )


def fact(page: Page, name: str) -> Any:
    return page.locator("dt", has_text=name).locator("xpath=following-sibling::dd[1]")


def legend(page: Page, label: str) -> Any:
    return page.locator(".u-legend tr", has_text=label).first


@pytest.mark.parametrize("view", VIEWS)
def test_every_view_is_accessible_and_fits_a_phone(server: Any, open_page: OpenPage, view: str) -> None:
    page = open_page(server.url, f"#/{view}", viewport={"width": 360, "height": 740})
    page.wait_for_load_state("networkidle") if view != "jobs" else page.wait_for_selector("table")
    width = page.evaluate("document.documentElement.scrollWidth")
    assert width <= 360
    violations = Axe().run(page).response["violations"]
    serious = [each["id"] for each in violations if each["impact"] in ("serious", "critical")]
    assert serious == []


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_result_is_accessible_in_light_and_dark(
    server: Any, open_page: OpenPage, results: dict[str, str], scheme: str
) -> None:
    page = open_page(server.url, f"#/jobs/{results['lanczos']}", wait_for=".u-legend", color_scheme=scheme)
    violations = Axe().run(page).response["violations"]
    assert [each["id"] for each in violations if each["impact"] in ("serious", "critical")] == []


def test_a_job_is_submitted_watched_and_looked_at(server: Any, open_page: OpenPage) -> None:
    page = open_page(server.url, "#/new", wait_for="textarea")
    page.get_by_label("The request as JSON").fill(json.dumps(JOB | {"method": METHODS["lanczos"], "seed": 17}))
    page.get_by_label("The request as JSON").dispatch_event("change")
    request = JOB | {"method": METHODS["lanczos"], "seed": 17}
    assert json.loads(page.get_by_label("The request as JSON").input_value()) == request
    expect(page.locator("[role=status]", has_text="610 parameters")).to_be_visible()  # 64 x 8 + 8 + 8 x 10 + 10
    page.get_by_role("button", name="Submit").click()
    expect(page.locator("dd", has_text="succeeded")).to_be_visible()
    expect(legend(page, "density")).to_be_visible()
    job_id = re.search(r"jobs/([0-9a-f]{32})", page.url)
    assert job_id is not None
    result = httpx.get(f"{server.url}/v1/jobs/{job_id[1]}/result").json()
    shown = page.locator("dt", has_text="Largest").locator("xpath=following-sibling::dd[1]").inner_text()
    assert float(shown.split()[0]) == pytest.approx(result["largest"]["value"], rel=1e-5)
    page.get_by_role("link", name="again with changes").click()
    stored = httpx.get(f"{server.url}/v1/jobs/{job_id[1]}/request").json()
    assert {name: stored[name] for name in ("kind", "loss", "seed")} == {
        name: request[name] for name in ("kind", "loss", "seed")
    }
    expect(page.get_by_label("The request as JSON")).to_have_value(re.compile(r'"seed": 17'))
    assert without_nulls(json.loads(page.get_by_label("The request as JSON").input_value())) == without_nulls(stored)


def test_the_request_of_a_job_is_shown_copied_and_changed_from_the_list(server: Any, open_page: OpenPage) -> None:
    job_id = httpx.post(f"{server.url}/v1/jobs", json=LONG, headers={"Cache-Control": "no-cache"}).json()["id"]
    stored = httpx.get(f"{server.url}/v1/jobs/{job_id}/request").json()
    page = open_page(server.url, f"#/jobs/{job_id}")
    page.evaluate("navigator.clipboard.writeText = async (text) => { window.copied = text }")
    page.get_by_text("Request", exact=True).click()  # while it runs
    assert json.loads(page.get_by_label("The request as JSON").inner_text()) == stored

    def copied(name: str) -> str:
        page.get_by_role("button", name=name).first.click()
        return str(page.evaluate("window.copied"))

    assert json.loads(copied("Copy JSON")) == stored
    call = ast.parse(copied("Copy Python")).body[-1].body[0].value  # type: ignore[attr-defined]
    assert ast.literal_eval(call.args[0]) == stored
    words = shlex.split(copied("Copy curl"))
    assert (words[0], words[2]) == ("curl", f"{server.url}/v1/jobs")
    assert json.loads(words[words.index("-d") + 1]) == stored
    httpx.post(f"{server.url}/v1/jobs/{job_id}/cancel")
    page.goto(f"{server.url}/#/jobs")
    page.locator(f"tr[data-job='{job_id}']").get_by_role("link", name="again with changes").click()
    page.locator("#field-train-num_steps").fill("3")
    page.locator("#field-train-num_steps").dispatch_event("change")
    page.get_by_role("button", name="Submit").click()
    expect(page.locator("dd", has_text="succeeded")).to_be_visible()
    changed = httpx.get(f"{server.url}/v1/jobs/{page.url.split('/')[-1]}/request").json()
    assert changed == stored | {"train": stored["train"] | {"num_steps": 3}}


@pytest.mark.allowed("410")
def test_a_request_that_is_not_kept_is_said(server: Any, open_page: OpenPage) -> None:
    values = [[float(row == column) for column in range(60)] for row in range(60)]
    long = {"kind": "spectrum", "model": {"kind": "quadratic", "matrix": values}, "method": {"kind": "exact"}}
    job_id = httpx.post(f"{server.url}/v1/jobs", json=long, headers={"Prefer": "wait=30"}).json()["id"]
    page = open_page(server.url, f"#/jobs/{job_id}", wait_for="summary")
    page.get_by_text("Request", exact=True).click()
    expect(page.locator("details p")).to_contain_text("kept until their job ends")
    page.get_by_role("link", name="again with changes").click()
    expect(page.locator("[role=alert]", has_text="The request is not kept")).to_be_visible()
    expect(page.get_by_label("The request as JSON")).to_be_visible()  # another one to start from


@pytest.mark.allowed("422")
def test_fields_of_the_form_make_the_request_and_show_their_errors(server: Any, open_page: OpenPage) -> None:
    page = open_page(server.url, "#/new", wait_for="textarea")
    page.locator("#field-model-widths").fill("[64, 5, 10]")
    page.locator("#field-model-widths").dispatch_event("change")
    assert json.loads(page.get_by_label("The request as JSON").input_value())["model"]["widths"] == [64, 5, 10]
    page.locator("#field-method-num_probes").fill("-3")
    page.locator("#field-method-num_probes").dispatch_event("change")
    error = page.locator(".field", has=page.locator("#field-method-num_probes")).locator(".error")
    expect(error).to_contain_text("greater than or equal to 1")


@pytest.mark.allowed("422")
def test_every_choice_of_the_form_can_be_made(server: Any, open_page: OpenPage) -> None:
    page = open_page(server.url, "#/new", wait_for="textarea")
    names = page.locator("select[id$='-kind']").evaluate_all("all => all.map((each) => each.id)")
    assert {"field-model-kind", "field-data-kind", "field-method-kind"} <= set(names)
    for name in names:
        select = page.locator(f"#{name}")
        for option in select.locator("option").evaluate_all("all => all.map((each) => each.value)"):
            select.evaluate(
                "(node, value) => { node.value = value; node.dispatchEvent(new Event('change')) }", option
            )  # although its part may be closed
            assert select.input_value() == option
    page.locator("#preset").select_option(index=1)  # none of this stays
    expect(page.get_by_label("The request as JSON")).to_have_value(re.compile("exact"))
    page.wait_for_load_state("networkidle")


@pytest.fixture(scope="module")
def network_files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A network in both formats, data for it, and other parameters of the .pt2 file."""
    directory = tmp_path_factory.mktemp("files")
    torch.manual_seed(0)
    network = torch.nn.Sequential(torch.nn.Linear(5, 4), torch.nn.Tanh(), torch.nn.Linear(4, 1)).eval()
    names = ("net.pt2", "net.onnx", "data.npz", "parameters.safetensors")
    files = {name: directory / name for name in names}
    files["net.pt2"].write_bytes(saved(network, torch.randn(3, 5)))
    files["net.onnx"].write_bytes(saved_as_onnx(network, torch.randn(3, 5)))
    rng = np.random.default_rng(0)
    np.savez(files["data.npz"], x=rng.normal(size=(20, 5)).astype("f4"), y=rng.normal(size=(20, 1)).astype("f4"))
    save_file({name: 2 * each for name, each in network.state_dict().items()}, files["parameters.safetensors"])
    return files


def drop(page: Page, path: Path) -> None:
    content = base64.b64encode(path.read_bytes()).decode()
    transfer = page.evaluate_handle(
        "([name, text]) => { const all = new DataTransfer();"
        " all.items.add(new File([Uint8Array.from(atob(text), (each) => each.charCodeAt(0))], name)); return all; }",
        [path.name, content],
    )
    page.get_by_role("group", name="Your own network").dispatch_event("drop", {"dataTransfer": transfer})


def test_an_upload_shows_its_progress_and_ends_with_its_view(server: Any, open_page: OpenPage, tmp_path: Path) -> None:
    file = tmp_path / "slow.npz"
    np.savez(
        file, x=np.random.default_rng(0).normal(size=(1_000_000, 4)).astype("f4"), y=np.zeros((1_000_000, 1), "f4")
    )
    page = open_page(server.url, "#/new", wait_for="textarea")
    network = page.context.new_cdp_session(page)
    limits = {"offline": False, "latency": 0, "downloadThroughput": -1}
    network.send("Network.enable")
    network.send("Network.emulateNetworkConditions", limits | {"uploadThroughput": 8_000_000})
    bar = page.get_by_role("progressbar", name="Upload of slow.npz")
    page.locator("#file").set_input_files(file)
    page.wait_for_function(
        "() => [...document.querySelectorAll('progress')].some(({ value }) => 0 < value && value < 1)"
    )
    expect(page.locator("#status")).to_contain_text("slow.npz is uploaded and entered as the data")
    expect(bar).to_have_count(0)
    network.send("Network.emulateNetworkConditions", limits | {"uploadThroughput": 100_000})
    with page.expect_event("requestfailed") as stopped:
        page.locator("#file").set_input_files([])
        page.locator("#file").set_input_files(file)
        expect(bar).to_be_visible()
        page.goto(f"{server.url}/#/jobs")
    assert stopped.value.url.endswith("/v1/artifacts")


@pytest.mark.allowed("422")  # until all files are there
@pytest.mark.parametrize("name", ["net.pt2", "net.onnx"])
def test_files_that_are_dropped_make_a_job(
    server: Any, open_page: OpenPage, network_files: dict[str, Path], name: str
) -> None:
    request = {
        "kind": "spectrum",
        "model": {"kind": "mlp", "widths": [5, 1]},
        "loss": "mse",
        "method": {"kind": "exact"},
    }
    page = open_page(server.url, f"#/new?request={quote(json.dumps(request))}", wait_for="textarea")
    drop(page, network_files["parameters.safetensors"])
    expect(page.locator("#status")).to_contain_text("Drop the network first")
    drop(page, network_files[name])
    expect(page.locator("#status")).to_contain_text(f"{name} is uploaded and entered as the network")
    drop(page, network_files["data.npz"])
    expect(page.locator("#status")).to_contain_text("entered as the data")
    if name == "net.pt2":
        drop(page, network_files["parameters.safetensors"])
        expect(page.locator("#status")).to_contain_text("entered as the parameters of the network")
    expect(page.locator("[role=status]", has_text="29 parameters")).to_be_visible()  # 5 x 4 + 4 + 4 + 1
    page.get_by_role("button", name="Submit").click()
    expect(page.locator("dd", has_text="succeeded")).to_be_visible()
    stored = httpx.get(f"{server.url}/v1/jobs/{page.url.split('/')[-1]}/request").json()
    assert ("parameters" in stored["model"]) == (name == "net.pt2")
    page.get_by_role("link", name="again with changes").click()
    expect(page.get_by_label("The request as JSON")).to_have_value(re.compile("exported"))
    assert without_nulls(json.loads(page.get_by_label("The request as JSON").input_value())) == without_nulls(stored)


@pytest.mark.parametrize("method", METHODS)
def test_results_show_their_numbers(server: Any, open_page: OpenPage, results: dict[str, str], method: str) -> None:
    page = open_page(server.url, f"#/jobs/{results[method]}", wait_for="dt:has-text('Parameters')")
    text = page.locator("main").inner_text()
    result = httpx.get(f"{server.url}/v1/jobs/{results[method]}/result").json()
    known = {
        "lanczos": lambda: result["trace"]["value"],
        "exact": lambda: max(result["eigenvalues"]),
        "top-k": lambda: result["eigenpairs"][0]["value"],
        "trace": lambda: result["trace"]["value"],
    }[method]()
    numbers = [float(each) for each in re.findall(r"-?\d+\.\d+(?:e-?\d+)?", text)]
    assert min(abs(each - known) for each in numbers) <= 1e-5 * abs(known)


def test_a_density_is_smoothed_again_and_its_axes_change(
    server: Any, open_page: OpenPage, results: dict[str, str]
) -> None:
    page = open_page(server.url, f"#/jobs/{results['lanczos']}", wait_for=".u-legend")
    with page.expect_response(re.compile("kappa=")) as answer:
        page.locator("#kappa").fill("2")
    assert answer.value.status == 200
    page.locator("#curve").select_option("cumulative")
    expect(legend(page, "share of eigenvalues")).to_be_visible()
    page.locator("#y").select_option("log")
    page.locator("#nodes").check()
    page.wait_for_url(re.compile("nodes=1"))
    assert {"kappa=100", "curve=cumulative", "y=log", "nodes=1"} <= set(page.url.split("?")[1].split("&"))
    page.reload()
    expect(legend(page, "share of eigenvalues")).to_be_visible()  # a link shows the same
    assert page.locator("#y").input_value() == "log"


def test_a_chart_is_zoomed_by_mouse_and_keyboard(server: Any, open_page: OpenPage, results: dict[str, str]) -> None:
    page = open_page(server.url, f"#/jobs/{results['lanczos']}", wait_for=".u-over")
    chart, over = page.locator("figure.chart").first, page.locator(".u-over").first

    def value_at_the_left() -> float:
        over.hover(position={"x": 2, "y": 50})
        return float(page.locator(".u-legend .u-value").first.inner_text())

    whole = value_at_the_left()
    box = over.bounding_box()
    assert box is not None
    page.mouse.move(box["x"] + 0.5 * box["width"], box["y"] + 100)
    page.mouse.down()
    page.mouse.move(box["x"] + 0.9 * box["width"], box["y"] + 102, steps=5)
    page.mouse.up()
    page.wait_for_timeout(100)
    assert value_at_the_left() > whole
    chart.focus()
    page.keyboard.press("0")
    page.wait_for_timeout(100)
    assert value_at_the_left() == whole
    page.keyboard.press("+")
    page.wait_for_timeout(100)
    assert value_at_the_left() > whole
    page.keyboard.press("Shift+ArrowRight")
    expect(page.locator("#status")).to_have_text(re.compile(r"^eigenvalue -?[\d.]+, density [\d.e-]+$"))


def drawn(page: Page, what: str, chart: int = 0) -> Any:
    """Return a property of a plot, once the plot has it."""
    path = f"document.querySelectorAll('figure.chart')[{chart}]?.chart.plot?.{what}"
    while (value := page.evaluate(path)) is None:
        page.wait_for_timeout(50)
    return value


def ticks(page: Page, axis: int) -> list[float]:
    """Return the ticks of the first chart."""
    return list(drawn(page, f"axes[{axis}]._splits"))


def test_ranks_have_ticks_at_integers(server: Any, open_page: OpenPage, results: dict[str, str]) -> None:
    page = open_page(server.url, f"#/jobs/{results['top-k']}", wait_for=".u-legend")
    assert ticks(page, 0) == [1, 2, 3, 4]
    assert any(value % 1 for value in ticks(page, 1))  # eigenvalues have others
    page.goto(f"{server.url}/#/closed-form?kind=self-attention")
    assert all(value % 1 == 0 for value in ticks(page, 1))


@pytest.mark.parametrize("curve", ["density", "log_density", "cumulative"])
def test_a_logarithmic_axis_ends_where_no_eigenvalue_is(
    server: Any, open_page: OpenPage, results: dict[str, str], curve: str
) -> None:
    page = open_page(server.url, f"#/jobs/{results['lanczos']}?curve={curve}&y=log", wait_for=".u-legend")
    with SpectrumClient(server.url) as client:
        result = client.result(results["lanczos"])
    assert isinstance(result, LanczosResult)
    least, largest = drawn(page, "scales.y.min"), drawn(page, "scales.y.max")
    if curve == "density":
        assert least == pytest.approx(density_curve(result, 1.0).floor)
    assert 0 < least < 1 / result.num_parameters
    band = getattr(result, curve).band
    assert max(band.upper) < largest < 20 * max(*band.upper, 100 * least)
    decades = [math.log10(each) for each in ticks(page, 1)]
    assert len(decades) >= 3
    assert decades == pytest.approx(np.round(decades))
    assert [float(each.replace(",", "")) for each in drawn(page, "axes[1]._values")] == pytest.approx(ticks(page, 1))
    values, upper, lower = (np.array(drawn(page, f"data[{column}]")) for column in (1, 2, 3))
    is_shown = values > least
    assert (lower <= values)[is_shown].all()
    assert (values <= upper)[is_shown].all()
    assert (upper[is_shown] > lower[is_shown]).any()
    assert (upper[~is_shown] < least).all()  # no band without a curve


def test_densities_are_logarithmic_unless_another_axis_is_chosen(
    server: Any, open_page: OpenPage, results: dict[str, str]
) -> None:
    page = open_page(server.url, f"#/jobs/{results['lanczos']}", wait_for=".u-legend")
    assert drawn(page, "scales.y.distr") == LOGARITHMIC
    page.locator("#curve").select_option("cumulative")
    assert drawn(page, "scales.y.distr") == LINEAR
    page.locator("#curve").select_option("density")
    page.locator("#y").select_option("linear")
    page.wait_for_url(re.compile("y=linear"))
    page.reload()
    page.wait_for_selector(".u-legend")
    assert drawn(page, "scales.y.distr") == LINEAR


def test_the_loss_along_training_is_drawn(server: Any, open_page: OpenPage) -> None:
    trained = JOB | {"train": {"num_steps": 50, "learning_rate": 0.1}, "method": METHODS["trace"]}
    with SpectrumClient(server.url) as client:
        job_id = client.wait(client.submit(trained).id).id
        curve = client.result(job_id).training.loss_curve
    page = open_page(server.url, f"#/jobs/{job_id}", wait_for=".u-legend")
    assert drawn(page, "data[0]") == curve.steps == list(range(1, 51))
    assert drawn(page, "data[1]") == pytest.approx(curve.losses)
    assert curve.losses[-1] < curve.losses[0]


def test_both_ends_are_ranked_from_their_own_end(server: Any, open_page: OpenPage) -> None:
    method = {"kind": "top-k", "k": 5, "which": "both-ends"}
    with SpectrumClient(server.url) as client:
        job_id = client.wait(client.submit(JOB | {"method": method}).id).id
        values = [pair.value for pair in client.result(job_id).eigenpairs]
    page = open_page(server.url, f"#/jobs/{job_id}", wait_for=".u-legend")
    assert drawn(page, "data[0]") == [1, 2, 3]
    assert drawn(page, "data[1]") == values[:3]
    assert drawn(page, "data[4]")[:2] == values[:2:-1]  # after the ends of the intervals of the first curve


def test_an_outlier_has_one_colour(server: Any, open_page: OpenPage) -> None:
    page = open_page(server.url, "#/closed-form?w=1e999", wait_for=".u-legend")
    assert float(page.locator("#w").input_value()) == 1.5  # as if no slider had been moved
    for plot, first in ((0, 1), (1, 0)):  # of the spectrum, which has its bulk first, and of gradient descent
        for number in (1, 2):
            own = page.evaluate(
                f"getComputedStyle(document.documentElement).getPropertyValue('--curve-{number}').trim()"
            )
            label = drawn(page, f"series[{first + number}].label", chart=plot)
            assert "outlier" in label
            assert (
                page.evaluate(
                    f"document.querySelectorAll('figure.chart')[{plot}].chart.plot.series[{first + number}].stroke()"
                )
                == own
            )
    keys = page.locator(".key").evaluate_all("all => all.map(each => each.className)")
    assert keys == ["key vector-1", "key vector-2"]


def test_a_sweep_over_names_shows_them(server: Any, open_page: OpenPage) -> None:
    names = ["tanh", "relu", "gelu"]
    panel = {
        "title": "names",
        "x_label": "activation",
        "y_label": "largest",
        "x_scale": "linear",
        "y_scale": "linear",
        "x_categories": names,
        "curves": [{"label": "a", "x": [0, 1, 2], "y": [1.0, 3.0, 2.0], "style": "markers"}],
    }
    page = open_page(server.url, "#/figures", wait_for="table")
    page.evaluate(
        "async (panel) => { const { panelChart } = await import('./page/chart.js');"
        " document.getElementById('content').replaceChildren(panelChart(panel)); }",
        panel,
    )
    shown = drawn(page, "axes[0]._values")
    assert [each for each in shown if each] == names


def test_the_part_that_is_shown_is_in_the_address(server: Any, open_page: OpenPage, results: dict[str, str]) -> None:
    page = open_page(server.url, f"#/jobs/{results['lanczos']}", wait_for=".u-over")
    page.locator("figure.chart").first.focus()
    page.keyboard.press("+")
    page.wait_for_url(re.compile("zoom="))
    part = [float(each) for each in page.url.split("zoom=")[1].split("%2C")]
    page.reload()
    page.wait_for_selector(".u-over")
    assert [drawn(page, "scales.x.min"), drawn(page, "scales.x.max")] == pytest.approx(part)
    page.locator("#curve").select_option("cumulative")
    page.locator("figure.chart").first.focus()
    page.keyboard.press("0")
    page.wait_for_url(lambda url: "zoom" not in url)


def test_the_bulk_is_drawn_by_itself_and_may_have_many_points(
    server: Any, open_page: OpenPage, results: dict[str, str]
) -> None:
    page = open_page(server.url, f"#/jobs/{results['lanczos']}?num_points=10000", wait_for=".u-legend")
    expect(page.get_by_role("heading", name="The bulk, from")).to_be_visible()
    while drawn(page, "data[0].length") != 10_000:
        page.wait_for_timeout(50)
    lower, upper = (
        float(each) for each in re.findall(r"-?[\d.]+", page.get_by_role("heading", name="The bulk").inner_text())
    )
    grid = drawn(page, "data[0]", chart=1)
    assert 0 < len(grid) < 10_000
    assert (min(grid), max(grid)) == pytest.approx((lower, upper), abs=0.01)


def test_numbers_of_every_eigenvalue(server: Any, open_page: OpenPage, results: dict[str, str]) -> None:
    page = open_page(server.url, f"#/jobs/{results['exact']}?curve=histogram&y=log", wait_for=".u-legend")
    result = httpx.get(f"{server.url}/v1/jobs/{results['exact']}/result").json()
    magnitudes = [abs(each) for each in result["eigenvalues"] if abs(each) > result["zero_threshold"]]
    shown = fact(page, "Condition number").inner_text()
    assert float(shown.split()[0]) == pytest.approx(max(magnitudes) / min(magnitudes), rel=1e-3)
    assert f"without the {result['inertia']['zero']} zeros" in shown
    expect(fact(page, "Inertia")).to_contain_text(f"{result['inertia']['negative']} negative")
    heights = drawn(page, "data[1]")
    assert sum(each for each in heights if each >= 1) == len(result["eigenvalues"])
    page.locator("#curve").select_option("cumulative")
    expect(legend(page, "share of eigenvalues")).to_be_visible()


def test_several_densities_are_overlaid(server: Any, open_page: OpenPage, results: dict[str, str]) -> None:
    page = open_page(server.url, "#/jobs?tag=method:lanczos", wait_for="tbody tr")
    other = httpx.post(
        f"{server.url}/v1/jobs",
        json=JOB | {"method": METHODS["lanczos"], "seed": 5, "tags": {"method": "lanczos"}},
        headers={"Prefer": "wait=30"},
    ).json()["id"]
    for job_id in (results["lanczos"], other):
        page.locator(f"tr[data-job='{job_id}'] input[type=checkbox]").check()
    page.get_by_role("button", name="Overlay").click()
    for job_id in (results["lanczos"], other):
        expect(legend(page, job_id[:12])).to_be_visible()
    page.goto(f"{server.url}/#/jobs/{other},{results['exact']}")
    expect(page.get_by_text(f"Without such a curve: {results['exact'][:16]}")).to_be_visible()
    with SpectrumClient(server.url) as client:
        for job_id in (other, results["exact"]):
            largest = client.result(job_id)
            value = largest.largest.value if job_id == other else max(largest.eigenvalues)
            cell = page.locator("tr", has_text=job_id[:12]).locator("td").last.inner_text()
            assert float(cell.split()[0]) == pytest.approx(value, rel=1e-5)
    page.locator("#curve").select_option("cumulative")  # which every eigenvalue has, too
    expect(legend(page, results["exact"][:12])).to_be_visible()
    page.wait_for_url(re.compile("curve=cumulative"))


def test_a_running_job_is_seen_and_cancelled_from_the_list(server: Any, open_page: OpenPage) -> None:
    page = open_page(server.url, "#/jobs", wait_for="table")
    job_id = httpx.post(f"{server.url}/v1/jobs", json=LONG, headers={"Cache-Control": "no-cache"}).json()["id"]
    row = page.locator(f"tr[data-job='{job_id}']")
    expect(row).to_contain_text("running")
    expect(row).to_contain_text("per second")
    row.get_by_role("button", name="Cancel").click()
    expect(row).to_contain_text("cancelled")
    row.get_by_role("button", name="Delete").click()
    expect(row).to_have_count(0)


def test_a_density_is_drawn_while_it_is_computed(server: Any, open_page: OpenPage) -> None:
    running = JOB | {
        "model": {"kind": "mlp", "widths": [64, 400, 400, 10]},
        "data": {"kind": "digits"},
        "method": {"kind": "lanczos", "num_steps": 30, "num_probes": 20},
    }
    with SpectrumClient(server.url) as client:
        job_id = client.submit(running, fresh=True).id
    page = open_page(server.url, f"#/jobs/{job_id}")
    expect(page.get_by_role("heading", name="Interim result")).to_be_visible()
    expect(legend(page, "density")).to_be_visible()
    probes = page.locator("dt", has_text="Probes").locator("xpath=following-sibling::dd[1]")
    first = probes.inner_text()
    page.get_by_label("Curve").select_option("cumulative")
    expect(probes).not_to_have_text(first, timeout=60_000)
    assert page.get_by_label("Curve").input_value() == "cumulative"
    expect(page.locator("dd", has_text="succeeded")).to_be_visible(timeout=60_000)
    expect(page.get_by_role("button", name="NPZ")).to_be_visible()
    expect(probes).to_have_text("20, of 30 steps each")
    assert page.get_by_label("Curve").input_value() == "cumulative"


def test_sliders_of_closed_forms_move_the_numbers(server: Any, open_page: OpenPage) -> None:
    page = open_page(server.url, "#/closed-form", wait_for=".u-legend")
    answers: list[Response] = []
    page.on("response", lambda answer: answers.append(answer) if answer.url.endswith("closed-form") else None)
    for kind, name in (("linear", "w"), ("relu", "positive"), ("self-attention", "sink")):
        page.locator("#kind").select_option(kind)
        slider = page.locator(f"#{name}")
        expect(slider).to_be_visible()
        slider.fill("3.5")
        page.wait_for_timeout(500)
        sharpness = answers[-1].json()["sharpness"]
        shown = page.locator("dt", has_text="Sharpness").locator("xpath=following-sibling::dd[1]")
        expect(shown).to_have_text(re.compile(re.escape(f"{sharpness:.6g}"[:5])))
        assert f"{name}=3.5" in page.url


def test_sliders_of_random_matrices_move_the_law(server: Any, open_page: OpenPage) -> None:
    page = open_page(server.url, "#/random-matrix", wait_for=".u-legend")
    with page.expect_response(lambda answer: answer.url.endswith("random-matrix")) as last:
        page.locator("#energy").fill("0.5")
    index = last.value.json()["index"]
    shown = page.locator("dt", has_text="Index").locator("xpath=following-sibling::dd[1]")
    expect(shown).to_have_text(re.compile(f"{index:.4f}"[:6]))
    page.get_by_role("button", name="Sample a matrix").click()
    expect(legend(page, "sampled matrix")).to_be_visible()


def test_eigenvectors_and_gradient_descent_move_with_the_sliders(server: Any, open_page: OpenPage) -> None:
    page = open_page(server.url, "#/closed-form", wait_for=".plane svg")
    drawing = page.locator(".plane svg").first
    before = drawing.get_attribute("aria-label")
    page.locator("#cosine").fill("1")
    expect(drawing).not_to_have_attribute("aria-label", before or "")
    places = re.findall(r"at \((\S+), (\S+)\)", drawing.get_attribute("aria-label") or "")
    assert len(places) == 2
    assert all(abs(float(up)) < 1e-9 for _, up in places)  # w and v have one direction
    shares = (
        page.locator(".plane, .planes + .scroll").last.locator("tbody tr").first.locator("td").all_inner_texts()[1:]
    )
    assert sum(map(float, shares)) == pytest.approx(1, abs=2e-3)
    page.locator("#rate").fill("1")
    expect(page.get_by_text("2 / learning rate is 2.")).to_be_visible()
    page.locator("#residual").fill("0")
    expect(page.locator("output[for=covariance]")).to_have_text("1.5")  # that of the outputs: 1.5 x 1 x 1
    bulk = page.locator(".scroll tr", has_text="bulk").first.locator("td").first
    expect(bulk).to_have_text(re.compile(r"^-?(0|\d.*e-1\d)$"))


def test_the_server_is_seen_at_work(server: Any, open_page: OpenPage) -> None:
    running = JOB | {"model": {"kind": "mlp", "widths": [64, 400, 400, 10]}, "data": {"kind": "digits"}}
    running["method"] = {"kind": "trace", "num_probes": 1000, "estimator": "hutchinson"}
    with SpectrumClient(server.url) as client:
        job_id = client.submit(running, fresh=True).id
        page = open_page(server.url, "#/server", wait_for="table")
        expect(page.locator("main")).to_contain_text("accepts closed forms and jobs")
        expect(fact(page, "Jobs")).to_contain_text("1 running")
        expect(fact(page, "Disk")).to_contain_text(re.compile(r"\d (GiB|TiB) free"))
        worker = httpx.get(f"{server.url}/v1/health/ready").json()["workers"][0]
        row = page.locator("tbody tr", has_text=worker["name"])
        expect(row.locator("td").nth(2)).to_have_text(str(worker["num_threads"]))
        expect(page.get_by_text(re.compile(r"^[1-9][\d.,]* over the last"))).to_be_visible()
        client.cancel(job_id)
        expect(fact(page, "Jobs")).to_contain_text("0 running")


def test_the_keyboard_alone_reaches_every_view(server: Any, open_page: OpenPage) -> None:
    page = open_page(server.url)
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.textContent") == "Skip to the content"
    for view in VIEWS:
        page.keyboard.press("Tab")
        page.keyboard.press("Enter")
        expect(page.locator("nav a[aria-current=page]")).to_have_attribute("href", f"#/{view}")
        page.wait_for_selector("h1")


@pytest.fixture(scope="module")
def guarded(start_server: Callable[..., Any], tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, str]:
    directory = tmp_path_factory.mktemp("guarded") / "data"
    text = KeyStore(directory / "keys.json").add("Anna")
    return start_server(directory), text


@pytest.mark.allowed("401")
def test_a_key_is_asked_for_and_a_wrong_one_is_told(guarded: tuple[Any, str], open_page: OpenPage) -> None:
    server, text = guarded
    page = open_page(server.url, "#/jobs", wait_for="#key-input")
    expect(page.locator("#key-message")).to_contain_text("requires an API key")
    page.locator("#key-input").fill("wrong")
    page.keyboard.press("Enter")
    expect(page.locator("#key-message")).to_contain_text("does not know this key")
    page.locator("#key-input").fill(text)
    page.keyboard.press("Enter")
    expect(page.locator("table")).to_be_visible()
    expect(page.locator("#key-dialog")).to_be_hidden()
    job_id = httpx.post(
        f"{server.url}/v1/jobs", json=JOB | {"method": METHODS["trace"]}, headers={"Authorization": f"Bearer {text}"}
    ).json()["id"]
    expect(page.locator(f"tr[data-job='{job_id}']")).to_contain_text("succeeded")
    page.goto(f"{server.url}/#/server")
    expect(fact(page, "Jobs")).to_contain_text("succeeded")  # metrics need the key, too


@pytest.mark.allowed("Failed to load resource")
def test_a_list_that_could_not_be_fetched_is_fetched_later(server: Any, open_page: OpenPage) -> None:
    page = open_page(server.url, "#/nowhere")
    failures = iter(["abort", "refuse"])

    def fail(route: Route) -> None:
        kind = next(failures, None)
        if kind == "abort":
            route.abort()
        elif kind == "refuse":
            route.fulfill(status=503, json={"title": "Not ready", "status": 503})
        else:
            route.continue_()

    page.route(re.compile(r"/v1/jobs\?"), fail)
    page.goto(f"{server.url}/#/jobs")
    job_id = httpx.post(f"{server.url}/v1/jobs", json=JOB | {"method": METHODS["trace"]}).json()["id"]
    expect(page.locator(f"tr[data-job='{job_id}']")).to_contain_text("succeeded")
    assert next(failures, None) is None


@pytest.mark.allowed("ERR_", "Failed to load resource", "503")
def test_a_list_goes_on_when_the_server_was_restarted_underneath(
    start_server: Callable[..., Any], tmp_path: Path, open_page: OpenPage
) -> None:
    server = start_server(tmp_path / "data")
    page = open_page(server.url, "#/jobs", wait_for="table")
    for pid in server.pids("-m hessian_spectrum.service"):
        os.kill(pid, signal.SIGKILL)
    server.wait_until_ready()
    job_id = httpx.post(f"{server.url}/v1/jobs", json=JOB | {"method": METHODS["trace"]}).json()["id"]
    expect(page.locator(f"tr[data-job='{job_id}']")).to_contain_text("succeeded")


def test_five_hundred_jobs_are_listed_sorted_and_selected(server: Any, open_page: OpenPage) -> None:
    with SpectrumClient(server.url) as client:
        request = JOB | {"method": METHODS["trace"], "tags": {"crowd": "yes"}}
        for _ in range(500):
            client.submit(request)
    page = open_page(server.url, "#/jobs?tag=crowd:yes", wait_for="tbody tr")
    while (more := page.get_by_role("button", name="Older jobs")).is_visible():
        count = page.locator("tbody tr").count()
        more.click()
        expect(page.locator("tbody tr")).not_to_have_count(count)
    assert page.locator("tbody tr").count() == 500
    page.get_by_role("button", name="State").click()
    page.locator("tbody tr input").last.check()
    expect(page.locator("tbody tr input").last).to_be_checked()


def test_older_jobs_go_on_where_they_were_when_the_first_page_comes_again(server: Any, open_page: OpenPage) -> None:
    with SpectrumClient(server.url) as client:
        request = JOB | {"method": METHODS["trace"], "tags": {"pages": "three"}}
        for _ in range(401):
            client.submit(request)
    page = open_page(server.url, "#/nowhere")
    streams: list[Route] = []

    def hold(route: Route) -> None:
        streams.append(route)

    page.route(re.compile(r"/v1/events"), hold)
    page.goto(f"{server.url}/#/jobs?tag=pages:three")
    expect(page.locator("tbody tr")).to_have_count(200)
    page.get_by_role("button", name="Older jobs").click()
    expect(page.locator("tbody tr")).to_have_count(400)
    with page.expect_response(re.compile(r"/v1/jobs\?")):
        streams[0].continue_()
    page.get_by_role("button", name="Older jobs").click()
    expect(page.locator("tbody tr")).to_have_count(401)
    expect(page.get_by_role("button", name="Older jobs")).to_be_hidden()


def test_what_is_not_there_is_said(server: Any, open_page: OpenPage) -> None:
    page = open_page(server.url, "#/nowhere")
    expect(page.locator("h1")).to_have_text("There is no such view")


@pytest.mark.allowed("404")
def test_an_unknown_job_is_said(server: Any, open_page: OpenPage) -> None:
    page = open_page(server.url, f"#/jobs/{'0' * 32}", wait_for="[role=alert]")
    expect(page.locator("[role=alert]")).to_contain_text("job")
    expect(page.get_by_text("Use the result elsewhere")).to_have_count(0)


def test_the_page_forbids_inline_code_and_other_hosts(server: Any) -> None:
    policy = httpx.get(server.url).headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "script-src 'self';" in policy
    assert "style-src 'self';" in policy
    for word in ("unsafe", "http:", "https:", "*"):
        assert word not in policy
    files = Path("service/hessian_spectrum/service/page")
    for path in files.iterdir():
        text = path.read_text()
        assert not re.search(r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|\beval\(|new Function", text), (
            path
        )
        assert not re.search(r"https?://(?!www\.w3\.org/2000/svg)", text), path
