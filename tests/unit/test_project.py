"""Facts about the project that would drift if nothing held them."""

from __future__ import annotations

import ast
import inspect
import re
import subprocess
from collections.abc import Iterator
from http import HTTPStatus
from pathlib import Path

import pytest

from aiwm import errors
from aiwm.errors import AiwmError
from aiwm.providers import registry
from aiwm.providers.base import Provider
from aiwm.settings import Settings, table

ROOT = Path(__file__).parents[2]
SRC = ROOT / "src" / "aiwm"
MODULES = sorted(SRC.rglob("*.py"))
ROOMS = sorted(path.parent.name for path in SRC.glob("*/__init__.py"))


def _tracked(*patterns: str) -> list[Path]:
    """Files of the project, by git; without git (a source archive) all that are there."""
    listed = subprocess.run(["git", "ls-files", "-z", *patterns], cwd=ROOT, capture_output=True, text=True, check=False)
    if listed.returncode:
        pytest.skip("no git here to say what belongs to the project")
    return [ROOT / name for name in listed.stdout.split("\0") if name and (ROOT / name).is_file()]


def _has_logic(path: Path) -> bool:
    tree = ast.parse(path.read_text())
    return any(isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) for node in ast.walk(tree))


# --- errors --------------------------------------------------------------------------------------------------


def _errors() -> Iterator[type[AiwmError]]:
    for kind in vars(errors).values():
        if inspect.isclass(kind) and issubclass(kind, AiwmError):
            yield kind


@pytest.mark.parametrize("kind", list(_errors()), ids=lambda kind: kind.__name__)
def test_every_error_has_a_status_and_something_to_say(kind: type[AiwmError]) -> None:
    assert kind.status == 499 or 400 <= HTTPStatus(kind.status) < 600
    assert kind.default
    assert not kind.default.endswith(".")


def test_every_error_is_in_the_tree_that_is_drawn() -> None:
    drawn = dict(re.findall(r"^ *[*x+] (\w+) +(\d{3})\b", errors.__doc__ or "", re.MULTILINE))
    assert drawn == {kind.__name__: str(int(kind.status)) for kind in _errors()}


# --- files ---------------------------------------------------------------------------------------------------


def test_no_file_has_a_name_that_says_nothing() -> None:
    nothing = {
        "utils",
        "util",
        "common",
        "helpers",
        "helper",
        "core",
        "manager",
        "managers",
        "service",
        "services",
        "misc",
    }
    assert [path for path in [*MODULES, *ROOT.glob("tests/**/*.py")] if nothing & set(path.stem.split("_"))] == []


def test_every_module_says_what_it_is_for() -> None:
    silent = [
        path for path in MODULES if path.name != "__init__.py" and not ast.get_docstring(ast.parse(path.read_text()))
    ]
    assert silent == []


