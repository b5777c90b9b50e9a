"""Writes `smar_model/stage_code.json`, which says what makes each stage's output: `make stage-code`.

- **Modules**: what the stage's `work` and `mended` import, and what that imports in turn, in `smar_model` and `jobs`. Imports inside
  functions count, those for type checkers do not. The search stops at what only carries (`CARRIERS`).
- **SQL and contracts**: what these modules hand to `OPENERS`. A function that hands one of its own parameters on is an opener too. Where the
  name is neither that nor a constant, it can only be one that the module spells in a string: all of these count, and if there are none, all
  files of that kind.
- **Templates**: a string that is the name of a file beside the module.
- **Distributions**: of the lock, those that these modules import themselves.

`tests/test_stage_code.py` fails where the file is not what this finds; `tests/end_to_end/test_daily_run.py` compares it with what stages open.
"""

from __future__ import annotations

import ast
import json
import re
import sys
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from fnmatch import fnmatch
from importlib.metadata import packages_distributions
from pathlib import Path

import grimp

from smar_model.lake.stage_code import STAGE_CODE
from smar_model.settings import REPOSITORY
from smar_model.stages import COMPARISON_STAGES, PARTS, REFRESH_STAGES, STAGES

PACKAGES = ("smar_model", "jobs")
CARRIERS = {
    "smar_model.small_start": "what a process that only asks does not import",
    "smar_model": "a docstring",
    "smar_model.url_secrets": "masks what people are shown",
    "smar_model.errors": "words of failures; a stage that fails publishes nothing",
    "smar_model.yaml_files": "reads settings, whose values are in the key",
    "smar_model.settings*": "likewise",
    "smar_model.lake*": "publishes, finds, verifies and copies bytes: a better lease must not throw away a week's pretraining",
    "smar_model.delivery.shop_inputs": "finds the shop's files; the digests of what it finds are in the key",
    "smar_model.training.launcher": "starts torchrun's processes",
    "smar_model.stages": "which stage reads what: inputs, settings and days are in the key",
    "smar_model.cli*": "arguments",
}
"""Modules that every process of a stage may load and no output depends on, and why. The search stops at them."""
SHAPING = {"smar_model.lake.contracts": "columns and types of what stages write"}
"""Modules among the carriers that are not: outputs depend on them."""
LOADED_BY_CARRIERS = {
    "smar_model.lake.contracts": "the lake refuses a table that is not as its contract says; it changes none",
    "smar_model.delivery.picture_stores": "`shop_inputs` names the place of the pictures by it",
    "smar_model.delivery.shop_time_zone": "`shop_inputs` reads the shop's time zone by it, which is in the digests of its tables",
}
"""What else carriers import: a process of any stage may load it, but it is no part of those stages that do not import it themselves."""
CARRIED_FILES = ("requirements.lock", "smar_model/stage_code.json")
"""Read for every stage's key."""


@dataclass(frozen=True, slots=True)
class Opener:
    """A function that opens `<folder>/<argument><suffix>` of the checkout."""

    folder: str
    suffix: str
    parameter: str

    def path(self, name: str) -> str:
        return f"{self.folder}/{name}{self.suffix}"


Function = tuple[str, str]
"""Module and name."""
OPENERS: dict[Function, Opener] = {
    ("jobs.spark_session", "run_sql"): Opener("sql", ".sql", "name"),
    ("smar_model.lake.contracts", "load_contract"): Opener("schemas", ".yaml", "table"),
}


class Source:
    """What the text of one module says."""

    def __init__(self, module: str) -> None:
        self.path = module_path(module)
        self.tree = ast.parse(self.path.read_text(encoding="utf-8"))
        self.strings = {
            node.value for node in ast.walk(self.tree) if isinstance(node, ast.Constant) and isinstance(node.value, str)
        }
        self.functions = {node.name: node for node in self.tree.body if isinstance(node, ast.FunctionDef)}
        self.names: dict[str, Function] = {name: (module, name) for name in self.functions}
        for node in ast.walk(self.tree):
            if isinstance(node, ast.ImportFrom) and node.module:
                self.names |= {alias.asname or alias.name: (node.module, alias.name) for alias in node.names}

    def mentions(self) -> Iterator[tuple[Function, ast.Call | None, ast.FunctionDef | None]]:
        """Each function that is mentioned by name: the call of it (None: it is not called there), and the function of the module around that."""
        for top in self.tree.body:
            around = top if isinstance(top, ast.FunctionDef) else None
            calls = {id(node.func): node for node in ast.walk(top) if isinstance(node, ast.Call)}
            for node in ast.walk(top):
                if isinstance(node, ast.Name) and node.id in self.names:
                    yield self.names[node.id], calls.get(id(node)), around

    def files_beside(self) -> set[str]:
        """Templates and the like that a string names."""
        named = {self.path.with_name(text) for text in self.strings if re.fullmatch(r"[\w-]+(\.[\w-]+)+", text)}
        return {relative(path) for path in named if path.is_file()}


