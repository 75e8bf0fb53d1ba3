"""Every configuration in the documents is one that its program takes.

Programs that read it are asked where they are installed: promtool, nginx, and docker with compose. What can be said
without them is always checked.
"""

import itertools
import json
import os
import re
import shlex
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import redis
import yaml

from hessian_spectrum.api_schemas.closed_form import ClosedFormRequest
from hessian_spectrum.api_schemas.closed_form_batch import ClosedFormBatch
from hessian_spectrum.api_schemas.jobs import JobBatch, JobRequest
from hessian_spectrum.api_schemas.random_matrix import RandomMatrixRequest
from tests.docs.blocks import ROOT, Block, blocks
from tests.docs.test_references import known_settings

BLOCKS = blocks()
DEPLOYMENT = (ROOT / "docs" / "deployment.md").read_text()
COMPOSE = yaml.safe_load((ROOT / "docker-compose.yml").read_text())
GPU = yaml.safe_load((ROOT / "docker-compose.gpu.yml").read_text())
REQUESTS = {
    "closed-form": ClosedFormRequest,
    "closed-form/batch": ClosedFormBatch,
    "random-matrix": RandomMatrixRequest,
    "jobs": JobRequest,
    "jobs/batch": JobBatch,
    "estimates": JobRequest,
}
DURATION = re.compile(r"(\d+(ms|[smhdwy]))+")


class StrictLoader(yaml.SafeLoader):
    """Refuses a mapping that has a key twice, of which others keep the last."""

    def construct_mapping(self, node: Any, deep: bool = False) -> dict[Any, Any]:
        keys = [key.value for key, _ in node.value]
        assert len(keys) == len(set(keys)), f"keys twice: {keys}"
        return super().construct_mapping(node, deep)


def load(text: str) -> Any:
    return yaml.load(text, StrictLoader)


def of_language(*languages: str) -> list[Any]:
    return [pytest.param(block, id=block.place) for block in BLOCKS if block.language in languages]


def of_shape(*keys: str) -> list[Any]:
    """YAML whose top level has these keys; what cannot be parsed is in all of them."""

    def has_them(text: str) -> bool:
        try:
            return set(keys) <= set(load(text))
        except yaml.YAMLError:
            return True

    return [param for param in of_language("yaml") if has_them(param.values[0].text)]


def ask(command: list[str]) -> None:
    """A program that is installed agrees."""
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0, done.stdout + done.stderr


def needs(program: str) -> str:
    path = shutil.which(program, path=f"{os.environ['PATH']}:/usr/sbin")
    return path or pytest.skip(f"{program} is not installed")


def test_every_block_says_what_it_is() -> None:
    """A block without a language would be checked by nobody."""
    known = {"bash", "diff", "json", "python", "yaml", "nginx", "dotenv", "redis", "text"}
    assert [block.place for block in BLOCKS if block.language not in known] == []


# YAML: compose files and Prometheus


@pytest.mark.parametrize("block", of_language("yaml"))
def test_yaml_is_valid_and_of_a_program_that_is_known(block: Block) -> None:
    assert set(load(block.text)) & {"services", "groups", "scrape_configs"}


@pytest.mark.parametrize("block", of_shape("groups"))
def test_alert_rules_are_rules_about_metrics_that_there_are(block: Block) -> None:
    metrics = set(re.findall(r"`(spectrum_\w+)", DEPLOYMENT))
    for group in load(block.text)["groups"]:
        assert set(group) <= {"name", "interval", "rules"}
        for rule in group["rules"]:
            assert set(rule) <= {"alert", "expr", "for", "labels", "annotations"}
            assert re.fullmatch(r"\w+", rule["alert"])
            assert DURATION.fullmatch(rule.get("for", "1m"))
            expression = rule["expr"]
            for opening, closing in ("()", "[]", "{}"):
                assert expression.count(opening) == expression.count(closing), expression
            assert all(DURATION.fullmatch(each) for each in re.findall(r"\[(.*?)\]", expression))
            named = {re.sub("_count$", "", name) for name in re.findall(r"\bspectrum_\w+", expression)}
            assert named, expression
            assert named <= metrics


@pytest.mark.parametrize("block", of_shape("groups"))
def test_promtool_takes_the_rules(block: Block, tmp_path: Path) -> None:
    promtool = needs("promtool")
    file = tmp_path / "rules.yml"
    file.write_text(block.text)
    ask([promtool, "check", "rules", str(file)])


@pytest.mark.parametrize("block", of_shape("scrape_configs"))
def test_promtool_takes_the_configuration(block: Block, tmp_path: Path) -> None:
    jobs = load(block.text)["scrape_configs"]
    assert all({"job_name", "static_configs"} <= set(job) for job in jobs)
    promtool = needs("promtool")
    file = tmp_path / "prometheus.yml"
    file.write_text(block.text)
    ask([promtool, "check", "config", "--syntax-only", str(file)])


@pytest.mark.parametrize("block", of_shape("services"))
def test_overrides_name_services_networks_and_variables_of_the_stack(block: Block) -> None:
    override = load(block.text)
    assert set(override["services"]) <= set(COMPOSE["services"]) | set(GPU["services"])
    assert set(override.get("volumes", {})) <= set(COMPOSE["volumes"])
    for service in override["services"].values():
        assert set(service.get("networks", [])) <= set(COMPOSE["networks"])
        assert set(service.get("environment", {})) <= known_settings()


