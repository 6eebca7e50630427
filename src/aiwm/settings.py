"""Everything an operator can set, and the only reader of the environment.

Each field is the variable AIWM_<NAME>; its docstring is its manual: `aiwm settings` prints it and
`docs/settings.md` is made from it. Rooms are handed values, never this object.
"""

from __future__ import annotations

import ast
import base64
import inspect
import os
from collections.abc import Mapping
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Any, Literal, Self, TextIO
from urllib.parse import quote, urlsplit

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    SecretStr,
    ValidationError,
    field_validator,
    model_validator,
)

from aiwm.errors import StartError
from aiwm.wire.addresses import AddressPolicy
from aiwm.wire.hosts import ANY as ANY_HOST
from aiwm.wire.hosts import is_host_name, is_loopback

PREFIX = "AIWM_"
DATABASE = "aiwm.db"
"""The file of SQLite, in the data directory."""
LONGEST_TOKEN_SECONDS = 86_400


def _split(value: object) -> object:
    return [part.strip() for part in value.split(",") if part.strip()] if isinstance(value, str) else value


def _split_paths(value: object) -> object:
    return [part for part in value.split(os.pathsep) if part] if isinstance(value, str) else value


Port = Annotated[int, Field(ge=0, le=65535)]
Seconds = Annotated[float, Field(gt=0, le=86_400)]
ColonSeparated = Annotated[tuple[Path, ...], BeforeValidator(_split_paths)]
CommaSeparated = Annotated[tuple[str, ...], BeforeValidator(_split)]


