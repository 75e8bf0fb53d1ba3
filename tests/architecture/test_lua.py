"""The Lua scripts that Redis runs: each parses, uses only names that exist, and defines none in vain."""

from collections.abc import Iterator
from functools import cache
from importlib import resources

import pytest
from luaparser import ast, astnodes

from hessian_spectrum.jobs.scripts import constants_text, script_names, script_text

LUA = resources.files("hessian_spectrum.jobs") / "lua"
INCLUDES = sorted(path.name for path in (LUA / "include").iterdir())
BUILT_IN = {"KEYS", "ARGV", "redis", "cjson", "ipairs", "pairs", "string", "table", "tonumber", "unpack"}
"""Global names of Lua 5.1 and Redis that scripts may use."""

Scope = dict[str, bool]
"""For each local name of a block, whether it was read."""


class Linter:
    """Follows the scopes of a script and notes what `luacheck` would."""

    def __init__(self, text: str) -> None:
        self.undefined: set[str] = set()
        self.unused: set[str] = set()
        self.assigned_globals: set[str] = set()
        self._scopes: list[Scope] = []
        self._block(ast.parse(text).body)

    def _block(self, block: astnodes.Block, *names: astnodes.Node) -> None:
        self._scopes.append({name.id: True for name in names if isinstance(name, astnodes.Name)})
        for statement in block.body:
            self._visit(statement)
        self.unused |= {name for name, was_read in self._scopes.pop().items() if not was_read and name != "_"}

    def _visit(self, node: object) -> None:
        match node:
            case astnodes.Name():
                self._read(node.id)
            case astnodes.LocalAssign():
                self._visit_all(node.values)
                self._scopes[-1] |= {target.id: False for target in node.targets}
            case astnodes.LocalFunction():
                self._scopes[-1][node.name.id] = False
                self._block(node.body, *node.args)
            case astnodes.AnonymousFunction():
                self._block(node.body, *node.args)
            case astnodes.Function():
                self.assigned_globals.add(node.name.id)
                self._block(node.body, *node.args)
            case astnodes.Assign():
                self._visit_all(node.values)
                for target in node.targets:
                    self._assign(target)
            case astnodes.Forin():
                self._visit_all(node.iter)
                self._block(node.body, *node.targets)
            case astnodes.Fornum():
                self._visit_all([node.start, node.stop, node.step])
                self._block(node.body, node.target)
            case astnodes.Block():
                self._block(node)
            case astnodes.Index():
                self._visit(node.value)
                if node.notation == astnodes.IndexNotation.SQUARE:
                    self._visit(node.idx)
            case astnodes.Field():
                self._visit(node.value)
                if node.between_brackets:
                    self._visit(node.key)
            case astnodes.Node():
                self._visit_all(each for name, each in vars(node).items() if not name.startswith("_"))
            case list():
                self._visit_all(node)

    def _visit_all(self, nodes: object) -> None:
        for node in nodes:  # type: ignore[attr-defined]
            self._visit(node)

    def _assign(self, target: astnodes.Node) -> None:
        if not isinstance(target, astnodes.Name):
            self._visit(target)
        elif not any(target.id in scope for scope in self._scopes):
            self.assigned_globals.add(target.id)

    def _read(self, name: str) -> None:
        for scope in reversed(self._scopes):
            if name in scope:
                scope[name] = True
                return
        if name not in BUILT_IN:
            self.undefined.add(name)


@cache
def linted(name: str) -> Linter:
    """A script as Redis gets it."""
    return Linter(script_text(name))


def included_names() -> set[str]:
    """Names that constants and includes define."""
    texts = [constants_text(), *((LUA / "include" / name).read_text() for name in INCLUDES)]
    return {name for text in texts for name in defined_names(text)}


def defined_names(text: str) -> Iterator[str]:
    for statement in ast.parse(text).body.body:
        match statement:
            case astnodes.LocalAssign():
                yield from (target.id for target in statement.targets)
            case astnodes.LocalFunction():
                yield statement.name.id


@pytest.mark.parametrize("name", script_names())
def test_a_script_uses_only_what_is_defined_and_defines_only_what_it_uses(name: str) -> None:
    assert linted(name).undefined == set()
    assert linted(name).assigned_globals == set()  # Redis refuses them, but only when they are reached
    assert linted(name).unused <= included_names()


def test_every_name_of_an_include_is_used_by_some_script() -> None:
    unused = [linted(name).unused for name in script_names() if '--- @include "job"' in source(name)]
    unused_shard = [linted(name).unused for name in script_names() if '--- @include "shard"' in source(name)]
    constants = set(defined_names(constants_text()))
    assert set.intersection(*unused) == set()
    assert set.intersection(*unused_shard) <= constants


def source(name: str) -> str:
    return (LUA / f"{name}.lua").read_text()


@pytest.mark.parametrize(
    ("text", "faults"),
    [
        ("local a = 1 return b", ({"b"}, {"a"}, set())),
        ("local function f(x) return y(x) end return f(1)", ({"y"}, set(), set())),
        ("for i, j in pairs(KEYS) do redis.call(i) k = j end", (set(), set(), {"k"})),
        ("local t = {a = 1, [b] = 2} return t.c, t[d]", ({"b", "d"}, set(), set())),
        ("if x then local y = 1 end return y", ({"x", "y"}, {"y"}, set())),
    ],
)
def test_the_linter_finds_faults(text: str, faults: tuple[set[str], set[str], set[str]]) -> None:
    found = Linter(text)
    assert (found.undefined, found.unused, found.assigned_globals) == faults


def test_the_linter_refuses_what_does_not_parse() -> None:
    with pytest.raises(ast.SyntaxException):
        Linter("local function f( return 1")


def test_every_script_that_changes_the_state_publishes_an_event() -> None:
    """Clients wait for these events."""
    changing = {name for name in script_names() if "change_state(" in source(name)}
    assert changing >= {"create_jobs", "claim_job", "finish_job", "requeue_job", "cancel_job", "recover_job"}
    assert {name for name in changing if "publish_event()" not in source(name)} == set()
