"""store/lists.py: search, order and pages, the same on both engines. Shown on models; every list is made of it."""

from __future__ import annotations

from pathlib import Path

import store_rows as rows
from aiwm.domain.models import Scope
from aiwm.domain.pages import PageQuery
from aiwm.store.database import Database
from aiwm.store.models import ModelStore

MAI = rows.principal()


async def _names(store: ModelStore, **query: object) -> list[str]:
    return [model.name for model in (await store.list(MAI, PageQuery(**query))).items]  # type: ignore[arg-type]


SEARCHES: list[tuple[str, set[str]]] = [
    ("gpt", {"GPT-4", "gpt_4", "chat gpt"}),
    ("GPT", {"GPT-4", "gpt_4", "chat gpt"}),
    ("%", {"100% sure"}),
    ("100%", {"100% sure"}),
    ("0% s", {"100% sure"}),
    ("_", {"gpt_4"}),
    ("t_4", {"gpt_4"}),
    ("/", {"a/b"}),
    ("a/b", {"a/b"}),
    ("\\", {"back\\slash"}),
    ("'", {"o'neil"}),
    ('"', {'"quoted"'}),
    ("[a-z]", {"[a-z]"}),
    ("*", set()),
    ("g%t", set()),
    ("École", {"École"}),
    ("cole", {"École"}),
    ("描述", {"模型"}),
    ("words in a description", {"described"}),
    ("  ", set()),
    (";--", set()),
]


async def test_a_search_finds_its_characters_as_they_are(database: Database) -> None:
    store = ModelStore(database)
    for name in (
        "GPT-4",
        "gpt_4",
        "chat gpt",
        "100% sure",
        "a/b",
        "back\\slash",
        "o'neil",
        '"quoted"',
        "[a-z]",
        "École",
    ):
        await store.add(rows.model(name=name))
    await store.add(rows.model(name="模型", description="这是描述"))
    await store.add(rows.model(name="described", description="Some WORDS in a description"))

    for search, found in SEARCHES:
        assert set(await _names(store, search=search, limit=100)) == found, search


async def test_letters_beyond_ascii_have_cases_on_sqlite_too(tmp_path: Path) -> None:
    """On PostgreSQL it is for the locale to say, that its operator gave the database."""
    database = Database(f"sqlite+aiosqlite:///{tmp_path / 'aiwm.db'}")
    await database.migrate()
    store = ModelStore(database)
    await store.add(rows.model(name="ÉCOLE Ω"))
    assert await _names(store, search="école ω") == ["ÉCOLE Ω"]
    await database.aclose()


async def test_pages_hold_everything_once_though_all_sort_keys_are_equal(database: Database) -> None:
    store = ModelStore(database)
    ids = set()
    for _ in range(23):
        model = rows.model(created_at=5, name="same")
        ids.add(model.id)
        await store.add(model)

    for sort in ("createdAt", "-createdAt", "name", "-name", "status"):
        pages = [await store.list(MAI, PageQuery(page=page, limit=10, sort=sort)) for page in (1, 2, 3, 4)]
        assert [len(page.items) for page in pages] == [10, 10, 3, 0]
        assert {model.id for page in pages for model in page.items} == ids
        assert {page.total for page in pages} == {23}


async def test_a_list_is_sorted_by_each_of_its_fields_both_ways(database: Database) -> None:
    store = ModelStore(database)
    await store.add(rows.model(name="b", created_at=1, updated_at=9))
    await store.add(rows.model(name="a", created_at=2, updated_at=8))
    await store.add(rows.model(name="c", created_at=3, updated_at=7))

    assert await _names(store) == ["c", "a", "b"]
    assert await _names(store, sort="createdAt") == ["b", "a", "c"]
    assert await _names(store, sort="updatedAt") == ["c", "a", "b"]
    assert await _names(store, sort="name") == ["a", "b", "c"]
    assert await _names(store, sort="-name") == ["c", "b", "a"]


async def test_a_page_far_behind_the_last_is_empty_and_still_counts(database: Database) -> None:
    store = ModelStore(database)
    await store.add(rows.model())
    page = await store.list(MAI, PageQuery(page=1_000_000, limit=100))
    assert (list(page.items), page.total) == ([], 1)


async def test_no_search_and_no_filter_reaches_beyond_the_tenant(database: Database) -> None:
    store = ModelStore(database)
    await store.add(rows.model(name="theirs", org_id="blue", scope=Scope.ORG))
    for query in (
        {"search": "theirs"},
        {"search": "%"},
        {"equals": {"scope": "org"}},
        {"equals": {"status": "active"}},
    ):
        assert await _names(store, **query) == []