class Settings(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    data_dir: Path = Field(default=Path("~/.local/share/aiwm"), validate_default=True)
    """Folder of the database, the keys and the admin's first password. Made at the first start, mode 0700."""
    database_url: str = Field(default="", repr=False)
    """Where everything is kept: `postgresql+asyncpg://user:password@host/name`. Empty: SQLite in the data directory."""

    host: str = "127.0.0.1"
    """Address to listen on. `0.0.0.0` lets other machines in."""
    allowed_hosts: CommaSeparated = ()
    """Names it answers to besides `localhost` and AIWM_PUBLIC_URL's; `*`: any. Empty: any, but none on loopback."""
    port: Port = 3003
    """Port of AIWM."""
    iam_port: Port = 3000
    """Port of the embedded identity service (IAM). 0 switches the port off; `/auth/*` stays on AIWM's own."""
    workers: Annotated[int, Field(ge=1, le=256)] = 1
    """Processes that serve the ports: about one for each core. `aiwm serve --workers` goes before it."""
    simulator_port: Port = 3010
    """Port of the simulated provider of `aiwm serve --demo` and `aiwm simulate`."""
    public_url: str = ""
    """URL under which callers reach AIWM, used in `endpoint.url` of a deployment. Empty: made from host and port."""

    admin_password: SecretStr | None = None
    """Password of the user `admin` made at the first start. Unset: a random one, printed once and kept in a file."""
    encryption_keys: SecretStr | None = None
    """Fernet keys that encrypt provider keys at rest, comma-separated, newest first. Unset: made at the first start."""
    jwt_secret: SecretStr | None = None
    """At least 32 bytes: tokens are HS256 with this secret, an existing IAM's too. Unset: RS256, a key of our own."""
    jwks_url: str = ""
    """URL of an existing IAM's JSON Web Key Set. Its tokens are accepted and the embedded IAM is off."""
    jwt_issuer: str = ""
    """When set, tokens must carry this `iss`; the embedded IAM writes it."""
    jwt_audience: str = ""
    """When set, tokens must carry this `aud`; the embedded IAM writes it."""
    access_token_seconds: Annotated[int, Field(ge=60, le=LONGEST_TOKEN_SECONDS)] = 3600
    """How long an access token is good for."""
    refresh_token_seconds: Annotated[int, Field(ge=60, le=31_536_000)] = 30 * 86_400
    """How long a refresh token is good for."""

    connect_timeout: Seconds = 5.0
    """Seconds to find, reach and shake hands with a provider."""
    first_byte_timeout: Seconds = 600.0
    """Seconds from the last byte of the request to the first of the provider's answer."""
    idle_timeout: Seconds = 300.0
    """Seconds without a byte in the middle of a provider's answer."""
    max_body_bytes: Annotated[int, Field(ge=1)] = 64 * 1024 * 1024
    """Largest request body in bytes; a larger one is answered 413."""
    private_upstreams: CommaSeparated = ()
    """What models may point to besides public addresses: hosts, addresses, networks (CIDR), `:port` behind or not."""

    model_dir: Path | None = None
    """Folder for the files of self-hosted models, as Hugging Face keeps them. Unset: `models` in the data directory."""
    model_paths: ColonSeparated = ()
    """Folders of this server that models may be loaded from (`file://`), with `:` between them."""
    parallel_downloads: Annotated[int, Field(ge=0, le=16)] = 2
    """How many models are fetched at the same time. 0: this AIWM fetches none."""

    journal_fsync_ms: Annotated[int, Field(ge=0, le=10_000)] = 50
    """Milliseconds of bookings that a power cut may take. 0 makes each one durable before the answer ends."""

    ray_address: str = ""
    """URL of a Ray cluster's dashboard (`http://head:8265`): engines run there unless a deployment says `nodeId`."""
    ray_token: SecretStr | None = None
    """Token that the Ray cluster asks for."""
    engines_file: Path | None = None
    """TOML file with kinds of engines of the operator's own, or others in the place of AIWM's."""
    hold_seconds: Seconds = 120.0
    """Seconds that a request waits for an engine that starts or wakes up."""
    hold_requests: Annotated[int, Field(ge=0, le=100_000)] = 1000
    """How many requests may wait so for one deployment; more are answered 503."""
    keep_engines: bool = True
    """Whether engines run on after SIGTERM, for the next start to take them over. Ctrl-C always stops them."""

    ledger_days: Annotated[int, Field(ge=0, le=36_500)] = 0
    """Days that requests in the ledger and its hourly sums are kept. Daily sums and totals stay. 0 keeps everything."""

    budget_input_tokens: Annotated[int, Field(ge=1, le=1_000_000_000)] = 1_048_576
    """Tokens that a budget reserves for what a model reads, where the body does not tell: images, files, tools."""
    budget_output_tokens: Annotated[int, Field(ge=1, le=1_000_000_000)] = 131_072
    """Tokens that a budget reserves for what a model writes, where a request sets no `max_tokens` or the like."""

    drain_seconds: Annotated[int, Field(ge=0, le=3600)] = 30
    """Seconds that running answers get to finish after SIGTERM or Ctrl-C."""
    log_level: Literal["debug", "info", "warning", "error"] = "info"
    """Least level that is logged. Logs go to standard error."""
    log_format: Literal["json", "console", ""] = ""
    """`json` for machines, `console` for people. Empty: console on a terminal, else json."""

    @field_validator("data_dir")
    @classmethod
    def _absolute(cls, value: Path) -> Path:
        if value == Path():
            raise ValueError("must not be empty")
        try:
            return value.expanduser().absolute()
        except RuntimeError:
            raise ValueError("begins with ~, and the home directory is not known: give an absolute path") from None

    @field_validator("model_dir")
    @classmethod
    def _absolute_or_unset(cls, value: Path | None) -> Path | None:
        return None if value is None else cls._absolute(value)

    @field_validator("model_paths")
    @classmethod
    def _absolute_each(cls, value: tuple[Path, ...]) -> tuple[Path, ...]:
        return tuple(cls._absolute(each) for each in value)

    @field_validator("encryption_keys")
    @classmethod
    def _fernet_keys(cls, value: SecretStr | None) -> SecretStr | None:
        if value is not None:
            keys = value.get_secret_value().replace(",", " ").split()
            if not keys or not all(_is_fernet_key(key) for key in keys):
                raise ValueError("must be Fernet keys, each 32 bytes in URL-safe base64, with commas between them")
        return value

    @field_validator("allowed_hosts")
    @classmethod
    def _names(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        if not all(name == ANY_HOST or is_host_name(name) for name in value):
            raise ValueError("must be names of hosts without ports, with commas between them, or *")
        return tuple(name.lower() for name in value)

    @field_validator("private_upstreams")
    @classmethod
    def _addresses(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        AddressPolicy(value)
        return value

    @field_validator("jwt_secret")
    @classmethod
    def _long_enough(cls, value: SecretStr | None) -> SecretStr | None:
        if value is not None and len(value.get_secret_value().encode()) < 32:
            raise ValueError("must be at least 32 bytes long")
        return value

    @field_validator("admin_password")
    @classmethod
    def _usable_password(cls, value: SecretStr | None) -> SecretStr | None:
        if value is not None and not 8 <= len(value.get_secret_value()) <= 128:
            raise ValueError("must be 8 to 128 characters long")
        return value

    @field_validator("database_url")
    @classmethod
    def _known_database(cls, value: str) -> str:
        if value and not value.startswith(("sqlite+aiosqlite:///", "postgresql+asyncpg://")):
            raise ValueError("must begin with postgresql+asyncpg:// or sqlite+aiosqlite:///")
        return value

    @field_validator("public_url", "jwks_url", "ray_address")
    @classmethod
    def _http_url(cls, value: str) -> str:
        if value and not value.startswith(("http://", "https://")):
            raise ValueError("must begin with http:// or https://")
        return value.rstrip("/")

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.jwt_secret and self.jwks_url:
            raise ValueError("AIWM_JWT_SECRET and AIWM_JWKS_URL exclude each other: set one of them")
        ports = [port for port in (self.port, self.iam_port) if port]
        if len(set(ports)) != len(ports):
            raise ValueError("AIWM_PORT and AIWM_IAM_PORT must differ (AIWM_IAM_PORT=0 switches the IAM's port off)")
        return self

    @classmethod
    def from_env(cls, environ: Mapping[str, str]) -> Self:
        """Raises StartError naming every wrong or unknown variable at once; values are never quoted."""
        given = {name: value for name, value in environ.items() if name.startswith(PREFIX)}
        try:
            return cls.model_validate({name.removeprefix(PREFIX).lower(): value for name, value in given.items()})
        except ValidationError as error:
            raise StartError("; ".join(_problem(item) for item in error.errors(include_input=False))) from None

    @property
    def effective_database_url(self) -> str:
        # Quoted: a folder's name may hold what means something else in a URL.
        return self.database_url or f"sqlite+aiosqlite:///{quote(str(self.data_dir / DATABASE))}"

    def effective_log_format(self, output: TextIO) -> str:
        return self.log_format or ("console" if output.isatty() else "json")

    @property
    def effective_model_dir(self) -> Path:
        return self.model_dir or self.data_dir / "models"

    @property
    def effective_allowed_hosts(self) -> tuple[str, ...]:
        if not self.allowed_hosts and not is_loopback(self.host):
            return (ANY_HOST,)
        public = urlsplit(self.public_url).hostname
        return self.allowed_hosts if public is None else (*self.allowed_hosts, public)

    @property
    def effective_public_url(self) -> str:
        return self.public_url or self.at_port(self.port)

    def at_port(self, port: int) -> str:
        """The URL of a port of this program, as this machine reaches it."""
        host = "localhost" if self.host in {"127.0.0.1", "0.0.0.0", "::", "::1"} else self.host
        return f"http://{f'[{host}]' if ':' in host else host}:{port}"


def _is_fernet_key(text: str) -> bool:
    try:
        return len(base64.b64decode(text, altchars=b"-_", validate=True)) == 32
    except ValueError:
        return False


def _problem(error: Any) -> str:
    if not error["loc"]:
        return str(error["msg"]).removeprefix("Value error, ")
    name = PREFIX + str(error["loc"][0]).upper()
    if error["type"] == "extra_forbidden":
        return f"{name} is not a setting; `aiwm settings` lists them all"
    return f"{name} {str(error['msg']).removeprefix('Value error, ')}"


def table() -> list[tuple[str, str, str]]:
    """Every setting as (variable, default, manual), in the order of the source."""
    manual = _docstrings()
    rows = []
    for name, field in Settings.model_fields.items():
        default = field.default
        shown = "" if default in (None, "", ()) else str(default)
        rows.append((PREFIX + name.upper(), shown, manual[name]))
    return rows


def _docstrings() -> dict[str, str]:
    """Those below the fields. pydantic can read them too, but would at every start, which takes a tenth of a second."""
    [found] = ast.parse(inspect.getsource(Settings)).body
    assert isinstance(found, ast.ClassDef)  # noqa: S101 - it is the source of a class
    docstrings = {}
    for field, below in pairwise(found.body):
        match field, below:
            case ast.AnnAssign(target=ast.Name(id=name)), ast.Expr(value=ast.Constant(value=str(text))):
                docstrings[name] = inspect.cleandoc(text)
    return docstrings
