"""The composition root: Settings in, the running program out. The only file that knows every room.

What is started is stopped in the opposite order, which is why `running` is one nest of contexts:

    accept and drain (the server, in `cli.serve`) -> flush the recorder -> close upstream connections -> close the store
"""

from __future__ import annotations

import asyncio
import math
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Mapping, Sequence
from contextlib import asynccontextmanager, nullcontext, suppress
from dataclasses import astuple, dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

import httpx2

from aiwm import logs
from aiwm.control.api_keys import ApiKeys
from aiwm.control.attempts import Attempts
from aiwm.control.changes import Changes
from aiwm.control.deployments import Deployments
from aiwm.control.downloads import Downloads
from aiwm.control.engines import Elsewhere, Engines
from aiwm.control.hearing import Hearing
from aiwm.control.limits import Limits
from aiwm.control.models import Models
from aiwm.control.nodes import Nodes, own_id
from aiwm.control.organizations import Organizations
from aiwm.control.repricing import Difference, reprice
from aiwm.control.secrets import Resealed, reseal
from aiwm.control.sessions import Sessions
from aiwm.control.takeover import Takeover
from aiwm.control.targets import EngineAt, Targets
from aiwm.control.usage import UsageReports
from aiwm.control.users import Users
from aiwm.domain import times
from aiwm.domain.times import Clock
from aiwm.domain.usage import UsageRow
from aiwm.engines.process import PASSED_ON, ProcessDriver
from aiwm.engines.ray import RayDriver
from aiwm.engines.registry import kinds
from aiwm.errors import StartError, Unavailable
from aiwm.files.folders import Folders
from aiwm.files.hub import Hub
from aiwm.identity import keys
from aiwm.identity.jwks import RemoteKeys
from aiwm.identity.passwords import Passwords
from aiwm.identity.revocations import Revocations, Revoked
from aiwm.identity.secrets import SecretBox
from aiwm.identity.signatures import KeySource, OwnKey, SharedSecret, embedded
from aiwm.identity.tokens import TokenSigner, TokenVerifier
from aiwm.metering import retention
from aiwm.metering.book import Book
from aiwm.metering.journal import Journal, recover, watch
from aiwm.metering.limits import Limiter
from aiwm.metering.metrics import Metrics
from aiwm.metering.prices import Prices
from aiwm.metering.recorder import Recorder
from aiwm.metering.worst_case import Ceilings
from aiwm.proxy.handler import Inference
from aiwm.proxy.upstream import Upstream
from aiwm.settings import LONGEST_TOKEN_SECONDS, Settings
from aiwm.store.api_keys import ApiKeyStore
from aiwm.store.attempts import AttemptStore
from aiwm.store.audit import AuditStore
from aiwm.store.database import Database
from aiwm.store.deployments import DeploymentStore
from aiwm.store.ledger import LedgerStore
from aiwm.store.limits import LimitStore
from aiwm.store.models import ModelStore
from aiwm.store.nodes import NodeStore, ResourceStore
from aiwm.store.organizations import OrganizationStore
from aiwm.store.repricing import Repricing
from aiwm.store.sessions import SessionStore
from aiwm.store.usage import UsageStore
from aiwm.store.users import UserStore
from aiwm.targets import TargetTable
from aiwm.web.asgi import Asgi
from aiwm.web.bodies import JsonBodies
from aiwm.web.call import Application, Call
from aiwm.web.front import Front
from aiwm.web.later import Later
from aiwm.wire.addresses import AddressPolicy
from aiwm.wire.hosts import Hosts
from aiwm.wire.origins import Origin, Timeouts
from aiwm.workers.siblings import Siblings

# FastAPI and all that is made with it take as long to load as the rest together, and inference needs none of it: it is
# imported by the functions that `Later` runs on a thread.
if TYPE_CHECKING:
    from fastapi import APIRouter

    from aiwm.api.operation import Check

CONTROL_BODY_BYTES = 1024 * 1024
"""Largest body of the control plane; the largest that makes sense has a tenth of it."""

