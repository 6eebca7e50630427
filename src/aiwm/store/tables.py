"""The schema. `migrations/` builds it; a test proves that the two agree.

Ids are 24 hex digits made above this room, times are milliseconds since the epoch. A row with
`deleted_at` is gone for every question but those of the ledger.

An index with a condition has it on PostgreSQL too, where the migration gives it: to be said here it would load all that
SQLAlchemy knows of PostgreSQL, two megabytes, beside SQLite too.
"""

from __future__ import annotations

from typing import Any

from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    Float,
    ForeignKey,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    Numeric,
    String,
    Table,
    Text,
    text,
)

from aiwm.domain.usage import Usage

metadata = MetaData(
    naming_convention={
        "pk": "pk_%(table_name)s",
        "fk": "fk_%(table_name)s_%(column_0_name)s",
        "ix": "ix_%(table_name)s_%(column_0_N_name)s",
        "uq": "uq_%(table_name)s_%(column_0_N_name)s",
    }
)

_ID = String(24)

_SUM = Numeric(30, 0).with_variant(BigInteger(), "sqlite")
"""A sum of numbers that callers and providers have a say in: no number of them makes it too large to be written."""


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
    Index("uq_users_username_key", "username_key", unique=True, sqlite_where=text("deleted_at IS NULL")),
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

failed_attempts = Table(
    "failed_attempts",
    metadata,
    Column("id", Integer, primary_key=True, autoincrement=True),
    Column("digest", LargeBinary(16), nullable=False),
    Column("failed_at", BigInteger, nullable=False),
    Index("ix_failed_attempts_digest_failed_at", "digest", "failed_at"),
    Index("ix_failed_attempts_failed_at", "failed_at"),
)
"""Of logging in; `digest` is a hash of the account or network. A row goes with the next failure after its time."""

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
    Column("prices", Text),
    Column("repository", String(500)),
    Column("framework", String(100)),
    Column("file_name", String(500)),
    Column("file_size", BigInteger),
    Column("download_path", Text),
    Column("download", Text),
    Column("error_message", Text),
    *_history(),
    Index("ix_models_org_id_created_at", "org_id", "created_at"),
)
"""`api_config` is a JSON object; a secret in it is `{"sealed": ..., "masked": ...}`; `download` is one
too. `prices` is a JSON list. `org_id` and `user_id` may come from another IAM's tokens, so they are no foreign keys."""

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
    Column("arguments", Text, nullable=False),
    Column("replicas", Integer, nullable=False),
    Column("idle_timeout", Integer),
    Column("keeper_id", _ID),
    Column("placement", Text),
    Column("status", String(16), nullable=False),
    Column("error_message", Text),
    *_history(),
    Index("ix_deployments_org_id_created_at", "org_id", "created_at"),
)

limits = Table(
    "limits",
    metadata,
    Column("id", _ID, primary_key=True),
    Column("org_id", String(255), nullable=False),
    Column("subject_type", String(16), nullable=False),
    Column("subject_id", String(255), nullable=False),
    Column("requests_per_minute", BigInteger),
    Column("tokens_per_minute", BigInteger),
    Column("concurrent_requests", BigInteger),
    Column("budget", BigInteger),
    Column("budget_per", String(8)),
    *_history(),
    Index("ix_limits_org_id_created_at", "org_id", "created_at"),
)
"""`budget` is in picodollars."""

audit = Table(
    "audit",
    metadata,
    Column("id", _ID, primary_key=True),
    Column("org_id", String(255), nullable=False),
    Column("user_id", String(255), nullable=False),
    Column("username", String(255), nullable=False),
    Column("user_org_id", String(255), nullable=False),
    Column("action", String(50), nullable=False),
    Column("object_type", String(20), nullable=False),
    Column("object_id", _ID, nullable=False),
    Column("object_name", String(100), nullable=False),
    Column("before", Text),
    Column("after", Text),
    Column("correlation_id", String(128), nullable=False),
    Column("created_at", BigInteger, nullable=False),
    Index("ix_audit_org_id_created_at", "org_id", "created_at"),
    Index("ix_audit_user_org_id_created_at", "user_org_id", "created_at"),
)
"""One row for each change of one thing, written in its transaction and never changed. `before` and `after` are JSON
objects without secrets."""

nodes = Table(
    "nodes",
    metadata,
    Column("id", _ID, primary_key=True),
    Column("kind", String(16), nullable=False),
    Column("name", String(255), nullable=False),
    Column("facts", Text, nullable=False),
    Column("readings", Text, nullable=False),
    Column("seen_at", BigInteger, nullable=False),
    Column("created_at", BigInteger, nullable=False),
)
"""`facts` and `readings` are JSON objects. Whether a node is online follows from when it was seen."""

resources = Table(
    "resources",
    metadata,
    Column("id", _ID, primary_key=True),
    Column("org_id", String(255), nullable=False),
    Column("user_id", String(255), nullable=False),
    Column("node_id", _ID, ForeignKey("nodes.id"), nullable=False),
    Column("name", String(100), nullable=False),
    Column("type", String(32), nullable=False),
    Column("gpus", Integer, nullable=False),
    Column("cpus", Float, nullable=False),
    Column("memory_bytes", BigInteger, nullable=False),
    *_history(),
    Index("ix_resources_org_id_created_at", "org_id", "created_at"),
)

