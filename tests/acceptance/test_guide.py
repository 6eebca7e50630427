"""Every command of docs/guide.md, run by a shell as printed, answers what the guide prints.

What is changed in a command is in `Reader.rewritten`: addresses, ids and the login. What the guide leaves out with
`...` is filled in by `completed`. A command or an answer that is not understood fails.
"""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from gateway import ADMIN_PASSWORD, Caller, Gateway
from patience import PATIENCE

GUIDE = Path(__file__).parents[2] / "docs" / "guide.md"


# -- what the guide says


@dataclass(frozen=True, slots=True)
class Printed:
    """An answer in the guide: `// 200 OK`, then JSON with remarks and `...`."""

    status: int
    body: Any


@dataclass(slots=True)
class Step:
    """One block of commands and the answers printed below it; answers without a command stand alone."""

    section: str
    commands: list[str]
    answers: list[Printed] = field(default_factory=list)


_FENCE = re.compile(r"^(?:#+ (?P<section>[^\n]+)|```(?P<kind>\w+)\n(?P<text>.*?)^```)$", re.MULTILINE | re.DOTALL)
_REST = "..."
"""Stands in a printed object or list for more than is printed."""


def steps(guide: str) -> list[Step]:
    found: list[Step] = []
    section = ""
    for match in _FENCE.finditer(guide):
        match match["kind"]:
            case None:
                section = match["section"]
            case "bash":
                found.append(Step(section, commands(match["text"])))
            case "jsonc":
                if found[-1].section != section:
                    found.append(Step(section, []))
                found[-1].answers.append(printed(match["text"]))
            case kind:
                raise AssertionError(f"{section}: a block of {kind} is not understood")
    return found


def commands(block: str) -> list[str]:
    """The shell commands of a block. Comments aside, each begins with curl or export: anything else is an error."""
    found: list[str] = []
    command = ""
    for line in block.splitlines():
        if not command and (not line or line.startswith("#")):
            continue
        command += line
        if command.endswith("\\") or command.count("'") % 2:
            command += "\n"
            continue
        assert re.match(r"curl |export TOKEN=", command), f"not understood: {command}"
        found.append(command)
        command = ""
    assert not command, f"has no end: {command}"
    return found


_JSON_OR_REMARK = re.compile(r'"(?:[^"\\]|\\.)*"|//[^\n]*|\.\.\.')


def printed(block: str) -> Printed:
    status = re.match(r"// (\d{3}) ", block)
    assert status, f"an answer begins with its status: {block}"

    def as_json(match: re.Match[str]) -> str:
        if match[0].startswith("//"):
            return ""
        if match[0] != _REST:
            return match[0]
        return f'"{_REST}"' if block[match.end() :].lstrip().startswith("]") else f'"{_REST}": null'

    return Printed(int(status[1]), json.loads(_JSON_OR_REMARK.sub(as_json, block)))


# -- how an answer is like a printed one

_PROMISED = frozenset({"statusCode", "message", "error", "status", "type", "code", "object", "role", "tokenType"})
"""Fields whose very value is printed; of the others only the kind counts. `...` at its end: the text goes on."""


_UNKNOWN_AT_TIMES = frozenset({"cost", "totalCost"})
"""What is null when nobody knows it."""


def differences(printed: Any, real: Any, where: str = "", *, first: bool = True) -> list[str]:
    """Each item of a list is like the one printed; the values that are promised are those of the first."""
    if isinstance(printed, dict) and isinstance(real, dict):
        missing = [f"{where}.{name} is missing" for name in printed if name != _REST and name not in real]
        more = [f"{where}.{name} is not printed" for name in real if name not in printed and _REST not in printed]
        return (
            missing
            + more
            + [
                text
                for name in printed
                if name in real
                for text in differences(printed[name], real[name], f"{where}.{name}", first=first)
            ]
        )
    if isinstance(printed, list) and isinstance(real, list):
        example = [item for item in printed if item != _REST]
        if not real or not example:
            return [f"{where} is empty"]
        return [
            text
            for number, item in enumerate(real)
            for text in differences(example[0], item, f"{where}[{number}]", first=first and number == 0)
        ]
    name = where.rpartition(".")[2]
    if real is None and name in _UNKNOWN_AT_TIMES:
        return []
    if _kind(printed) is not _kind(real) or (name in _PROMISED and first and not _says(real, printed)):
        return [f"{where} is {real!r}, printed is {printed!r}"]
    return []