GATEWAY = """One door to every model. Register a provider's model, deploy it, and send what the provider's own API
takes to `/deployments/{id}/inference/...` with your AIWM token."""
IDENTITY = "Who may use AIWM: logins, users and organizations."

_log = logs.Log(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Program:
    """What runs. `identity` is the embedded IAM; it is None, like all that belongs to it, when another IAM signs."""

    gateway: Application
    identity: Application | None
    models: Models
    deployments: Deployments
    nodes: Nodes
    hosting: Engines
    users: UserStore
    signer: TokenSigner | None
    admin_password: str | None
    """Only at the first start, when nobody chose one: to be shown once."""
    write_books: Callable[[], None]
    """To be called before anything is sent to callers: what they are sent is booked."""
    whole: Awaitable[None]
    """Done when the control plane is made too; who calls it before waits."""


@asynccontextmanager
async def running(
    settings: Settings,
    *,
    variable: Callable[[str], str | None],
    draining: Callable[[], bool],
    interrupted: Callable[[], bool] = lambda: True,
    upstreams: tuple[str, ...] = (),
    siblings: Siblings | None = None,
    clock: Clock = times.now,
    passwords: Passwords | None = None,
) -> AsyncIterator[Program]:
    """`variable` reads the server's environment for `env:NAME`; `upstreams` are allowed besides the settings' own.
    `interrupted` says at the end whether a person stopped it, who expects that nothing is left running.

    Raises StartError, with one line that says what to do.
    """
    siblings = siblings or Siblings()
    keys.make_directory(settings.data_dir)
    policy = _policy((*settings.private_upstreams, *upstreams))
    box = _box(settings)
    # As long as any token can live: it may have been issued when the setting was longer.
    revocations = Revocations(
        keep_seconds=LONGEST_TOKEN_SECONDS,
        clock=clock,
        announce=lambda sessions: siblings.changed("sessions", *sessions),
    )

    async with (
        _closing(Database(settings.effective_database_url)) as database,
        _hearing(siblings) as changes,
        _client(settings.jwks_url) as http,
        # Engines are on this machine: no proxy of the environment stands between.
        _client(settings.ray_address, trust_env=False) as health,
    ):
        await database.migrate()
        users = UserStore(database)
        sessions = SessionStore(database)
        model_store = ModelStore(database)
        deployment_store = DeploymentStore(database)
        api_key_store = ApiKeyStore(database)

        own_key = _own_key(settings)
        remote = RemoteKeys(settings.jwks_url, http, clock=clock)
        source: KeySource = remote if own_key is None else own_key

        async def revoked_since(time: int) -> list[Revoked]:
            return [*await sessions.revoked_since(time), *await api_key_store.revoked_since(time)]

        verifier = TokenVerifier(
            source,
            api_key=api_key_store.by_digest,
            issuer=settings.jwt_issuer,
            audience=settings.jwt_audience,
            revocations=revocations,
            clock=clock,
        )

        table = TargetTable()
        driver = ProcessDriver(settings.data_dir / "engines", _passed_on(variable))
        cluster = _cluster(settings, health)
        nodes = Nodes(
            store=NodeStore(database),
            resources=ResourceStore(database),
            deployments=deployment_store,
            kinds=kinds(settings.engines_file),
            folder=settings.data_dir,
            path=driver.path,
            cluster=cluster,
            clock=clock,
            placing=lambda: siblings.lock("placing"),
        )
        targets = Targets(
            table=table,
            models=model_store,
            deployments=deployment_store,
            unseal=box.open,
            variable=variable,
            timeouts=Timeouts(settings.connect_timeout, settings.first_byte_timeout, settings.idle_timeout),
            hold_seconds=settings.hold_seconds,
            most_waiting=settings.hold_requests,
            wake=lambda id_: engines.wake(id_) if siblings.leads else siblings.lead("wake", id_),
            here=nodes.here.id,
            announce=siblings.changed,
        )
        engines = Engines(
            deployments=deployment_store,
            models=model_store,
            targets=targets,
            nodes=nodes,
            driver=driver,
            cluster=cluster,
            takeover=Takeover(
                nodes=nodes,
                deployments=deployment_store,
                models=model_store,
                targets=targets,
                cluster=cluster,
                clock=clock,
            ),
            http=health,
            folder=settings.data_dir / "engines",
            drain_seconds=settings.drain_seconds,
            stops_at_end=lambda: interrupted() or not settings.keep_engines,
            clock=clock,
            elsewhere=_Elsewhere(siblings),
        )
        ledger = LedgerStore(database)
        journals = settings.data_dir / "journal"
        journal = Journal(journals, fsync_seconds=settings.journal_fsync_ms / 1000)
        prices = Prices(model_store.prices_of)

        async def add(rows: Sequence[UsageRow]) -> Sequence[UsageRow]:
            priced = await prices.priced(rows)
            await ledger.add(priced)
            return priced

        ceilings = Ceilings(settings.budget_input_tokens, settings.budget_output_tokens)
        limiter = Limiter(prices=prices, ceilings=ceilings, clock=clock, counts=siblings.counts)
        limits = Limits(
            store=LimitStore(database),
            limiter=limiter,
            add=add,
            clock=clock,
            turn=lambda: siblings.lock("ledger"),
            announce=partial(siblings.changed, "limit"),
        )

        async def save(rows: Sequence[UsageRow]) -> None:
            await limits.saved(rows)
            journal.settled(rows)

        recorder = Recorder(save)
        metrics = Metrics(
            waiting=lambda: recorder.waiting, failing=lambda: journal.failing, refused=lambda: limiter.refused
        )
        book = Book(journal, recorder, metrics)

        async def recovered() -> None:
            """What processes left that died is moved into the ledger."""
            async with siblings.lock("journals"):
                deaths = await siblings.deaths()
                await recover(journals, limits.recovered)
                if deaths:
                    await limits.load()  # What they have spent is in the sums before their reservations go.
                    siblings.mourned(deaths)

        async def settled() -> None:
            """Every answer that was given, by whichever worker, is in the ledger."""
            await asyncio.gather(book.flush(), siblings.ask("flush"))
            if await siblings.deaths():
                await recovered()

        downloads = Downloads(
            store=model_store,
            hub=Hub(settings.effective_model_dir, variable=variable),
            folders=Folders(settings.model_paths),
            at_once=settings.parallel_downloads,
            clock=clock,
            elsewhere=None if siblings.leads else lambda place: siblings.lead("fetch", astuple(place)),
        )
        models = Models(
            store=model_store, targets=targets, downloads=downloads, seal=box.seal, settled=settled, clock=clock
        )
        deployments = Deployments(
            store=deployment_store,
            models=model_store,
            targets=targets,
            nodes=nodes,
            hosting=engines,
            settled=settled,
            clock=clock,
        )

        api_keys = ApiKeys(store=api_key_store, revocations=revocations, uses=verifier.take_uses, clock=clock)

        checks = _checks(database, journal, recorder, draining)

        async def ready() -> str:
            """What is wrong with this worker."""
            for name, check in checks.items():
                try:
                    await check()
                except Unavailable as error:
                    return f"worker {siblings.number}: {name}: {error}"
            return ""

        async def others_ready() -> None:
            for wrong in await siblings.ask("ready"):
                if wrong:
                    raise Unavailable(wrong)

        async def shown_metrics() -> bytes:
            return metrics.exposition(await siblings.tallies(metrics.tally()))

        hearing = Hearing(
            changes=changes,
            table=table,
            targets=targets,
            engines=engines,
            limits=limits,
            revocations=revocations,
            revoked_since=revoked_since,
            downloads=downloads,
            recovered=recovered,
        )
        # Heard from here on, and read after it: nothing that changes falls in between.
        await siblings.join({**hearing.words, "flush": book.flush, "tally": metrics.tally, "ready": ready})
        await revocations.refresh(revoked_since)
        if siblings.leads:
            await nodes.enroll()
        await targets.load()
        await _recovered(recovered)
        await (limits.load() if siblings.leads else limits.learn())

        log = logs.request_log(level=settings.log_level, as_json=settings.log_format == "json", worker=siblings.number)
        hosts = Hosts(settings.effective_allowed_hosts)
        control_bytes = min(settings.max_body_bytes, CONTROL_BODY_BYTES)
        iam = (
            None
            if own_key is None
            else _Iam(
                settings, own_key, database, verifier, revocations, clock, passwords or Passwords(), control_bytes
            )
        )
        admin_password = None if iam is None else await iam.users.ensure_admin(lambda: _admin_password(settings))

        def api() -> Application:
            from aiwm.api.routes import api_routes
            from aiwm.web.application import application

            app = application(
                title="AIWM",
                description=GATEWAY,
                routers=[
                    *api_routes(
                        model_verbs=models,
                        deployment_verbs=deployments,
                        node_verbs=nodes,
                        api_key_verbs=api_keys,
                        limit_verbs=limits,
                        usage_reports=UsageReports(store=UsageStore(database), settled=settled),
                        audit_log=AuditStore(database),
                        tokens=verifier,
                        checks=checks | {"workers": others_ready},
                        metrics=shown_metrics,
                        draining=draining,
                        public_url=settings.effective_public_url,
                        clock=clock,
                    ),
                    *([] if iam is None else [iam.auth_routes()]),
                ],
            )
            return Asgi(JsonBodies(app, max_bytes=control_bytes))

        control = Later(api)
        identity = None if iam is None else Later(iam.application)

        async with (
            _closing(remote),
            nullcontext() if iam is None else _closing(iam),
            engines.running() if siblings.leads else nullcontext(),
            _background(nodes.watch(reports=siblings.leads)),
            _background(nodes.watch_cluster(reports=siblings.leads)),
            _closing(Upstream(policy=policy)) as upstream,
            _journaling(journal),
            _background(watch(recovered)),
            _background(limits.watch(counts=siblings.leads)),
            _recording(book, recorder),
            _background(revocations.watch(revoked_since)),
            _background(api_keys.watch_uses()),
            _background(
                retention.watch(ledger.expire, keep_days=settings.ledger_days if siblings.leads else 0, clock=clock)
            ),
            _closing(downloads),
            _background(downloads.watch()),
            _background(_made(control, identity, prices, table)) as whole,
        ):
            inference = Inference(
                tokens=verifier,
                targets=table,
                upstream=upstream,
                book=book,
                gate=limiter,
                clock=clock,
                max_body_bytes=settings.max_body_bytes,
            )
            yield Program(
                gateway=Front(_Planes(inference, control), hosts=hosts, log=log),
                write_books=book.write,
                identity=None if identity is None else Front(identity, hosts=hosts, log=log),
                models=models,
                deployments=deployments,
                nodes=nodes,
                hosting=engines,
                users=users,
                signer=None if iam is None else iam.signer,
                admin_password=None if settings.admin_password else admin_password,
                whole=whole,
            )


async def resealed(settings: Settings) -> Resealed:
    """Seals all stored secrets anew with the newest encryption key, beside programs that run. Raises StartError."""
    async with _closing(Database(settings.effective_database_url, must_exist=True)) as database:
        try:
            await database.ping()
            return await reseal(ModelStore(database), AuditStore(database), _box(settings), clock=times.now)
        except Unavailable as error:
            raise StartError(f"secrets can't be sealed anew: {error}; all are good as they are, try again") from error


async def repriced(
    settings: Settings, *, since: int | None, until: int | None, model: str | None, dry_run: bool
) -> Mapping[str, Difference]:
    """Prices the ledger's rows anew, beside programs that run; what that changes, by model. Raises StartError."""
    async with _closing(Database(settings.effective_database_url, must_exist=True)) as database:
        try:
            await database.ping()
            priced = Prices(ModelStore(database).prices_of).priced
            return await reprice(Repricing(database), priced, since=since, until=until, model=model, dry_run=dry_run)
        except Unavailable as error:
            raise StartError(f"rows can't be priced anew: {error}. What was changed until then is right") from error


class _Elsewhere(Elsewhere):
    """The siblings, which serve from the engines of the one that leads."""

    def __init__(self, siblings: Siblings) -> None:
        self._siblings = siblings

    def ready(self, deployment_id: str, engines: Sequence[EngineAt]) -> None:
        self._siblings.tell("engines", deployment_id, engines)

    async def left(self, deployment_id: str, address: Origin | None) -> None:
        await self._siblings.ask("left", deployment_id, address, seconds=None)

    async def idle_seconds(self, deployment_id: str) -> float:
        return min(await self._siblings.ask("idle", deployment_id), default=math.inf)


class _Iam:
    """The parts of the embedded IAM, put together."""

    def __init__(
        self,
        settings: Settings,
        key: OwnKey | SharedSecret,
        database: Database,
        tokens: TokenVerifier,
        revocations: Revocations,
        clock: Clock,
        passwords: Passwords,
        max_bytes: int,
    ) -> None:
        self._passwords = passwords
        store = UserStore(database)
        self.signer = TokenSigner(
            key,
            issuer=settings.jwt_issuer,
            audience=settings.jwt_audience,
            lifetime_seconds=settings.access_token_seconds,
            clock=clock,
        )
        self.users = Users(store=store, passwords=passwords, revocations=revocations, clock=clock)
        self._organizations = Organizations(store=OrganizationStore(database), revocations=revocations, clock=clock)
        self._sessions = Sessions(
            users=store,
            sessions=SessionStore(database),
            attempts=Attempts(store=AttemptStore(database), clock=clock),
            passwords=passwords,
            signer=self.signer,
            revocations=revocations,
            refresh_seconds=settings.refresh_token_seconds,
            clock=clock,
        )
        self._tokens = tokens
        self._max_bytes = max_bytes

    def auth_routes(self) -> APIRouter:
        """What stands on the gateway's port, too."""
        from aiwm.iam.routes import auth_routes

        return auth_routes(sessions=self._sessions, tokens=self._tokens, published_keys=self.signer.published_keys)

    def application(self) -> Application:
        from aiwm.iam.routes import iam_routes
        from aiwm.web.application import application

        routes = iam_routes(
            sessions=self._sessions,
            users=self.users,
            organizations=self._organizations,
            tokens=self._tokens,
            published_keys=self.signer.published_keys,
        )
        app = application(title="AIWM identity", description=IDENTITY, routers=routes)
        return Asgi(JsonBodies(app, max_bytes=self._max_bytes))

    async def aclose(self) -> None:
        self._passwords.close()


class _Planes:
    """Inference goes straight to the proxy; everything else is the control plane's, with its own middleware."""

    def __init__(self, inference: Inference, control: Application) -> None:
        self._inference = inference
        self._control = control

    def __call__(self, call: Call) -> Coroutine[Any, Any, None]:
        return (self._inference if self._inference.takes(call) else self._control)(call)


# -- parts that settings choose


def _client(address: str, *, trust_env: bool = True) -> httpx2.AsyncClient:
    """For an address of the settings; without one, for engines of this machine, which are asked without TLS."""
    return httpx2.AsyncClient(trust_env=trust_env, transport=None if address else _Local())


class _Local(httpx2.AsyncBaseTransport):
    """What sends, made when there is something to send: it takes two megabytes, and most gateways run no engine."""

    def __init__(self) -> None:
        self._making = asyncio.Lock()
        self._made: httpx2.AsyncBaseTransport | None = None

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        async with self._making:
            if self._made is None:
                self._made = await asyncio.to_thread(_without_authorities)
        return await self._made.handle_async_request(request)

    async def aclose(self) -> None:
        if self._made is not None:
            await self._made.aclose()


def _without_authorities() -> httpx2.AsyncBaseTransport:
    """Nobody is trusted by TLS: the usual list takes 2 MB and a twentieth of a start."""
    return httpx2.AsyncHTTPTransport(trust_env=False, verify=ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT))


