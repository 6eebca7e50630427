"""Many deployments and many callers, made at once: through the API they would take longer than what is measured."""

from __future__ import annotations

import base64
import json
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

from joserfc import jwt

from aiwm.domain.ids import new_id
from aiwm.identity.keys import signing_key


def deployments(data: Path, number: int) -> list[str]:
    """Copies of the first deployment of a database that nobody has open; their ids, that of the first among them."""
    with closing(sqlite3.connect(data / "aiwm.db")) as database, database:
        database.row_factory = sqlite3.Row
        first = dict(database.execute("SELECT * FROM deployments ORDER BY created_at LIMIT 1").fetchone())
        copies = [first | {"id": new_id(), "name": f"copy {count}"} for count in range(1, number)]
        places = ", ".join(f":{name}" for name in first)
        database.executemany(f"INSERT INTO deployments ({', '.join(first)}) VALUES ({places})", copies)  # noqa: S608
    return [first["id"], *(copy["id"] for copy in copies)]


def tokens(data: Path, token: str, number: int) -> Iterator[str]:
    """Of as many users as that, who may do what the one of `token` may."""
    key = signing_key(data)
    claims = json.loads(base64.urlsafe_b64decode(token.split(".")[1] + "=="))
    for count in range(number):
        own = {"sub": new_id(), "username": f"caller{count}", "jti": f"{new_id()}.{count:016x}"}
        yield jwt.encode({"alg": "RS256", "kid": str(key.kid)}, claims | own, key, algorithms=["RS256"])