def module_path(module: str) -> Path:
    path = REPOSITORY.joinpath(*module.split("."))
    return path / "__init__.py" if path.is_dir() else path.with_suffix(".py")


def relative(path: Path) -> str:
    return path.relative_to(REPOSITORY).as_posix()


def is_ours(module: str) -> bool:
    return module.partition(".")[0] in PACKAGES


def is_carrier(module: str) -> bool:
    return module not in SHAPING and any(fnmatch(module, name) for name in CARRIERS)


def parameters(function: ast.FunctionDef) -> list[str]:
    return [argument.arg for argument in (*function.args.posonlyargs, *function.args.args, *function.args.kwonlyargs)]


def opened_files(sources: Mapping[str, Source]) -> dict[str, set[str]]:
    """Module → SQL files and contracts that it opens."""
    openers = dict(OPENERS)
    while True:
        opened: dict[str, set[str]] = {module: set() for module in sources}
        handed_on: dict[Function, Opener] = {}
        for module, source in sources.items():
            for function, call, around in source.mentions():
                if not (opener := openers.get(function)):
                    continue
                argument: ast.expr | None = None
                if call:
                    names = parameters(sources[function[0]].functions[function[1]])
                    given = dict(zip(names, call.args, strict=False)) | {k.arg: k.value for k in call.keywords if k.arg}
                    argument = given.get(opener.parameter)
                if isinstance(argument, ast.Constant):
                    opened[module].add(opener.path(argument.value))
                elif around and isinstance(argument, ast.Name) and argument.id in parameters(around):
                    handed_on[module, around.name] = replace(opener, parameter=argument.id)
                else:
                    kind = {relative(path) for path in (REPOSITORY / opener.folder).glob(f"*{opener.suffix}")}
                    opened[module] |= {path for text in source.strings if (path := opener.path(text)) in kind} or kind
        if handed_on.items() <= openers.items():
            return opened
        openers |= handed_on


def closure(graph: grimp.ImportGraph, modules: Iterable[str]) -> set[str]:
    """Modules that these import, and that those import, up to what carries; with the packages that they are in."""
    found: set[str] = set()
    waiting = list(modules)
    while waiting:
        module = waiting.pop()
        if module in found or not is_ours(module) or is_carrier(module):
            continue
        found.add(module)
        waiting += [*graph.find_modules_directly_imported_by(module), module.rpartition(".")[0]]
    return found


def distributions(graph: grimp.ImportGraph, modules: Iterable[str]) -> set[str]:
    """Distributions, by their names in the lock, whose packages these modules import themselves."""
    imported = {name for module in modules for name in graph.find_modules_directly_imported_by(module)}
    packages = {name for name in imported if not is_ours(name)} - sys.stdlib_module_names
    providers = packages_distributions()
    return {re.sub(r"[-_.]+", "-", name).lower() for package in packages for name in providers[package]}


def find_stage_code() -> dict[str, dict[str, list[str]]]:
    """What `stage_code.json` holds: output → `files` and `distributions` that make it."""
    graph = grimp.build_graph(
        *PACKAGES, include_external_packages=True, exclude_type_checking_imports=True, cache_dir=None
    )
    sources = {module: Source(module) for module in graph.modules if is_ours(module)}
    opened = opened_files(sources)
    work = {
        stage.name: [stage.work, stage.mended or stage.work]
        for stage in (STAGES | COMPARISON_STAGES | REFRESH_STAGES).values()
    }
    work |= {name: [module] for name, module in PARTS.items()}
    found = {}
    for output, functions in sorted(work.items()):
        modules = closure(graph, {function.partition(":")[0] for function in functions})
        files = {relative(sources[module].path) for module in modules}
        files |= {file for module in modules for file in (*opened[module], *sources[module].files_beside())}
        found[output] = {"files": sorted(files), "distributions": sorted(distributions(graph, modules))}
    return found


def may_be_loaded(file: str) -> bool:
    """Whether a process of any stage may read a file of the checkout, by what carriers need."""
    module = file.removesuffix(".py").removesuffix("/__init__").replace("/", ".")
    if file in CARRIED_FILES or (file.endswith("__init__.py") and not (REPOSITORY / file).stat().st_size):
        return True
    return is_carrier(module) or module in LOADED_BY_CARRIERS


def render(stage_code: dict[str, dict[str, list[str]]]) -> str:
    return json.dumps(stage_code, indent=1) + "\n"


if __name__ == "__main__":
    STAGE_CODE.write_text(render(find_stage_code()), encoding="utf-8")