def _policy(allowed: tuple[str, ...]) -> AddressPolicy:
    try:
        return AddressPolicy(allowed)
    except ValueError as error:
        raise StartError(f"AIWM_PRIVATE_UPSTREAMS: {error}") from None


def _box(settings: Settings) -> SecretBox:
    if settings.encryption_keys is not None:
        return SecretBox(settings.encryption_keys.get_secret_value().replace(",", " ").split())
    file = keys.EncryptionKeyFile(settings.data_dir)
    return SecretBox(file.keys, news=file.news)


def _passed_on(variable: Callable[[str], str | None]) -> dict[str, str]:
    """What engines see of the server's environment."""
    return {name: value for name in PASSED_ON if (value := variable(name)) is not None}


def _cluster(settings: Settings, http: httpx2.AsyncClient) -> RayDriver | None:
    if not settings.ray_address:
        return None
    token = "" if settings.ray_token is None else settings.ray_token.get_secret_value()
    folder = settings.data_dir / "engines"
    return RayDriver(settings.ray_address, token=token, folder=folder, mark=own_id(settings.data_dir), http=http)


def _own_key(settings: Settings) -> OwnKey | SharedSecret | None:
    """What the embedded IAM signs with; None when another IAM does."""
    if settings.jwks_url:
        return None
    secret = settings.jwt_secret
    return embedded(settings.data_dir, None if secret is None else secret.get_secret_value())


