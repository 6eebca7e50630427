"""identity/revocations.py in two programs on one database: what one of them ends, the other refuses within a second."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import httpx2
import pytest

from aiwm.identity.revocations import POLL_SECONDS
from inside import Inside, inside
from patience import eventually
from planted import PASSWORD

End = Callable[[Inside, dict[str, str], dict[str, str], str], Awaitable[httpx2.Response]]


async def _logged_out(one: Inside, user: dict[str, str], _admin: dict[str, str], _id: str) -> httpx2.Response:
    return await one.iam.post("/auth/logout", headers=user)


async def _deactivated(one: Inside, _user: dict[str, str], admin: dict[str, str], id_: str) -> httpx2.Response:
    return await one.iam.put(f"/users/{id_}", json={"status": "inactive"}, headers=admin)


async def _demoted(one: Inside, _user: dict[str, str], admin: dict[str, str], id_: str) -> httpx2.Response:
    return await one.iam.put(f"/users/{id_}", json={"roles": ["organization.viewer"]}, headers=admin)


async def _new_password(one: Inside, _user: dict[str, str], admin: dict[str, str], id_: str) -> httpx2.Response:
    return await one.iam.put(f"/users/{id_}", json={"password": "battery staple"}, headers=admin)


async def _deleted(one: Inside, _user: dict[str, str], admin: dict[str, str], id_: str) -> httpx2.Response:
    return await one.iam.delete(f"/users/{id_}", headers=admin)


async def _login(program: Inside, username: str) -> dict[str, str]:
    answer = await program.iam.post("/auth/login", json={"username": username, "password": PASSWORD})
    assert answer.status_code == 200, answer.text
    return {"authorization": f"Bearer {answer.json()['accessToken']}"}


@pytest.mark.parametrize("end", [_logged_out, _deactivated, _demoted, _new_password, _deleted])
async def test_an_end_is_honoured_by_another_program_within_a_second(tmp_path: Path, end: End) -> None:
    folder = tmp_path / "data"
    async with inside(folder) as one, inside(folder) as two:
        admin = await _login(one, "admin")
        new: dict[str, Any] = {"username": "mai", "password": PASSWORD, "roles": ["organization.owner"]}
        made = await one.iam.post("/users", json=new, headers=admin)
        user = await _login(two, "mai")
        key = await two.http.post("/api-keys", json={"name": "A program"}, headers=user)
        assert key.status_code == 201, key.text
        program = {"x-api-key": key.json()["apiKey"]}
        path = f"/deployments/{'0' * 24}/inference/v1/models"
        for headers in (user, program):
            assert (await two.http.get(path, headers=headers)).status_code == 404

        assert (await end(one, user, admin, made.json()["_id"])).status_code == 200

        # How soon is a matter of how often it looks; a clock would tell more of how busy this machine is.
        assert POLL_SECONDS < 1

        async def refused() -> bool:
            return (await two.http.get(path, headers=user)).status_code == 401

        await eventually(refused)
        # With who may no longer act go the keys that it made; other changes leave them.
        gone = end in {_deactivated, _deleted}
        assert (await two.http.get(path, headers=program)).status_code == (401 if gone else 404)
