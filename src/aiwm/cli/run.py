"""`aiwm run`: from the name of a repository, or a file, to a model that answers.

It talks to the AIWM that runs on this machine. When none does it starts one, which ends with this command; its log is
in the data directory. What is registered and fetched stays, so the second time is quick.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext, suppress
from pathlib import Path
from typing import Any, NoReturn

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn

from aiwm.cli.chat import chat
from aiwm.cli.operator import Operator, Refused, is_running
from aiwm.engines.registry import kinds
from aiwm.errors import StartError
from aiwm.identity.keys import make_directory
from aiwm.settings import Settings

LOG = "run.log"
"""In the data directory: what the AIWM that this command started has to say."""

_STEP_SECONDS = 0.3
_START_SECONDS = 60
_STOP_SECONDS = 60
_LONGEST_NAME = 100
_COMING = ("queued", "downloading", "downloaded")
_STARTING = ("queued", "deploying")


class Failed(Exception):
    """It can't go on; the text says why and what to do."""


def run(*, what: str, file: str | None, framework: str | None, name: str | None, talk: bool) -> int:
    """The exit code: 0, 1 when it failed, 130 when it was interrupted before the model answered."""
    settings = Settings.from_env(os.environ)
    console = Console(highlight=False)
    wanted = _wanted(what, file, framework, name)
    with _ended_by_signals():
        try:
            with _server(settings, wanted, console) as owned:
                _serve_and_talk(settings, wanted, console, owned=owned, talk=talk)
        except (Failed, Refused) as error:
            print(f"aiwm: {error}", file=sys.stderr)
            return 1
        except KeyboardInterrupt:
            console.print("\nInterrupted. What has come of the files is kept: run it again to go on.")
            return 130
    return 0


def _serve_and_talk(
    settings: Settings, wanted: Mapping[str, Any], console: Console, *, owned: bool, talk: bool
) -> None:
    with Operator(settings) as operator:
        _require_engine(operator, settings, wanted["framework"])
        model = _downloaded(operator, _registered(operator, wanted), console)
        deployment = _deployed(operator, model)
        try:
            deployment = _running(operator, deployment, console)
            _explain(operator, deployment, settings, console, owned=owned)
            if talk and sys.stdin.isatty() and model["type"] == "llm":
                chat(operator, deployment["endpoint"]["url"], console)
            elif owned:
                console.print("Ctrl-C stops it.")
                with suppress(KeyboardInterrupt):
                    signal.pause()
        finally:
            if owned:
                _stop(operator, deployment, console)


# -- what is wanted


def _wanted(what: str, file: str | None, framework: str | None, name: str | None) -> dict[str, Any]:
    """The body of POST /models."""
    path = Path(what.removeprefix("file://")).expanduser()
    is_local = what.startswith(("file://", "/", "./", "../", "~")) or path.exists()
    if is_local and not path.exists():
        raise StartError(f"there is no file or folder {path}")
    # Links stay as they are: in a cache of the hub they have the names, and what they lead to only hashes.
    repository = f"file://{path.absolute()}" if is_local else what
    title = name or (path.absolute().stem if is_local else what.partition("@")[0].rpartition("/")[2])
    return {
        "name": title[:_LONGEST_NAME],
        "type": "llm",
        "deploymentType": "self-hosted",
        "repository": repository,
        "framework": framework or _framework(repository, file, path if is_local else None),
    } | ({} if file is None else {"fileName": file})


def _framework(repository: str, file: str | None, path: Path | None) -> str:
    is_gguf = "gguf" in f"{repository} {file or ''}".lower() or (path is not None and any(path.glob("*.gguf")))
    return "llamacpp" if is_gguf else "vllm"


# -- the server