def _admin_password(settings: Settings) -> str:
    if settings.admin_password is not None:
        return settings.admin_password.get_secret_value()
    return keys.admin_password(settings.data_dir)


def _checks(database: Database, journal: Journal, recorder: Recorder, draining: Callable[[], bool]) -> dict[str, Check]:
    async def ledger() -> None:
        if recorder.failing:
            raise Unavailable(f"{recorder.waiting} rows wait for the database")

    async def journaled() -> None:
        if journal.failing:
            raise Unavailable("it can't be written; make room on the disk of the data directory")

    async def accepting() -> None:
        if draining():
            raise Unavailable("AIWM is stopping")

    return {"database": database.ping, "journal": journaled, "ledger": ledger, "accepting": accepting}


# -- starting and stopping


class _Closable(Protocol):
    async def aclose(self) -> None: ...


_C = TypeVar("_C", bound=_Closable)


@asynccontextmanager
async def _closing(thing: _C) -> AsyncIterator[_C]:
    try:
        yield thing
    finally:
        await thing.aclose()


@asynccontextmanager
async def _background(work: Coroutine[Any, Any, None]) -> AsyncIterator[asyncio.Task[None]]:
    """Runs beside what is inside, and is cancelled after it."""
    task = asyncio.create_task(work)
    try:
        yield task
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task