SEEN_THROUGH = {
    "app.py": "acceptance/test_serve.py",
    "control/hearing.py": "acceptance/test_workers.py",
    "targets.py": "integration/proxy",
    "__main__.py": "acceptance/test_serve.py",
    "server.py": "integration/test_server.py",
    "listeners.py": "integration/test_server.py",
    "metering/counts.py": "unit/metering/test_limits.py",
    "workers/parent.py": "acceptance/test_workers.py",
    "workers/line.py": "integration/workers/test_siblings.py",
    "workers/switchboard.py": "integration/workers/test_siblings.py",
    "workers/shared.py": "integration/workers/test_siblings.py",
    "web/asgi.py": "integration/api/test_operation.py",
    "web/connection.py": "integration/test_server.py",
    "cli": "acceptance/test_serve.py",
    "cli/demo.py": "acceptance/test_first_minutes.py",
    "control/api_keys.py": "integration/api/test_api_keys.py",
    "control/models.py": "integration/api/test_models.py",
    "control/deployments.py": "integration/api/test_deployments.py",
    "control/changes.py": "acceptance/test_workers.py",
    "control/secrets.py": "acceptance/test_keys.py",
    "store/attempts.py": "integration/control/test_attempts.py",
    "control/repricing.py": "integration/store/test_repricing.py",
    "control/usage.py": "integration/api/test_usage.py",
    "control/targets.py": "integration/api/test_models.py",
    "api/endpoints.py": "integration/api/test_deployments.py",
    "api/routes.py": "integration/api/test_operation.py",
    "iam/routes.py": "integration/api/test_operation.py",
    "errors.py": "unit/web/test_errors.py",
    "iam/organizations.py": "integration/api/test_bad_input.py",
    "iam/users.py": "integration/api/test_bad_input.py",
    "metering/metrics.py": "acceptance/test_serve.py",
    "metering/price_list.py": "unit/metering/test_prices.py",
    "proxy/dialing.py": "integration/proxy/test_upstream.py",
    "proxy/loans.py": "integration/control/test_engines.py",
    "proxy/pool.py": "integration/proxy/test_upstream.py",
    "proxy/masking.py": "integration/proxy/test_handler.py",
    "domain/usage.py": "integration/store/test_ledger.py",
    "api/nodes.py": "integration/api/test_nodes.py",
    "api/resources.py": "integration/api/test_nodes.py",
    "control/nodes.py": "integration/api/test_nodes.py",
    "store/nodes.py": "integration/api/test_nodes.py",
    "engines/driver.py": "unit/engines/test_kinds.py",
    "engines/pids.py": "integration/engines/test_process.py",
    "engines/llama_server.py": "integration/engines/test_llamacpp.py",
    "web/application.py": "integration/api/test_operation.py",
    "web/principals.py": "integration/api/test_roles.py",
    "web/schemas.py": "integration/api/test_bad_input.py",
    "store/statements.py": "integration/store/test_ledger.py",
    "store/sums.py": "integration/store/test_ledger.py",
    "store/words.py": "integration/store/test_ledger.py",
    "store/tables.py": "integration/store/test_migrations.py",
    "store/migrations": "integration/store/test_migrations.py",
    "store/connection.py": "integration/store/test_database.py",
    "store/organizations.py": "integration/store/test_users.py",
    "store/sessions.py": "integration/store/test_users.py",
    "providers": "integration/proxy/test_handler.py",
    "identity/signatures.py": "unit/identity/test_tokens.py",
    "simulator": "unit/simulator",
}
"""What is tested through something else than a file of its own name in `unit` or `integration`, and where."""


def _tests_of(module: Path) -> list[Path]:
    inner = module.relative_to(SRC)
    same_name = [ROOT / "tests" / kind / inner.with_name(f"test_{inner.stem}.py") for kind in ("unit", "integration")]
    more = [ROOT.glob(f"tests/{kind}/{inner.parent}/test_{inner.stem}_*.py") for kind in ("unit", "integration")]
    seen_through = [ROOT / "tests" / where for name, where in SEEN_THROUGH.items() if inner.is_relative_to(name)]
    return [path for path in [*same_name, *(each for found in more for each in found), *seen_through] if path.exists()]


def test_every_file_with_logic_has_its_test() -> None:
    modules = [path for path in _tracked("src/aiwm/*.py") if _has_logic(path)]
    assert len(modules) > 50
    untested = [str(module.relative_to(SRC)) for module in modules if not _tests_of(module)]
    assert untested == [], "add a test of that name, or say in SEEN_THROUGH where it is tested"


def test_nothing_is_said_to_be_tested_that_is_not_there() -> None:
    assert [name for name in SEEN_THROUGH if not (SRC / name).exists()] == []
    assert [where for where in SEEN_THROUGH.values() if not (ROOT / "tests" / where).exists()] == []


def test_rooms_of_tests_are_rooms_of_the_program() -> None:
    for kind in ("unit", "integration"):
        rooms = {
            path.name for path in (ROOT / "tests" / kind).iterdir() if path.is_dir() and list(path.glob("test_*.py"))
        }
        assert rooms <= set(ROOMS), kind


# --- providers -----------------------------------------------------------------------------------------------