@contextmanager
def _server(settings: Settings, wanted: Mapping[str, Any], console: Console) -> Iterator[bool]:
    """An AIWM that answers; whether it is this command's own."""
    if is_running(settings):
        yield False
        return
    make_directory(settings.data_dir)
    log = settings.data_dir / LOG
    console.print(f"Starting AIWM at {settings.at_port(settings.port)} (its log: {escape(str(log))})")
    with os.fdopen(os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as output:
        server = subprocess.Popen(
            [sys.executable, "-m", "aiwm", "serve"],
            env=os.environ | _opened(settings, wanted),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            # Ctrl-C is for this command to hear: it says when the server has to stop.
            start_new_session=True,
        )
    try:
        _wait_until_ready(server, settings, log)
        yield True
    finally:
        _end(server)


def _opened(settings: Settings, wanted: Mapping[str, Any]) -> dict[str, str]:
    """What a server of one's own may load besides what it may anyway: what it is started for, wherever links lead."""
    repository = str(wanted["repository"])
    if not repository.startswith("file://"):
        return {}
    path = Path(repository.removeprefix("file://"))
    linked = {each.resolve().parent for each in path.rglob("*") if each.is_symlink()} if path.is_dir() else set()
    return {"AIWM_MODEL_PATHS": os.pathsep.join(map(str, [*settings.model_paths, path, *sorted(linked)]))}


def _wait_until_ready(server: subprocess.Popen[bytes], settings: Settings, log: Path) -> None:
    deadline = time.monotonic() + _START_SECONDS
    while not is_running(settings):
        if server.poll() is not None or time.monotonic() > deadline:
            last = log.read_text(errors="replace").strip().rpartition("\n")[2]
            raise StartError(last.removeprefix("aiwm: ") or f"AIWM did not start: see {log}")
        time.sleep(0.05)


def _end(server: subprocess.Popen[bytes]) -> None:
    # As Ctrl-C does it: nothing is left running for another server to take over.
    server.send_signal(signal.SIGINT)
    try:
        server.wait(_STOP_SECONDS)
    except (subprocess.TimeoutExpired, KeyboardInterrupt):
        server.kill()
        server.wait()


@contextmanager
def _ended_by_signals() -> Iterator[None]:
    """The terminal that closes, and `kill`, end this command as Ctrl-C does: with everything it started."""

    def interrupt(*_: object) -> NoReturn:
        raise KeyboardInterrupt

    before = {number: signal.signal(number, interrupt) for number in (signal.SIGTERM, signal.SIGHUP)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


# -- model and deployment


def _require_engine(operator: Operator, settings: Settings, framework: str) -> None:
    """Raises Failed when no node has the engine: better said before gigabytes are fetched for it."""
    there = {kind for node in operator.all("/nodes") if node["status"] == "online" for kind in node["facts"]["engines"]}
    if framework in there:
        return
    known = kinds(settings.engines_file)
    if framework not in known:
        raise Failed(f'there is no engine "{framework}"; known are {", ".join(known)}')
    remedy = f" ({known[framework].install})" if known[framework].install else ""
    others = f"choose one that is with --framework: {', '.join(sorted(there))}" if there else "no other is either"
    raise Failed(f"{framework} is not installed here: install it{remedy}, or {others}")


def _registered(operator: Operator, wanted: Mapping[str, Any]) -> Any:
    """The model that is there already, else a new one."""
    found = operator.get("/models", deploymentType="self-hosted", search=wanted["name"], limit=100)["data"]
    same = ("name", "repository", "framework", "fileName")
    for model in found:
        if all(model.get(field) == wanted.get(field) for field in same):
            path = f"/models/{model['_id']}"
            if model["status"] in {"download-failed", "error"}:
                return operator.post(f"{path}/download")
            return operator.post(f"{path}/activate") if model["status"] == "inactive" else model
    return operator.post("/models", wanted)


def _downloaded(operator: Operator, model: Any, console: Console) -> Any:
    """Waits, with a bar, until the files are there."""
    bar = Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        DownloadColumn(),
        TransferSpeedColumn(),
        TimeRemainingColumn(),
        console=console,
    )
    with bar if model["status"] in _COMING else nullcontext():
        task = None
        while model["status"] in _COMING:
            if download := model["download"]:
                task = bar.add_task("", total=None) if task is None else task
                text = "Checking" if model["status"] == "downloaded" else escape(download["file"])
                bar.update(task, description=text, completed=download["bytesDone"], total=download["bytesTotal"])
            time.sleep(_STEP_SECONDS)
            model = operator.get(f"/models/{model['_id']}")
        if task is not None and model["status"] == "active":
            bar.update(task, description="Files", completed=model["fileSize"], total=model["fileSize"])
    if model["status"] != "active":
        raise Failed(f"The files of {model['name']} did not come: {model['errorMessage'] or model['status']}")
    return model


def _deployed(operator: Operator, model: Any) -> Any:
    """A deployment of the model that runs or begins to: the one that is there, else a new one."""
    found = operator.get("/deployments", modelId=model["_id"], limit=100)["data"]
    for deployment in found:
        if deployment["status"] in {"running", *_STARTING}:
            return deployment
    for deployment in found:
        if deployment["status"] != "stopping":
            return operator.post(f"/deployments/{deployment['_id']}/start")
    return operator.post("/deployments", {"name": model["name"], "modelId": model["_id"]})


def _running(operator: Operator, deployment: Any, console: Console) -> Any:
    """Waits until it answers."""
    path, began = f"/deployments/{deployment['_id']}", time.monotonic()
    with console.status("Starting the engine") as status:
        while (deployment := operator.get(path))["status"] in _STARTING:
            again = f", again: {escape(deployment['errorMessage'])}" if deployment.get("errorMessage") else ""
            status.update(f"Starting the engine ({time.monotonic() - began:.0f} s){again}")
            time.sleep(_STEP_SECONDS)
    if deployment["status"] != "running":
        reason = deployment.get("errorMessage") or deployment["status"]
        raise Failed(f"The engine of {deployment['name']} does not run: {reason}")
    return deployment


def _stop(operator: Operator, deployment: Any, console: Console) -> None:
    """The engine ends with the server that this command started, and is not started again with the next one."""
    path = f"/deployments/{deployment['_id']}"
    with suppress(Refused, StartError), console.status("Stopping the engine"):
        deployment = operator.post(f"{path}/stop")
        deadline = time.monotonic() + _STOP_SECONDS
        while deployment["status"] == "stopping" and time.monotonic() < deadline:
            time.sleep(_STEP_SECONDS)
            deployment = operator.get(path)


def _explain(operator: Operator, deployment: Any, settings: Settings, console: Console, *, owned: bool) -> None:
    endpoint = deployment["endpoint"]
    json_type, body = "-H 'Content-Type: application/json'", json.dumps(endpoint["body"])
    minutes = settings.access_token_seconds // 60
    lines = [
        "",
        f"  {deployment['name']} runs: deployment {deployment['_id']}",
        "",
        f"  Endpoint   {endpoint['url']}",
        f"  OpenAI SDK base_url={endpoint['url'].partition('/inference/')[0]}/inference/v1",
        "",
        f"  curl {endpoint['url']} -H 'Authorization: Bearer {operator.token}' {json_type} -d '{body}'",
        "",
        f"  The token is good for {minutes} minutes; POST /api-keys makes a key that lasts.",
    ]
    if owned:
        lines.append("  AIWM stops with this command; `aiwm serve` keeps it.")
    console.print("\n".join(lines), markup=False, soft_wrap=True)
    console.print()
