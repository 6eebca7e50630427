"""One program for the tests of a module; each test has an organization of its own, so none sees another's things."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
import pytest_asyncio

from aiwm.domain.ids import new_id
from aiwm.domain.users import Role
from inside import Caller, Inside, inside


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The tests run on the loop that their program runs on: its own tasks go on while a test waits for them."""
    here = Path(__file__).parent
    for item in items:
        if item.path.is_relative_to(here) and pytest_asyncio.is_async_test(item):
            item.add_marker(pytest.mark.asyncio(loop_scope="module"), append=False)


@pytest.fixture(scope="module", autouse=True)
def _quiet() -> Iterator[None]:
    """Lines of the log are looked at where they are the subject."""
    log = logging.getLogger("aiwm")
    log.setLevel(logging.CRITICAL)
    yield
    log.setLevel(logging.NOTSET)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def aiwm(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Inside]:
    folder = tmp_path_factory.mktemp("aiwm") / "data"
    async with inside(folder, private_upstreams=("127.0.0.1",)) as running:
        yield running


@pytest.fixture
def org() -> str:
    return new_id()


@pytest.fixture
def editor(aiwm: Inside, org: str) -> Caller:
    return aiwm.caller(Role.EDITOR, org=org)


@pytest.fixture
def stranger(aiwm: Inside) -> Caller:
    """The owner of another organization."""
    return aiwm.caller(Role.OWNER, org=new_id())