async def _made(control: Later, identity: Later | None, prices: Prices, table: TargetTable) -> None:
    """One after the other: all at once would take as long."""
    await control.run()
    if identity is not None:
        await identity.run()
    await prices.load()
    await table.make_all()


@asynccontextmanager
async def _hearing(siblings: Siblings) -> AsyncIterator[Changes]:
    """What the others have changed is followed until nothing is served any more, and no longer."""
    changes = Changes()
    try:
        yield changes
    finally:
        await siblings.part()
        await changes.aclose()


@asynccontextmanager
async def _journaling(journal: Journal) -> AsyncIterator[None]:
    async with _background(journal.run()):
        try:
            yield
        finally:
            journal.close()


async def _recovered(recovered: Callable[[], Awaitable[None]]) -> None:
    try:
        await recovered()
    except Unavailable as error:
        raise StartError(f"the ledger can't be written: {error}") from error


@asynccontextmanager
async def _recording(book: Book, recorder: Recorder) -> AsyncIterator[None]:
    """The recorder at work; what is recorded is in the ledger when this ends, unless the database stays away."""
    async with _background(recorder.run()):
        try:
            yield
        finally:
            try:
                await book.flush()
            except Unavailable:
                _log.warning("the database is away: rows wait in the journal for the next start", rows=recorder.waiting)