@pytest.mark.parametrize("block", of_shape("services"))
def test_compose_takes_the_overrides(block: Block, tmp_path: Path) -> None:
    docker = needs("docker")
    if subprocess.run([docker, "compose", "version"], capture_output=True, check=False, timeout=60).returncode:
        pytest.skip("docker has no compose")
    override, variables = tmp_path / "override.yml", tmp_path / "env"
    override.write_text(block.text)
    variables.write_text("SPECTRUM_REDIS_PASSWORD=password\n")
    files = ["-f", str(ROOT / "docker-compose.yml"), "-f", str(override)]
    ask([docker, "compose", "--env-file", str(variables), *files, "config", "-q"])


# nginx, the environment, Redis


@pytest.mark.parametrize("block", of_language("nginx"))
def test_nginx_configurations(block: Block, tmp_path: Path) -> None:
    assert block.text.count("{") == block.text.count("}")
    for line in filter(None, map(str.strip, block.text.splitlines())):
        assert line[-1] in ";{}", line
    nginx = needs("nginx")
    file = tmp_path / "nginx.conf"
    server = f"server {{ listen 127.0.0.1:8080; access_log off;\n{block.text}\n}}"
    paths = "".join(f"{kind}_temp_path {tmp_path};" for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi"))
    file.write_text(f"pid {tmp_path}/pid; error_log stderr; events {{}}\nhttp {{ {paths}\n{server} }}\n")
    ask([nginx, "-t", "-e", "stderr", "-c", str(file), "-p", str(tmp_path)])


@pytest.mark.parametrize("block", of_language("dotenv"))
def test_variables_are_those_that_compose_knows(block: Block) -> None:
    for line in block.text.splitlines():
        name, separator, value = line.partition("=")
        assert separator
        assert value
        assert name in {"COMPOSE_FILE", "COMPOSE_PROFILES"} or name in (ROOT / "docker-compose.yml").read_text()
        if name == "COMPOSE_FILE":
            assert all((ROOT / file).exists() for file in value.split(":"))
        if name == "COMPOSE_PROFILES":
            assert set(value.split(",")) <= {p for s in GPU["services"].values() for p in s.get("profiles", [])}


@pytest.mark.parametrize("block", of_language("redis"))
def test_redis_takes_the_users_and_the_containers_have_the_same(block: Block, redis_client: redis.Redis) -> None:
    of_the_containers = COMPOSE["services"]["redis"]["command"][0].replace("$$REDISCLI_AUTH", "PASSWORD")
    for line in block.text.splitlines():
        word, name, *rules = line.split()
        assert word == "user"
        assert line in of_the_containers
        try:
            assert redis_client.execute_command("ACL", "SETUSER", f"document-{name}", *rules)
        finally:
            redis_client.execute_command("ACL", "DELUSER", f"document-{name}")


# commands, their bodies, programs


@pytest.mark.parametrize("block", of_language("bash"))
def test_bash_parses_the_commands(block: Block) -> None:
    done = subprocess.run(["bash", "-n"], input=block.text, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("block", of_language("bash"))
def test_bodies_that_commands_send_are_requests(block: Block) -> None:
    for endpoint, body in _sent(block.text):
        request = json.loads(body)
        for item in request.get("items", ()):
            ClosedFormRequest.model_validate(item)
        for job in request.get("jobs", ()):
            JobRequest.model_validate(job)
        if '"ID of ' not in body and "checkpoint" not in body:  # which this machine would have to hold
            REQUESTS[endpoint].model_validate(request)


@pytest.mark.parametrize("block", of_language("json"))
def test_json_is_json(block: Block) -> None:
    json.loads(block.text.replace(", ...", ""))  # what an answer goes on with


@pytest.mark.parametrize("block", of_language("python"))
def test_python_compiles(block: Block) -> None:
    compile(block.text, block.place, "exec")


def _sent(commands: str) -> Iterator[tuple[str, str]]:
    """Endpoint and body of every request with a body in JSON."""
    for arguments in re.split(r"^(?=curl )", commands, flags=re.M):
        words = shlex.split(arguments, comments=True)
        for option, value in itertools.pairwise(words):
            if option == "-d" and words[0] == "curl":
                (url,) = (word for word in words if word.startswith("http://"))
                yield url.partition("/v1/")[2], value


# The tests above can fail.


@pytest.mark.parametrize(
    ("check", "language", "text"),
    [
        (test_yaml_is_valid_and_of_a_program_that_is_known, "yaml", "groups: [{expr: rate(a[30m]) == 0}]"),
        (test_yaml_is_valid_and_of_a_program_that_is_known, "yaml", "services: {a: 1, a: 2}"),
        (
            test_alert_rules_are_rules_about_metrics_that_there_are,
            "yaml",
            "groups: [{name: a, rules: [{alert: A, expr: 'spectrum_no_such_thing == 0'}]}]",
        ),
        (test_overrides_name_services_networks_and_variables_of_the_stack, "yaml", "services: {wroker: {}}"),
        (test_variables_are_those_that_compose_knows, "dotenv", "SPECTRUM_PROT=8000"),
        (test_bash_parses_the_commands, "bash", "echo 'a"),
        (test_bodies_that_commands_send_are_requests, "bash", "curl http://h/v1/jobs -d '{}'"),
        (test_json_is_json, "json", '{"a": 1,}'),
    ],
)
def test_a_wrong_block_is_found(check: Callable[[Block], None], language: str, text: str) -> None:
    with pytest.raises((AssertionError, ValueError, yaml.YAMLError)):
        check(Block("here", language, text))