def _kind(value: Any) -> type:
    """JSON has one kind of number."""
    return float if type(value) is int else type(value)


def _says(real: Any, printed: Any) -> bool:
    if isinstance(printed, str) and printed.endswith(_REST):
        return str(real).startswith(printed.removesuffix(_REST))
    return bool(real == printed)


# -- what the guide leaves out

MODEL = {
    "name": "GPT-4 Turbo",
    "type": "llm",
    "deploymentType": "api-based",
    "provider": "openai",
    "apiEndpoint": "https://api.openai.com",
    "modelIdentifier": "gpt-4-turbo-2024-11-20",
    "apiConfig": {"apiKey": "sk-proj-..."},
}
WHOLE: Mapping[str, Mapping[str, Any]] = {
    r"-X POST \S+/models": MODEL,
    r"-X PUT \S+/models/\w+": {"organization": "org-..."},
    r"-X POST \S+/deployments": {"name": "GPT-4 Production", "modelId": "MODEL_ID"},
    r"-X POST \S+/chat/completions": {"messages": [{"role": "user", "content": "Hello!"}]},
}
"""The least that each kind of command needs."""

_LEFT_OUT = re.compile(r'"(?:[^"\\]|\\.)*"|(\.\.\.)')


def completed(command: str) -> str:
    """A shortened command with the header and the fields it needs, put where its `...` stands, or else at the end."""
    if _REST not in command or "/auth/login" in command:
        return command
    if "Authorization" not in command:
        command = command.replace(" \\\n", ' \\\n  -H "Authorization: Bearer $TOKEN" \\\n', 1)
    [whole] = [fields for kind, fields in WHOLE.items() if re.match(rf"curl {kind}\s", command)] or [{}]
    missing = {name: value for name, value in whole.items() if f'"{name}"' not in command}
    members = json.dumps(missing)[1:-1]
    gaps = [match for match in _LEFT_OUT.finditer(command) if match[1]]
    assert missing or not gaps, f"not known how to complete: {command}"
    if not gaps:
        return command.removesuffix("}'") + f", {members}}}'" if members else command
    [gap] = gaps
    comma = "," if command[gap.end() :].lstrip().startswith('"') else ""
    return f"{command[: gap.start()]}{members}{comma}{command[gap.end() :]}"


# -- running it


