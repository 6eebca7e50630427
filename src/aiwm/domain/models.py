"""Models: what an operator registers, and the rules a model follows."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from enum import StrEnum

from aiwm.domain.prices import PriceEntry
from aiwm.domain.sources import Place
from aiwm.errors import Invalid, WrongState


class ModelType(StrEnum):
    LLM = "llm"
    VISION = "vision"
    EMBEDDING = "embedding"
    VOICE = "voice"


class DeploymentType(StrEnum):
    API_BASED = "api-based"
    SELF_HOSTED = "self-hosted"


class Scope(StrEnum):
    PUBLIC = "public"
    ORG = "org"
    PRIVATE = "private"


class ModelStatus(StrEnum):
    QUEUED = "queued"
    DOWNLOADING = "downloading"
    DOWNLOADED = "downloaded"
    ACTIVE = "active"
    INACTIVE = "inactive"
    DOWNLOAD_FAILED = "download-failed"
    ERROR = "error"


FETCHING = (ModelStatus.QUEUED, ModelStatus.DOWNLOADING, ModelStatus.DOWNLOADED)
"""States of a model whose files are on their way: in line, arriving, arrived and being checked."""

FETCHABLE = (ModelStatus.DOWNLOAD_FAILED, ModelStatus.ERROR)
"""States in which fetching the files can be tried again."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Download:
    """How far the files of a model have come. `file` is the one that is on its way."""

    bytes_done: int
    bytes_total: int
    file: str


@dataclass(frozen=True, slots=True)
class Sealed:
    """A secret at rest: `token` is its encryption, `masked` is all that is ever shown of it."""

    token: str
    masked: str


ApiConfig = Mapping[str, str | Sealed]


@dataclass(frozen=True, slots=True, kw_only=True)
class Model:
    id: str
    org_id: str
    user_id: str
    name: str
    type: ModelType
    description: str
    deployment_type: DeploymentType
    scope: Scope
    status: ModelStatus
    provider: str | None = None
    api_endpoint: str | None = None
    model_identifier: str | None = None
    api_config: ApiConfig | None = None
    prices: tuple[PriceEntry, ...] | None = None
    """What its operator has set; None if it costs what the price list says."""
    repository: str | None = None
    framework: str | None = None
    file_name: str | None = None
    file_size: int | None = None
    download_path: str | None = None
    """What an engine loads: a file, or a folder of files. Known before they are there only if a caller said it."""
    download: Download | None = None
    error_message: str | None = None
    created_by: str
    updated_by: str
    created_at: int
    updated_at: int

    @property
    def is_api_based(self) -> bool:
        return self.deployment_type is DeploymentType.API_BASED

    @property
    def place(self) -> Place:
        return Place(self.repository or "", self.file_name, self.download_path)

    def require_fetchable(self) -> None:
        if self.is_api_based:
            raise WrongState(f'Model "{self.name}" is api-based: it has no files to download')
        if self.status in FETCHING:
            raise WrongState(f'Model "{self.name}" is being downloaded already. Current status: {self.status}')
        if self.status not in FETCHABLE:
            raise WrongState(f'Model "{self.name}" has its files already. Current status: {self.status}')

    def require_deployable(self) -> None:
        """Raises WrongState, in the words of the guide, unless a deployment of it may run."""
        if self.status is not ModelStatus.ACTIVE:
            raise WrongState(
                f"Model \"{self.name}\" must be in 'active' status to create deployment. Current status: {self.status}"
            )


def first_status(deployment_type: DeploymentType) -> ModelStatus:
    """A provider's model is ready at once; one that we host has to be fetched first."""
    return ModelStatus.ACTIVE if deployment_type is DeploymentType.API_BASED else ModelStatus.QUEUED


# -- apiConfig: which keys there are, which are secret, which values are allowed

KEY_FIELDS = ("apiKey", "x-api-key")
TIMEOUT_FIELDS = ("timeout", "connect-timeout", "idle-timeout")
"""Seconds that override the settings for this model; `timeout` is for the first byte of an answer."""
PLAIN_FIELDS = ("organization", "project", "anthropic-version", "api-version", *TIMEOUT_FIELDS)
HEADER_PREFIX = "header-"
ENV_PREFIX = "env:"

