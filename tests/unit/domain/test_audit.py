from dataclasses import replace

from aiwm.domain.api_keys import ApiKey
from aiwm.domain.audit import entry
from aiwm.domain.models import Sealed
from aiwm.domain.users import Organization, Role, User, UserStatus
from store_rows import deployment, model, principal

HISTORY = {"created_by": "mai", "updated_by": "mai", "created_at": 1, "updated_at": 1}
MAI = replace(principal(), correlation_id="c-1")


def _user(**changes: object) -> User:
    fields = {"id": "u", "org_id": "red", "username": "kim", "fullname": "Kim", "password_hash": "$argon2id$1",
              "status": UserStatus.ACTIVE, "roles": (Role.VIEWER,)}  # fmt: skip
    return User(**fields | HISTORY | changes)  # type: ignore[arg-type]


def test_an_entry_says_who_did_what_to_which_thing_in_which_request() -> None:
    thing = model(name="GPT-4")

    told = entry(MAI, "create", after=thing, at=77)

    assert (told.user_id, told.username, told.user_org_id) == ("mai", "mai", "red")
    assert (told.action, told.object_type, told.object_id, told.object_name) == (
        "model.create", "model", thing.id, "GPT-4",
    )  # fmt: skip
    assert (told.correlation_id, told.created_at, told.org_id) == ("c-1", 77, "red")
    assert told.before is None


def test_a_secret_of_a_model_is_told_as_it_is_shown() -> None:
    told = entry(MAI, "create", after=model(), at=1)

    assert told.after is not None
    assert told.after["apiConfig"] == {"apiKey": "sk-p…9xQ2", "organization": "org"}
    assert told.after["modelIdentifier"] == "gpt-4"
    assert not {"id", "orgId", "createdAt", "repository"} & told.after.keys()


def test_of_a_change_only_the_difference_is_told() -> None:
    before = model(description="old")
    after = replace(before, description="new", updated_at=before.updated_at + 1)

    told = entry(MAI, "change", before=before, after=after, at=1)

    assert (told.before, told.after) == ({"description": "old"}, {"description": "new"})


def test_another_key_with_the_same_mask_is_a_difference() -> None:
    before = model(api_config={"apiKey": Sealed("one", "…")})
    after = replace(before, api_config={"apiKey": Sealed("two", "…")})

    told = entry(MAI, "change", before=before, after=after, at=1)

    assert told.before == told.after == {"apiConfig": {"apiKey": "…"}}


def test_of_a_password_nothing_is_told_but_that_it_changed() -> None:
    before = _user()
    after = replace(before, password_hash="$argon2id$2", roles=(Role.OWNER, Role.VIEWER))

    told = entry(MAI, "change", before=before, after=after, at=1)

    assert told.before == {"password": "…", "roles": ["organization.viewer"]}
    assert told.after == {"password": "…", "roles": ["organization.owner", "organization.viewer"]}
    assert "argon2" not in str(entry(MAI, "create", after=before, at=1))


def test_of_an_api_key_not_even_the_hash_is_told() -> None:
    key = ApiKey(id="k", org_id="red", user_id="mai", name="Batch", digest=b"\x01" * 32, masked="aiwm…9xQ2",
                 deployments=("d",), expires_at=None, last_used_at=5, **HISTORY)  # type: ignore[arg-type]  # fmt: skip

    told = entry(MAI, "revoke", before=key, at=1)

    assert told.action == "apiKey.revoke"
    assert told.before == {"name": "Batch", "secret": "…", "masked": "aiwm…9xQ2", "deployments": ["d"]}
    assert told.after is None


def test_a_deleted_thing_is_told_as_it_was() -> None:
    thing = deployment(model(), name="Chat", description="d")

    told = entry(MAI, "delete", before=thing, at=1)

    assert told.before is not None
    assert (told.before["name"], told.before["status"], told.after) == ("Chat", "running", None)
    assert "totals" not in told.before


def test_an_operator_elsewhere_is_told_with_its_own_organization() -> None:
    operator = principal("op", "home", Role.UNIVERSE_OWNER).acting_in("red")

    told = entry(operator, "change", before=_user(), after=_user(fullname="K"), at=1)

    assert (told.org_id, told.user_org_id) == ("red", "home")


def test_an_organization_is_its_own_tenant() -> None:
    made = Organization(id="green", name="Green", description="", **HISTORY)  # type: ignore[arg-type]

    assert entry(principal("op", "home", Role.UNIVERSE_OWNER), "create", after=made, at=1).org_id == "green"


def test_what_happened_on_the_way_is_an_entry_of_its_own() -> None:
    told = entry(MAI, "delete", before=_user(), at=9)

    other = told.also("revoke", ApiKey, "k", "Batch", org_id="blue")

    assert (other.action, other.object_type, other.object_id, other.object_name) == (
        "apiKey.revoke", "apiKey", "k", "Batch",
    )  # fmt: skip
    assert (other.user_id, other.correlation_id, other.created_at, other.org_id) == ("mai", "c-1", 9, "blue")
    assert other.id != told.id
    assert other.before is other.after is None
