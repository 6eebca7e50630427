"""AIWM with the identity service that a company has already: its key set is read from a URL, and ours is off."""

from __future__ import annotations

import base64
import hmac
import json
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx2
import pytest
from joserfc import jws, jwt
from joserfc.jwk import ECKey, OKPKey, RSAKey

from gateway import Gateway, get, post

RSA = RSAKey.generate_key(2048, {"kid": "rsa"})
EC = ECKey.generate_key("P-256", {"kid": "ec"})
ED = OKPKey.generate_key("Ed25519", {"kid": "ed"})
STRANGER = RSAKey.generate_key(2048, {"kid": "rsa"})
KEYS: dict[str, Any] = {"RS256": RSA, "ES256": EC, "EdDSA": ED}

pytestmark = pytest.mark.filterwarnings("ignore:EdDSA is deprecated via RFC 9864")


class OtherIam:
    """Answers with its key set; `stop` takes it down."""

    def __init__(self) -> None:
        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                body = json.dumps({"keys": [key.as_dict(private=False) for key in KEYS.values()]}).encode()
                self.send_response(200)
                self.send_header("content-length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}/keys"
        self._thread = threading.Thread(target=self._server.serve_forever)
        self._thread.start()

    def stop(self) -> None:
        if self._thread.is_alive():
            self._server.shutdown()
            self._thread.join()
        self._server.server_close()


def signed(algorithm: str = "RS256", key: Any = None, **changes: Any) -> str:
    key = key or KEYS[algorithm]
    claims = {
        "sub": "user-4711", "username": "mai@example.com", "roles": ["organization.owner"], "orgId": "org/red",
        "exp": int(time.time()) + 600, "iss": "https://iam.example.com", "aud": "aiwm",
    } | changes  # fmt: skip
    header = {"alg": algorithm, "kid": key.kid}
    registry = jws.JWSRegistry(algorithms=[algorithm], strict_check_header=False)
    return jwt.encode(header, claims, key, registry=registry)


def _segment(value: object) -> str:
    return base64.urlsafe_b64encode(json.dumps(value).encode()).rstrip(b"=").decode()


def confused() -> str:
    """HS256 with the published key for a secret: what a verifier takes that lets the token choose the algorithm."""
    text = f"{_segment({'alg': 'HS256', 'kid': 'rsa'})}.{jwt_claims()}"
    mac = hmac.digest(RSA.as_pem(private=False), text.encode(), "sha256")
    return f"{text}.{base64.urlsafe_b64encode(mac).rstrip(b'=').decode()}"


def unsigned() -> str:
    return f"{_segment({'alg': 'none', 'kid': 'rsa'})}.{jwt_claims()}."


def jwt_claims() -> str:
    return signed().split(".")[1]


@pytest.fixture
def iam() -> Iterator[OtherIam]:
    iam = OtherIam()
    yield iam
    iam.stop()


def test_its_tokens_are_accepted_and_it_may_go_down(tmp_path: Path, iam: OtherIam) -> None:
    settings = {
        "AIWM_JWKS_URL": iam.url, "AIWM_JWT_ISSUER": "https://iam.example.com", "AIWM_JWT_AUDIENCE": "aiwm",
        "AIWM_PRIVATE_UPSTREAMS": "127.0.0.1", "AIWM_ADMIN_PASSWORD": "",
    }  # fmt: skip
    with Gateway(tmp_path / "data", **settings) as running:

        def status(token: str, path: str = "/models") -> int:
            return get(f"{running.url}{path}", headers={"authorization": f"Bearer {token}"}).status_code

        for algorithm in KEYS:
            assert status(signed(algorithm)) == 200, algorithm
        for name, token in {
            "none": unsigned(),
            "mixed": confused(),
            "another key of that name": signed(key=STRANGER),
            "another algorithm of the key": signed("PS256", RSA),
            "another issuer": signed(iss="https://evil.example.com"),
            "another audience": signed(aud="others"),
            "expired": signed(exp=int(time.time()) - 1),
            "from the future": signed(nbf=int(time.time()) + 600),
            "inactive": signed(status="inactive"),
        }.items():
            assert status(token) == 401, name
        # Ours is off: no logins on either port, and no password was made.
        assert post(f"{running.url}/auth/login", json={"username": "admin", "password": "x"}).status_code == 404
        with pytest.raises(httpx2.ConnectError):
            get(f"{running.iam_url}/healthz")
        assert not (tmp_path / "data" / "admin-password").exists()
        # Keys and the audit log do not need it.
        owner = {"authorization": f"Bearer {signed()}"}
        made = post(f"{running.url}/api-keys", json={"name": "A program"}, headers=owner)
        assert made.status_code == 201, made.text
        assert status(made.json()["apiKey"]) == 200
        [told] = get(f"{running.url}/audit", headers=owner).json()["data"]
        assert told["user"] == {"_id": "user-4711", "username": "mai@example.com", "orgId": "org/red"}

        iam.stop()

        for algorithm in KEYS:
            assert status(signed(algorithm, sub="somebody-else")) == 200, algorithm
        assert status(signed(key=STRANGER)) == 401


def test_while_it_was_never_reached_nobody_is_told_that_a_token_is_wrong(tmp_path: Path, iam: OtherIam) -> None:
    iam.stop()
    with Gateway(tmp_path / "data", AIWM_JWKS_URL=iam.url, AIWM_ADMIN_PASSWORD="") as running:
        answer = get(f"{running.url}/models", headers={"authorization": f"Bearer {signed()}"})
        assert (answer.status_code, answer.headers["retry-after"]) == (503, "1")
        assert answer.json()["message"] == "The identity service does not answer; try again"