MAX_VALUE = 8192
_LONGEST_HEADER = 128
_SHOWN = 100
"""How much of a field's name is said in an error."""
MASK = "…"
"""Stands in every masked secret, and in no secret."""
_TOKEN = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_CREDENTIAL_NAME = re.compile(r"key|token|secret|auth|passw|signature|credential", re.IGNORECASE)
_SECONDS = re.compile(r"[0-9]{1,6}(\.[0-9]{1,6})?")
_ENV_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")

FORBIDDEN_HEADERS = frozenset(
    {
        "connection", "keep-alive", "proxy-authenticate", "proxy-authorization", "proxy-connection", "te",
        "trailer", "transfer-encoding", "upgrade", "http2-settings",
        "host", "content-length", "expect", "cookie", "set-cookie",
        "authorization", "x-api-key", "x-goog-api-key", "api-key",
    }
)  # fmt: skip
"""Hop-by-hop, framing, cookies, and every header that a credential travels in."""


def is_secret(field: str) -> bool:
    """Whether the value of this apiConfig key is encrypted and masked."""
    return field in KEY_FIELDS or (field.startswith(HEADER_PREFIX) and bool(_CREDENTIAL_NAME.search(field)))


def is_env_reference(value: str) -> bool:
    return value.startswith(ENV_PREFIX)


def check_api_config(given: Mapping[str, str], *, kept: Collection[str] = ()) -> None:
    """Raises Invalid with one text for each wrong entry. `kept` names entries that are stored already and stay."""
    problems = [problem for field, value in given.items() if (problem := _problem(field, value))]
    keys = [field for field in KEY_FIELDS if given.get(field) or field in kept]
    if not keys:
        problems.append("apiConfig.apiKey: the provider's key is required (x-api-key is accepted too)")
    if len(keys) > 1:
        problems.append("apiConfig: give apiKey or x-api-key, not both")
    headers = Counter(field.lower() for field in (*given, *kept) if field.startswith(HEADER_PREFIX))
    problems += [f"apiConfig.{header}: is given in two spellings" for header, number in headers.items() if number > 1]
    if problems:
        raise Invalid(problems)


def _problem(field: str, value: str) -> str | None:
    where = f"apiConfig.{field[:_SHOWN]}"
    if field.startswith(HEADER_PREFIX):
        name = field.removeprefix(HEADER_PREFIX)
        if len(name) > _LONGEST_HEADER:
            return f"{where}: a header name has at most {_LONGEST_HEADER} characters"
        if not _TOKEN.fullmatch(name):
            return f"{where}: is not a header name"
        if name.lower() in FORBIDDEN_HEADERS:
            return f"{where}: the header {name} can't be set here; AIWM or the connection sets it"
    elif field not in KEY_FIELDS and field not in PLAIN_FIELDS:
        known = ", ".join((*KEY_FIELDS, *PLAIN_FIELDS, f"{HEADER_PREFIX}*"))
        return f"{where}: unknown; known are {known}"
    if any(ord(character) < 32 or ord(character) == 127 for character in value):
        return f"{where}: must not contain control characters"
    if MASK in value:
        return (
            f"{where}: is the masked form of another key; give the key itself, or leave the stored one's mask as it is"
        )
    if not value.isascii():
        return f"{where}: must be ASCII, because it travels in a header"
    if len(value) > MAX_VALUE:
        return f"{where}: must be at most {MAX_VALUE} characters"
    if value != value.strip():
        return f"{where}: must not begin or end with a space"
    if is_env_reference(value):
        name = value.removeprefix(ENV_PREFIX)
        if not _ENV_NAME.fullmatch(name):
            return f"{where}: env: must be followed by the name of a variable"
        if name.startswith("AIWM_"):
            return f"{where}: AIWM's own variables can't be referred to"
    if field in TIMEOUT_FIELDS and not _is_seconds(value):
        return f"{where}: must be seconds between 0.1 and 86400"
    return None


def _is_seconds(text: str) -> bool:
    return bool(_SECONDS.fullmatch(text)) and 0.1 <= float(text) <= 86_400
