"""web/application.py: an application is made on a thread while another one answers, and described."""

from __future__ import annotations

import subprocess
import sys

from fastapi import APIRouter
from starlette.responses import PlainTextResponse

from aiwm.web.application import application
from aiwm.web.schemas import problems

_BOTH_AT_ONCE = """
import sys
import threading
import warnings
from typing import Annotated

import fastapi

if sys.argv[1] == "ours":
    import aiwm.web.application

made = 0

def make():
    global made
    for _ in range(300):
        router = fastapi.APIRouter()

        @router.get("/")
        def route(size: Annotated[int, fastapi.Query(alias="pageSize")] = 1) -> None: ...

        made += 1

sys.setswitchinterval(1e-6)
maker = threading.Thread(target=make)
maker.start()
while maker.is_alive():
    with warnings.catch_warnings():  # As FastAPI does for each answer.
        warnings.simplefilter("ignore", UserWarning)
maker.join()
sys.exit(made != 300)
"""


def _made(whose: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-W", "error", "-c", _BOTH_AT_ONCE, whose]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_what_is_made_while_another_one_answers_is_whole_and_warns_of_nothing() -> None:
    ended = _made("ours")
    assert (ended.returncode, ended.stderr) == (0, "")


def test_errors_are_described_as_json_whatever_their_route_answers() -> None:
    routes = APIRouter()

    @routes.get("/metrics", response_class=PlainTextResponse, responses=problems(401))
    def metrics() -> str:
        return ""

    described = application(title="AIWM", description="", routers=[routes]).openapi()

    answers = described["paths"]["/metrics"]["get"]["responses"]
    assert list(answers["200"]["content"]) == ["text/plain"]
    schema = {"schema": {"$ref": "#/components/schemas/Problem"}}
    assert answers["401"] == {"description": "Unauthorized", "content": {"application/json": schema}}
    assert answers["default"]["content"] == {"application/json": schema}
    assert set(described["components"]["schemas"]["Problem"]["required"]) > {"statusCode", "message", "correlationId"}