class Reader:
    """Somebody who types in the guide from top to bottom, with AIWM and a provider on other ports."""

    def __init__(self, gateway: Gateway, caller: Caller, folder: Path) -> None:
        self._gateway = gateway
        self._caller = caller
        self._simulator = f"http://127.0.0.1:{gateway.simulator_port}"
        self._exports: list[str] = []
        self._known: dict[str, str] = {}
        """Placeholder of the guide -> what an earlier answer gave for it."""
        (folder / ".curlrc").write_text('silent\nwrite-out = "\\n%{http_code}"\n')
        self._environment = {"PATH": "/usr/bin:/bin:/usr/local/bin", "CURL_HOME": str(folder)}

    def run(self, step: Step) -> list[str]:
        """What was answered otherwise than printed."""
        if prepare := _PREPARED.get(step.section):
            self._known |= prepare(self._gateway, self._caller)
        if not step.commands:
            return self._alone(step)
        assert len(step.answers) <= len(step.commands)
        wrong = []
        for number, command in enumerate(step.commands):
            expected = step.answers[number] if number < len(step.answers) else None
            wrong += [f"{step.section}: {text}\n{command}" for text in self._command(command, expected)]
        return wrong

    def _command(self, command: str, expected: Printed | None) -> list[str]:
        text = self.rewritten(completed(command))
        if text.startswith("export "):
            self._exports.append(text)
            return []
        status, body = self._shell(text)
        self._remember(command, body)
        if expected is None:
            return [] if status in {200, 201} else [f"answered {status}: {body}"]
        wrong = [] if status == expected.status else [f"answered {status}, printed is {expected.status}: {body}"]
        return wrong + differences(expected.body, body)

    def _alone(self, step: Step) -> list[str]:
        """An answer that the guide prints without a command: the one to any request, as things are prepared."""
        assert step.section in _PREPARED, f"{step.section}: not known how to come to this answer"
        url = f"{self._gateway.inference(self._known['DEPLOYMENT_ID'])}/v1/chat/completions"
        [expected] = step.answers
        answer = self._caller.http.post(url, json={"messages": []})
        wrong = differences(expected.body, answer.json())
        return [f"{step.section}: {text}" for text in wrong] + (
            [] if answer.status_code == expected.status else ["status"]
        )

    def rewritten(self, command: str) -> str:
        """Other ports, the simulated provider, the admin, and ids and tokens that there are: nothing else."""
        changes = {
            "http://localhost:3000": self._gateway.iam_url,
            "http://localhost:3003": self._gateway.url,
            "https://api.openai.com": self._simulator,
            "https://api.anthropic.com": self._simulator,
            "https://generativelanguage.googleapis.com": self._simulator,
            '"username": "username"': '"username": "admin"',
            '"password": "..."': f'"password": "{ADMIN_PASSWORD}"',
            '"nodeId": "..."': f'"nodeId": "{"0" * 24}"',
            '"resourceId": "..."': f'"resourceId": "{"0" * 24}"',
            **self._known,
        }
        for printed, real in changes.items():
            command = re.sub(rf"(?<!\w){re.escape(printed)}(?!\w)", lambda _, real=real: real, command)
        return command

    def _shell(self, command: str) -> tuple[int, Any]:
        done = subprocess.run(
            ["sh", "-c", "\n".join([*self._exports, command])],
            env=self._environment,
            capture_output=True,
            text=True,
            timeout=PATIENCE,
            check=True,
        )
        body, _, status = done.stdout.rpartition("\n")
        return int(status), json.loads(body)

    def _remember(self, command: str, body: Any) -> None:
        if "/auth/login" in command:
            self._known["eyJhbGciOiJIUzI1NiIsInR5cCI6IkpXVCJ9..."] = body["accessToken"]
        elif re.match(r"curl -X POST \S+/models\s", command) and "_id" in body:
            placeholders = ("67a1b2c3d4e5f6g7h8i9j0k1", "MODEL_ID_FROM_STEP_1", "MODEL_ID")
            self._known |= dict.fromkeys(placeholders, body["_id"])
            self._known['"modelId": "..."'] = f'"modelId": "{body["_id"]}"'
        elif re.match(r"curl -X POST \S+/deployments\s", command) and "_id" in body:
            self._known |= dict.fromkeys(("67a1b2c3d4e5f6g7h8i9j0k2", "DEPLOYMENT_ID"), body["_id"])


# -- what the guide takes for granted: a state of things, by the section that speaks of it


def _inactive_model(gateway: Gateway, caller: Caller) -> dict[str, str]:
    made = caller.http.post("/models", json={**MODEL, "name": "GPT-4"}).json()
    assert caller.http.post(f"/models/{made['_id']}/deactivate").json()["status"] == "inactive"
    return {"INACTIVE_MODEL_ID": made["_id"]}


def _stopped_deployment(gateway: Gateway, caller: Caller) -> dict[str, str]:
    deployment_id = gateway.deploy(caller, "openai", f"http://127.0.0.1:{gateway.simulator_port}")
    assert caller.http.post(f"/deployments/{deployment_id}/stop").json()["status"] == "stopped"
    return {"STOPPED_DEPLOYMENT": deployment_id}