deployment_totals = Table(
    "deployment_totals",
    metadata,
    Column("deployment_id", _ID, primary_key=True),
    Column("requests", BigInteger, nullable=False),
    Column("tokens", _SUM, nullable=False),
    Column("cost", _SUM, nullable=False),
    Column("unpriced", BigInteger, nullable=False),
    sqlite_with_rowid=False,
)
"""Sums of all ledger rows that ever were, by deployment, kept in the transaction that adds the rows. Its own table, so
that counting never waits for someone who changes a deployment. `cost` is in picodollars; `unpriced` counts requests of
which it is not known."""


def _tokens(kind: Any) -> list[Column[Any]]:
    return [Column(name, kind, nullable=False) for name in Usage.__struct_fields__]


ledger_labels = Table(
    "ledger_labels",
    metadata,
    Column("id", Integer, primary_key=True, autoincrement=True),
    Column("digest", LargeBinary(16), nullable=False, unique=True),
    Column("org_id", String(255), nullable=False, index=True),
    Column("user_id", String(255), nullable=False),
    Column("api_key_id", _ID),
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
    Column("price", Text),
)
"""The words of ledger rows, each combination once: a row names its own by number. `digest` is a hash of the others."""

ledger = Table(
    "ledger",
    metadata,
    Column("request_id", LargeBinary(12), primary_key=True),
    Column("labels_id", Integer, ForeignKey("ledger_labels.id"), nullable=False),
    Column("org_hash", Integer, nullable=False),
    Column("correlation_id", String(128)),
    Column("provider_request_id", String(200)),
    Column("started_at", BigInteger, nullable=False),
    Column("first_byte_ms", BigInteger),
    Column("total_ms", BigInteger, nullable=False),
    *_tokens(BigInteger),
    Column("cost", BigInteger),
    Column("raw_usage", Text),
    Index("ix_ledger_org_hash_started_at_request_id_labels_id", "org_hash", "started_at", "request_id", "labels_id"),
    sqlite_with_rowid=False,
)
"""One row for each request that reached a provider; see `aiwm.domain.usage.UsageRow`. `request_id` is the id's bytes.
`correlation_id` is null when it is the request's own id. `cost` is in picodollars, null when it is unknown. `org_hash`
stands in for the organization in the index, in a sixth of its bytes: rows of one organization are next to each other
in the order of time, and their labels say whether they are really its own."""

usage_series = Table(
    "usage_series",
    metadata,
    Column("id", Integer, primary_key=True, autoincrement=True),
    Column("digest", LargeBinary(16), nullable=False, unique=True),
    Column("org_id", String(255), nullable=False, index=True),
    Column("user_id", String(255), nullable=False),
    Column("api_key_id", _ID),
    Column("deployment_id", _ID, nullable=False),
    Column("model", String(200), nullable=False),
    Column("provider", String(100), nullable=False),
)
"""What requests are summed by, each combination once. `digest` is a hash of the others."""

usage_sums = Table(
    "usage_sums",
    metadata,
    Column("series_id", Integer, ForeignKey("usage_series.id"), primary_key=True),
    Column("hours", Integer, primary_key=True),
    Column("start", BigInteger, primary_key=True),
    Column("requests", BigInteger, nullable=False),
    Column("errors", BigInteger, nullable=False),
    *_tokens(_SUM),
    Column("cost", _SUM, nullable=False),
    Column("unpriced", BigInteger, nullable=False),
    Column("total_ms", _SUM, nullable=False),
    Column("first_byte_ms", _SUM, nullable=False),
    Column("first_byte_count", BigInteger, nullable=False),
    Column("total", LargeBinary, nullable=False),
    Column("first_byte", LargeBinary, nullable=False),
    Index("ix_usage_sums_start", "start", sqlite_where=text("hours = 1")),
    sqlite_with_rowid=False,
)
"""Sums of `ledger` by series and period, `hours` long (1 or 24), without what is in `usage_recent`; see
`aiwm.domain.reports.Sums`. `total` and `first_byte` are histograms, see `aiwm.domain.latencies`. The index is for
letting old hours go; reports come by series, so that one organization's never meets another's."""

usage_recent = Table(
    "usage_recent",
    metadata,
    Column("part", Integer, primary_key=True, autoincrement=False),
    Column("id", LargeBinary(12), primary_key=True),
    Column("sums", LargeBinary, nullable=False),
    sqlite_with_rowid=False,
)
"""What is not in `usage_sums` yet, kept in the transaction that adds the rows; whoever reads those brings it there
before. `part` stands for some series that are next to each other; `sums` is JSON, see `aiwm.store.sums`."""

usage_horizon = Table(
    "usage_horizon",
    metadata,
    Column("id", Integer, primary_key=True, autoincrement=False),
    Column("hours_since", BigInteger, nullable=False),
)
"""Since when hourly sums are kept, in one row with the id 1; in none as long as none were removed."""
