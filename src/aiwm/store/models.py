"""Models in the database. Every look-up carries who looks: another organization's model is not there."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace
from decimal import Decimal
from typing import Any, NamedTuple

import orjson
from sqlalchemy import ColumnElement, Row, and_, bindparam, case, insert, or_, select, update

from aiwm.domain.audit import AuditEntry
from aiwm.domain.deployments import USING_ITS_MODEL
from aiwm.domain.models import (
    FETCHING,
    ApiConfig,
    DeploymentType,
    Download,
    Model,
    ModelStatus,
    ModelType,
    Scope,
    Sealed,
)
from aiwm.domain.pages import Page, PageQuery
from aiwm.domain.prices import OwnPrices, PriceEntry
from aiwm.domain.sources import Place
from aiwm.domain.users import Principal
from aiwm.store.audit import record
from aiwm.store.connection import AsyncConnection
from aiwm.store.database import Database
from aiwm.store.lists import matching, page
from aiwm.store.tables import deployments, models

FIELDS = {
    "status": models.c.status,
    "type": models.c.type,
    "provider": models.c.provider,
    "deploymentType": models.c.deployment_type,
    "scope": models.c.scope,
}
"""API name -> column: what a list can be filtered by."""

SORTABLE = {
    "createdAt": models.c.created_at,
    "updatedAt": models.c.updated_at,
    "name": models.c.name,
    "status": models.c.status,
}

COUNTED = {"status": models.c.status, "type": models.c.type}

# Asked for with each batch of usage, so it is made once.
_PRICES_OF = select(models.c.id, models.c.model_identifier, models.c.prices).where(
    models.c.id.in_(bindparam("ids", expanding=True)), models.c.prices.is_not(None)
)


class InTheWay(NamedTuple):
    """A deployment that needs its model."""

    id: str
    name: str
    org_id: str


class ModelStore:
    def __init__(self, database: Database) -> None:
        self._database = database

    async def add(self, model: Model, *, entry: AuditEntry | None = None) -> None:
        async with self._database.writing() as connection:
            await connection.execute(insert(models).values(_columns(model)))
            await record(connection, entry)

    async def get(self, principal: Principal, model_id: str) -> Model | None:
        """The model, if the caller may see it."""
        async with self._database.reading() as connection:
            return await _one(connection, models.c.id == model_id, _visible(principal))

    async def list(self, principal: Principal, query: PageQuery) -> Page[Model]:
        where = and_(
            models.c.deleted_at.is_(None),
            _visible(principal),
            *matching(query, FIELDS, searched=(models.c.name, models.c.description)),
        )
        async with self._database.reading() as connection:
            return await page(connection, models, where, query, SORTABLE, COUNTED, _model)

    async def change(self, before: Model, after: Model, *, entry: AuditEntry | None = None) -> bool:
        """Writes `after`, unless somebody else changed the model since `before` was read: then False."""
        async with self._database.writing() as connection:
            return await _change(connection, before, after, entry=entry)

    async def retire(
        self, before: Model, after: Model, *, deleted_at: int | None = None, entry: AuditEntry | None = None
    ) -> tuple[Sequence[InTheWay], bool]:
        """Writes `after` (or deletes) only if no deployment that runs needs the model.

        Answers the deployments that stand in the way, of all organizations, and whether the change was made.
        """
        async with self._database.writing() as connection:
            # The lock that `DeploymentStore.add` and `start` wait for: none can begin to use the model meanwhile.
            await connection.execute(select(models.c.id).where(models.c.id == before.id).with_for_update())
            using = await connection.execute(
                select(deployments.c.id, deployments.c.name, deployments.c.org_id)
                .where(
                    deployments.c.model_id == before.id,
                    deployments.c.deleted_at.is_(None),
                    deployments.c.status.in_(USING_ITS_MODEL),
                )
                .order_by(deployments.c.created_at)
            )
            if in_the_way := [InTheWay(*row) for row in using]:
                return in_the_way, False
            return (), await _change(connection, before, after, deleted_at=deleted_at, entry=entry)

    async def reseal(self, anew: Callable[[str, Sealed], Sealed], *, after: str, limit: int = 100) -> str | None:
        """Writes the secrets of the next models after that id as `anew` (model id, secret) answers them.

        Deleted models, too: what is theirs is stored as well. Answers the last id, None at the end. It is no change of
        the model: nobody's own change is refused for it.
        """
        async with self._database.writing() as connection:
            rows = await connection.execute(
                select(models.c.id, models.c.api_config)
                .where(models.c.id > after, models.c.api_config.is_not(None))
                .order_by(models.c.id)
                .limit(limit)
                .with_for_update()
            )
            last = None
            for last, text in rows.all():
                before = _config(text)
                fresh = {
                    name: anew(last, value) if isinstance(value, Sealed) else value for name, value in before.items()
                }
                if fresh != before:
                    changed = update(models).where(models.c.id == last).values(api_config=_config_json(fresh))
                    await connection.execute(changed)
            return last

    async def all(self) -> Sequence[Model]:
        """Every model that is not deleted, of all organizations: to build targets from."""
        async with self._database.reading() as connection:
            rows = await connection.execute(select(models).where(models.c.deleted_at.is_(None)))
            return [_model(row) for row in rows]

    async def prices_of(self, model_ids: Collection[str]) -> Mapping[str, OwnPrices]:
        """What operators have set for these models, deleted ones too, whoever asks; only for the ledger."""
        ids = {"ids": list(model_ids)}
        found = await self._database.read(lambda connection: connection.execute(_PRICES_OF, ids).all())
        return {row.id: OwnPrices(row.model_identifier, _prices(row.prices)) for row in found}

    async def by_id(self, model_id: str) -> Model | None:
        """The model of a deployment, whoever asks; only for building targets."""
        async with self._database.reading() as connection:
            return await _one(connection, models.c.id == model_id)

    # -- downloads: what is written here is written for all models, of all organizations, that wait for the same files

    async def waited_for(self) -> Collection[Place]:
        """The files that any model waits for."""
        columns = (models.c.repository, models.c.file_name, models.c.download_path)
        async with self._database.reading() as connection:
            rows = await connection.execute(select(*columns).where(_waiting()).order_by(models.c.created_at))
            return dict.fromkeys(Place(*row) for row in rows)

    async def progress(self, place: Place, status: ModelStatus, download: Download | None) -> bool:
        """Says how far the files have come; False when no model waits for them any more.

        `updated_at` stays: nobody changed the model.
        """
        values: dict[str, Any] = {"status": status}
        if download is not None:
            values["download"] = _download_json(download)
        async with self._database.writing() as connection:
            result = await connection.execute(update(models).where(_waiting_for(place)).values(values))
            return result.rowcount > 0

    async def arrived(self, place: Place, path: str, size: int, *, at: int) -> Sequence[str]:
        """The files are there and whole; answers the models that became active."""
        return await self._settle(place, at, status=ModelStatus.ACTIVE, download_path=path, file_size=size)

    async def failed(self, place: Place, status: ModelStatus, reason: str, *, at: int) -> Sequence[str]:
        """They will not come by themselves."""
        return await self._settle(place, at, status=status, error_message=reason)

    async def _settle(self, place: Place, at: int, **values: Any) -> Sequence[str]:
        later = case((models.c.updated_at >= at, models.c.updated_at + 1), else_=at)
        async with self._database.writing() as connection:
            result = await connection.execute(
                update(models).where(_waiting_for(place)).values(values | {"updated_at": later}).returning(models.c.id)
            )
            return [row.id for row in result]


def _waiting() -> ColumnElement[bool]:
    return and_(
        models.c.deployment_type == DeploymentType.SELF_HOSTED,
        models.c.status.in_(FETCHING),
        models.c.deleted_at.is_(None),
    )


def _waiting_for(place: Place) -> ColumnElement[bool]:
    return and_(
        _waiting(),
        models.c.repository == place.repository,
        models.c.file_name.is_not_distinct_from(place.file_name),
        models.c.download_path.is_not_distinct_from(place.path),
    )


def _visible(principal: Principal) -> ColumnElement[bool]:
    """public: everybody; org: its organization; private: its creator, and the operator acting there.

    For an API key that is limited, only the models of its deployments.
    """
    if principal.deployments is not None:
        of_it = select(deployments.c.model_id).where(
            deployments.c.id.in_(principal.deployments),
            deployments.c.org_id == principal.org_id,
            deployments.c.deleted_at.is_(None),
        )
        return and_(models.c.id.in_(of_it), _visible(replace(principal, deployments=None)))
    own = models.c.org_id == principal.org_id
    if principal.is_universe_owner:
        return or_(models.c.scope == Scope.PUBLIC, own)
    return or_(
        models.c.scope == Scope.PUBLIC,
        and_(own, or_(models.c.scope == Scope.ORG, models.c.user_id == principal.user_id)),
    )


async def _one(connection: AsyncConnection, *where: ColumnElement[bool]) -> Model | None:
    row = (await connection.execute(select(models).where(models.c.deleted_at.is_(None), *where))).one_or_none()
    return None if row is None else _model(row)


async def _change(
    connection: AsyncConnection,
    before: Model,
    after: Model,
    *,
    deleted_at: int | None = None,
    entry: AuditEntry | None,
) -> bool:
    result = await connection.execute(
        update(models)
        .where(
            models.c.id == before.id,
            models.c.deleted_at.is_(None),
            models.c.status == before.status,
            models.c.updated_at == before.updated_at,
        )
        .values(**_columns(after), deleted_at=deleted_at)
    )
    if result.rowcount != 1:
        return False
    await record(connection, entry)
    return True


def _columns(model: Model) -> dict[str, Any]:
    columns = {column.name: getattr(model, column.name) for column in models.c if column.name != "deleted_at"}
    return columns | {
        "api_config": None if model.api_config is None else _config_json(model.api_config),
        "prices": None if model.prices is None else _prices_json(model.prices),
        "download": None if model.download is None else _download_json(model.download),
    }


def _model(row: Row[Any]) -> Model:
    # By place: half the time of asking the row for each name, and a start reads all rows.
    values = dict(zip(row._fields, row, strict=True))
    del values["deleted_at"]
    values |= {
        "type": ModelType(row.type),
        "deployment_type": DeploymentType(row.deployment_type),
        "scope": Scope(row.scope),
        "status": ModelStatus(row.status),
        "api_config": None if row.api_config is None else _config(row.api_config),
        "prices": None if row.prices is None else _prices(row.prices),
        "download": None if row.download is None else Download(**orjson.loads(row.download)),
    }
    return Model(**values)


def _download_json(download: Download) -> str:
    return orjson.dumps(download).decode()


def _config_json(config: ApiConfig) -> str:
    return orjson.dumps(
        {
            name: {"sealed": value.token, "masked": value.masked} if isinstance(value, Sealed) else value
            for name, value in config.items()
        }
    ).decode()


def _config(text: str) -> ApiConfig:
    return {
        name: value if isinstance(value, str) else Sealed(value["sealed"], value["masked"])
        for name, value in orjson.loads(text).items()
    }


def _prices_json(prices: Sequence[PriceEntry]) -> str:
    return orjson.dumps(
        [{"since": entry.since, "rates": {axis: str(rate) for axis, rate in entry.rates}} for entry in prices]
    ).decode()


def _prices(text: str) -> tuple[PriceEntry, ...]:
    return tuple(
        PriceEntry(entry["since"], tuple((axis, Decimal(rate)) for axis, rate in entry["rates"].items()))
        for entry in orjson.loads(text)
    )
