"""`python -m benchmarks.doc_images`: make the pictures in docs/images again, from the requests printed before them.

The picture of the README is one of the demo's. Each of the others is the picture of the request in the nearest block of
commands before it, or is written by the nearest program before it, so that a document cannot show a picture of
something else than it says. Pictures of the page are taken in Chromium. Takes about a quarter of an hour on two cores.
"""

import argparse
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import httpx
from playwright.sync_api import sync_playwright

from benchmarks.stack import RunningStack
from hessian_spectrum.client.http import SpectrumClient

ROOT = Path(__file__).parents[1]
IMAGES = ROOT / "docs" / "images"
DEMO_IMAGE = "digits-density"
PROGRAM = "program"
"""Stands for an endpoint where a program writes the picture."""

PAGE_VIEWS = {"page-result": "#/jobs/{job_id}", "page-closed-form": "#/closed-form?kind=self-attention&sink=1"}
"""Views of the page in pictures, by the name of the picture; `job_id` is that of the README's job."""

WRITTEN_URL = "http://127.0.0.1:8000"
_BLOCK_OR_IMAGE = re.compile(
    r"^```(?P<language>bash|python)\n(?P<text>.*?)^```$|^!\[.*?\]\(.*?images/(?P<name>[\w-]+)\.png\)",
    re.MULTILINE | re.DOTALL,
)


def image_requests() -> dict[str, tuple[str, str]]:
    """For each image in docs/, the endpoint and the JSON body of the last request before it, or the program."""
    requests = {}
    for document in sorted((ROOT / "docs").rglob("*.md")):
        sent: list[tuple[str, str]] = []
        for match in _BLOCK_OR_IMAGE.finditer(document.read_text()):
            if match["name"] in PAGE_VIEWS:
                continue
            if match["name"]:
                requests[match["name"]] = sent[-1]
            elif match["language"] == "python":
                sent.append((PROGRAM, match["text"]))
            else:
                sent += _requests(match["text"])
    return requests


def _requests(commands: str) -> Iterator[tuple[str, str]]:
    for command in re.split(r"^(?=curl )", commands, flags=re.M):
        words = shlex.split(command, comments=True)
        if words[:1] == ["curl"] and "-d" in words:
            (url,) = (word for word in words if word.startswith("http://"))
            yield url.partition("/v1/")[2], words[words.index("-d") + 1]


def make_image(name: str, url: str) -> bytes:
    """The PNG of one image.

    Args:
        name: File name without its ending.
        url: Address of a running server.
    """
    if name == DEMO_IMAGE:
        return _demo_image()
    if name in PAGE_VIEWS:
        return _page_image(PAGE_VIEWS[name], url)
    endpoint, body = image_requests()[name]
    if endpoint == PROGRAM:
        return _written_image(name, body.replace(WRITTEN_URL, url))
    if endpoint != "jobs":
        headers = {"Content-Type": "application/json", "Accept": "image/png"}
        return httpx.post(f"{url}/v1/{endpoint}", content=body, headers=headers, timeout=120).raise_for_status().content
    with SpectrumClient(url) as client:
        job = client.wait(client.submit(json.loads(body)).id)
        return client.result_file(job.id, "png")


def _demo_image() -> bytes:
    with tempfile.TemporaryDirectory() as directory:
        program = Path(sys.executable).with_name("spectrum-server")
        subprocess.run([program, "demo", "--output", directory], check=True)
        return (Path(directory) / f"{DEMO_IMAGE}.png").read_bytes()


def _page_image(view: str, url: str) -> bytes:
    with SpectrumClient(url) as client:
        requests = dict(_requests((ROOT / "README.md").read_text().partition("## Submit a job")[2].split("```")[1][5:]))
        job_id = client.wait(client.submit(json.loads(requests["jobs"])).id).id
    options = ["--no-sandbox"] if os.getuid() == 0 else []
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=options)
        page = browser.new_page(viewport={"width": 1100, "height": 820})
        page.goto(f"{url}/{view.format(job_id=job_id)}")
        page.wait_for_selector(".u-legend")
        page.wait_for_load_state("networkidle")
        picture = page.screenshot()
        browser.close()
    return picture


def _written_image(name: str, program: str) -> bytes:
    with tempfile.TemporaryDirectory() as directory:
        subprocess.run([sys.executable, "-c", program], cwd=directory, check=True)
        return (Path(directory) / f"{name}.png").read_bytes()


def main() -> None:
    names = sorted([DEMO_IMAGE, *PAGE_VIEWS, *image_requests()])
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("names", nargs="*", default=names, help=f"images to make; default: {', '.join(names)}")
    parser.add_argument("--url", help="a running server; default: one is started and stopped")
    arguments = parser.parse_args()
    if unknown := set(arguments.names) - set(names):
        parser.error(f"unknown image {', '.join(sorted(unknown))}")

    def make_all(url: str) -> None:
        for name in arguments.names:
            (IMAGES / f"{name}.png").write_bytes(make_image(name, url))
            print(f"docs/images/{name}.png", flush=True)

    if arguments.url:
        make_all(arguments.url)
    else:
        with tempfile.TemporaryDirectory() as directory, RunningStack(Path(directory) / "data", 1) as stack:
            make_all(stack.url)


if __name__ == "__main__":
    main()
