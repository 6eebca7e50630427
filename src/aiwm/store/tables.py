"""The schema. `migrations/` builds it; a test proves that the two agree.

Ids are 24 hex digits made above this room, times are milliseconds since the epoch. A row with
`deleted_at` is gone for every question but those of the ledger.
"""

from __future__ import annotations

from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    ForeignKey,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    String,
    Table,
    Text,
    text,
)

metadata = MetaData(
    naming_convention={
        "pk": "pk_%(table_name)s",
        "fk": "fk_%(table_name)s_%(column_0_name)s",
        "ix": "ix_%(table_name)s_%(column_0_N_name)s",
        "uq": "uq_%(table_name)s_%(column_0_N_name)s",
    }
)

_ID = String(24)


def _history() -> list[Column[object]]:
    return [
        Column("created_by", String(255), nullable=False),
        Column("updated_by", String(255), nullable=False),
        Column("created_at", BigInteger, nullable=False),
        Column("updated_at", BigInteger, nullable=False),
        Column("deleted_at", BigInteger),
    ]


organizations = Table(
    "organizations",
    metadata,
    Column("id", _ID, primary_key=True),
    Column("name", String(100), nullable=False),
    Column("description", String(500), nullable=False),
    *_history(),
)

users = Table(
    "users",
    metadata,
    Column("id", _ID, primary_key=True),
    Column("org_id", _ID, ForeignKey("organizations.id"), nullable=False, index=True),
    Column("username", String(100), nullable=False),
    Column("username_key", String(200), nullable=False),
    Column("fullname", String(200), nullable=False),
    Column("password_hash", Text, nullable=False),
    Column("status", String(16), nullable=False),
    Column("roles", Text, nullable=False),
    *_history(),
    Index(
        "uq_users_username_key",
        "username_key",
        unique=True,
        sqlite_where=text("deleted_at IS NULL"),
        postgresql_where=text("deleted_at IS NULL"),
    ),
)
"""`roles` is a JSON list. `username_key` is the casefolded name: case does not make another user. It can be used
again once its user is deleted."""

sessions = Table(
    "sessions",
    metadata,
    Column("id", _ID, primary_key=True),
    Column("user_id", _ID, ForeignKey("users.id"), nullable=False, index=True),
    Column("refresh_hash", String(64), nullable=False),
    Column("created_at", BigInteger, nullable=False),
    Column("expires_at", BigInteger, nullable=False),
    Column("revoked_at", BigInteger, index=True),
)
"""One login. `refresh_hash` is the SHA-256 of the one refresh token that is good now: any other token of the
session is an old one, and showing it revokes the session."""

api_keys = Table(
    "api_keys",
    metadata,
    Column("id", _ID, primary_key=True),
    Column("org_id", String(255), nullable=False),
    Column("user_id", String(255), nullable=False, index=True),
    Column("name", String(100), nullable=False),
    Column("digest", LargeBinary(32), nullable=False, unique=True),
    Column("masked", String(32), nullable=False),
    Column("deployments", Text),
    Column("expires_at", BigInteger),
    Column("last_used_at", BigInteger),
    *_history(),
    Index("ix_api_keys_org_id_created_at", "org_id", "created_at"),
    Index("ix_api_keys_deleted_at", "deleted_at"),
)
"""`digest` is the SHA-256 of the secret, which is nowhere. `deployments` is a JSON list of ids. A key that is revoked
is deleted."""