def _deployment(config: Mapping[str, str], *, port: int | None = None) -> Callable[[Gateway, Caller], dict[str, str]]:
    def deployed(gateway: Gateway, caller: Caller) -> dict[str, str]:
        endpoint = f"http://127.0.0.1:{port or gateway.simulator_port}"
        return {"DEPLOYMENT_ID": gateway.deploy(caller, "openai", endpoint, config=config)}

    return deployed


_PREPARED: Mapping[str, Callable[[Gateway, Caller], dict[str, str]]] = {
    "Model not active": _inactive_model,
    "Deployment not running": _stopped_deployment,
    "Wrong key of the provider": _deployment({"apiKey": "sk-invalid-0123456789abcdef"}),
    "Provider unreachable": _deployment({"apiKey": "sk-proj-..."}, port=1),
    "Provider too slow": _deployment({"apiKey": "sk-proj-...", "timeout": "0.2", "header-x-simulate": "hang"}),
}


def test_every_command_of_the_guide_answers_what_it_prints(gateway: Gateway, tmp_path: Path) -> None:
    reader = Reader(gateway, gateway.login(), tmp_path)
    wrong = [text for step in steps(GUIDE.read_text()) for text in reader.run(step)]
    assert not wrong, "\n\n".join(wrong)


def test_no_command_and_no_block_of_the_guide_is_passed_over() -> None:
    guide = GUIDE.read_text()
    read = steps(guide)
    blocks = sum(bool(step.commands) + len(step.answers) for step in read)
    assert guide.count("\n```") == 2 * blocks
    assert guide.count("\ncurl ") == sum(command.startswith("curl ") for step in read for command in step.commands)


def test_what_the_guide_takes_for_granted_is_still_in_it() -> None:
    assert set(_PREPARED) <= {step.section for step in steps(GUIDE.read_text())}


def test_the_documents_that_the_guide_leads_to_are_there() -> None:
    for link in re.findall(r"\]\(([^)]+)\)", GUIDE.read_text()):
        assert (GUIDE.parent / link).is_file(), link


@pytest.mark.parametrize(
    "real",
    [
        {"name": "x", "statusCode": 400, "items": [{"n": 1}]},
        {"name": "x", "statusCode": 400, "items": [{"n": 1.5}, {"n": 2, "more": 1}]},
    ],
)
def test_an_answer_of_the_printed_shape_is_as_printed(real: Any) -> None:
    assert not differences(printed('// 400 Bad\n{"name": "y", "statusCode": 400, "items": [{"n": 0, ...}]}').body, real)


@pytest.mark.parametrize(
    "real",
    [
        {"name": "x", "statusCode": 400},
        {"name": "x", "statusCode": 400, "items": [], "more": 1},
        {"name": "x", "statusCode": 400, "items": []},
        {"name": "x", "statusCode": 404, "items": [{"n": 1}]},
        {"name": 7, "statusCode": 400, "items": [{"n": 1}]},
        {"name": "x", "statusCode": 400, "items": [{"n": 1}, {"n": "1"}]},
        {"name": "x", "statusCode": 400, "items": [{"n": True}]},
        [],
    ],
)
def test_an_answer_of_another_shape_is_told_apart(real: Any) -> None:
    assert differences(printed('// 400 Bad\n{"name": "y", "statusCode": 400, "items": [{"n": 0, ...}]}').body, real)


@pytest.mark.parametrize("block", ["wget http://localhost:3003/models", "curl -d '{", "TOKEN=x"])
def test_a_line_that_is_no_command_is_not_passed_over(block: str) -> None:
    with pytest.raises(AssertionError):
        commands(block)


def test_a_shortened_command_of_a_new_kind_is_not_passed_over() -> None:
    with pytest.raises(AssertionError, match="not known how to complete"):
        completed("curl -X POST http://localhost:3003/users \\\n  -d '{ ... }'")