def test_every_provider_file_is_registered() -> None:
    files = {path.stem for path in (SRC / "providers").glob("*.py")} - {"__init__", "base", "registry"}
    registered = inspect.getsource(registry)
    assert [name for name in sorted(files) if not re.search(rf"\b{name}\b", registered)] == []
    for name in files:
        assert isinstance(registry.provider(name), Provider), name
        assert registry.provider(name).name == name


def test_providers_are_named_only_in_their_own_room() -> None:
    """What the pipeline must know of one becomes a field of `Provider`."""
    named = re.compile(
        r"""(?:==|!=|\bin\b|\bcase\b)\s*[({]?\s*["'](?:openai|anthropic|google|azure|cohere|ollama|xai)["']"""
    )
    rooms = [path for path in MODULES if path.relative_to(SRC).parts[0] not in {"providers", "simulator", "cli"}]
    assert [path for path in rooms if named.search(path.read_text())] == []


# --- settings and documents ----------------------------------------------------------------------------------


def test_every_setting_is_in_the_documents_and_no_other_is() -> None:
    known = {variable for variable, _, _ in table()}
    assert known == set(re.findall(r"^\| `(AIWM_\w+)` \|", (ROOT / "docs" / "settings.md").read_text(), re.MULTILINE))
    # What a script reads is no setting of the program.
    known |= {"AIWM_TEST_PROCESSES"}
    for page in [ROOT / "README.md", *ROOT.glob("docs/**/*.md")]:
        unknown = {name for name in re.findall(r"\bAIWM_[A-Z0-9_]*[A-Z0-9]\b", page.read_text()) if name not in known}
        assert {name for name in unknown if not any(each.startswith(f"{name}_") for each in known)} == set(), page


def test_every_setting_is_used() -> None:
    readers = "\n".join(path.read_text() for path in [SRC / "app.py", *(SRC / "cli").glob("*.py")])
    own = (SRC / "settings.py").read_text()
    unused = [
        name for name in Settings.model_fields
        if not re.search(rf"settings\.(effective_)?{name}\b", readers) and f"self.{name}" not in own
    ]  # fmt: skip
    assert unused == []


def test_only_settings_reads_the_environment() -> None:
    readers = {
        "cli/keys.py",
        "cli/deployments.py",
        "cli/models.py",
        "cli/reprice.py",
        "cli/run.py",
        "cli/serve.py",
        "cli/simulate.py",
        "cli/worker.py",
        "cli/usage.py",
        "settings.py",
    }
    readers |= {"engines/llama_server.py"}  # Another program.
    found = {str(path.relative_to(SRC)) for path in MODULES if re.search(r"os\.(environ|getenv)", path.read_text())}
    assert found <= readers


def test_links_between_documents_lead_somewhere() -> None:
    for page in [ROOT / "README.md", *ROOT.glob("docs/**/*.md")]:
        for target in re.findall(r"\]\((?!https?://|#|mailto:)([^)#\s]+)", page.read_text()):
            assert (page.parent / target).exists(), f"{page.relative_to(ROOT)} -> {target}"


def test_no_file_names_a_package_registry_or_a_place_outside_the_project() -> None:
    """Which registry a machine uses is for its operator to configure; nobody else has the folders of this machine."""
    words = [r"(?:files\.|test\.)?py" + r"pi\.org", r"python" + r"hosted\.org", r"registry\.npm" + r"js\.org",
             r"proxy\.golang" + r"\.org", r"--(?:extra-)?index" + r"-url", "/work" + "/", r"/root" + "/"]  # fmt: skip
    named = re.compile("|".join(words))
    found = []
    for path in _tracked("*.py", "*.md", "*.toml", "*.lock", "*.json", "*.sh", "script/*", ".ci/*"):
        try:
            text = path.read_text()
        except UnicodeDecodeError:
            continue
        found += [f"{path.relative_to(ROOT)}: {match[0]}" for match in named.finditer(text)]
    assert found == []


def test_scripts_can_be_run() -> None:
    for path in _tracked("script/*", ".ci/run"):
        if path.suffix != ".py":
            assert path.stat().st_mode & 0o111, path
            assert path.read_text().startswith("#!"), path