models = Table(
    "models",
    metadata,
    Column("id", _ID, primary_key=True),
    Column("org_id", String(255), nullable=False),
    Column("user_id", String(255), nullable=False),
    Column("name", String(100), nullable=False),
    Column("type", String(16), nullable=False),
    Column("description", String(500), nullable=False),
    Column("deployment_type", String(16), nullable=False),
    Column("scope", String(16), nullable=False),
    Column("status", String(16), nullable=False),
    Column("provider", String(100)),
    Column("api_endpoint", Text),
    Column("model_identifier", String(200)),
    Column("api_config", Text),
    Column("repository", String(500)),
    Column("framework", String(100)),
    Column("file_name", String(500)),
    Column("file_size", BigInteger),
    Column("download_path", String(1000)),
    *_history(),
    Index("ix_models_org_id_created_at", "org_id", "created_at"),
)
"""`api_config` is a JSON object; a secret in it is `{"sealed": ..., "masked": ...}`. `org_id` and `user_id` may
come from another IAM's tokens, so they are no foreign keys."""

deployments = Table(
    "deployments",
    metadata,
    Column("id", _ID, primary_key=True),
    Column("org_id", String(255), nullable=False),
    Column("user_id", String(255), nullable=False),
    Column("name", String(100), nullable=False),
    Column("description", String(500), nullable=False),
    Column("model_id", _ID, ForeignKey("models.id"), nullable=False, index=True),
    Column("node_id", _ID),
    Column("resource_id", _ID),
    Column("allowed_models", Text),
    Column("stream_usage", String(16), nullable=False),
    Column("on_disconnect", String(16), nullable=False),
    Column("status", String(16), nullable=False),
    Column("error_message", Text),
    *_history(),
    Index("ix_deployments_org_id_created_at", "org_id", "created_at"),
)

deployment_totals = Table(
    "deployment_totals",
    metadata,
    Column("deployment_id", _ID, primary_key=True),
    Column("requests", BigInteger, nullable=False),
    Column("tokens", BigInteger, nullable=False),
)
"""Sums of `ledger` by deployment, kept in the transaction that adds the rows. Its own table, so that counting
never waits for someone who changes a deployment."""

ledger_labels = Table(
    "ledger_labels",
    metadata,
    Column("id", Integer, primary_key=True, autoincrement=True),
    Column("digest", LargeBinary(16), nullable=False, unique=True),
    Column("org_id", String(255), nullable=False, index=True),
    Column("user_id", String(255), nullable=False),
    Column("deployment_id", _ID, nullable=False, index=True),
    Column("model_id", _ID, nullable=False),
    Column("provider", String(100), nullable=False),
    Column("model_asked", String(200)),
    Column("model_answered", String(200)),
    Column("service_tier", String(50)),
    Column("status", Integer),
    Column("streamed", Boolean, nullable=False),
    Column("end", String(16), nullable=False),
    Column("source", String(16), nullable=False),
)
"""The words of ledger rows, each combination once: a row names its own by number. `digest` is a hash of the others."""

ledger = Table(
    "ledger",
    metadata,
    Column("request_id", LargeBinary(12), primary_key=True),
    Column("labels_id", Integer, ForeignKey("ledger_labels.id"), nullable=False),
    Column("correlation_id", String(128)),
    Column("provider_request_id", String(200)),
    Column("started_at", BigInteger, nullable=False),
    Column("first_byte_ms", Integer),
    Column("total_ms", BigInteger, nullable=False),
    Column("input_tokens", BigInteger, nullable=False),
    Column("output_tokens", BigInteger, nullable=False),
    Column("cache_read_tokens", BigInteger, nullable=False),
    Column("cache_write_tokens", BigInteger, nullable=False),
    Column("cache_write_1h_tokens", BigInteger, nullable=False),
    Column("reasoning_tokens", BigInteger, nullable=False),
    Column("input_audio_tokens", BigInteger, nullable=False),
    Column("output_audio_tokens", BigInteger, nullable=False),
    Column("input_image_tokens", BigInteger, nullable=False),
    Column("output_image_tokens", BigInteger, nullable=False),
    Column("raw_usage", Text),
    Index("ix_ledger_labels_id_request_id", "labels_id", "request_id"),
    sqlite_with_rowid=False,
)
"""One row for each request that reached a provider; see `aiwm.domain.usage.UsageRow`. `request_id` is the id's bytes,
in the order of time. `correlation_id` is null when it is the request's own id."""
