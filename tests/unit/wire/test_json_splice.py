"""The deployed model is cut into a body, and nothing else of the body changes."""

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from aiwm.errors import Invalid
from aiwm.wire.json_splice import Spliced, with_model, with_stream_usage

ALIASES = frozenset({"my-deployment", "65f0c0ffee65f0c0ffee65f0"})


def spliced(body: bytes, *, model: str = "gpt-4o", allowed: frozenset[str] | None = None) -> Spliced:
    return with_model(body, model=model, aliases=ALIASES, allowed=allowed)


# --- a body without a model


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        (b"{}", b'{"model":"gpt-4o"}'),
        (b"{ }", b'{"model":"gpt-4o" }'),
        (b" \r\n\t{\n}\n", b' \r\n\t{"model":"gpt-4o"\n}\n'),
        (b'{"a":1}', b'{"model":"gpt-4o","a":1}'),
        (b'\n{ "a" : 1 }', b'\n{"model":"gpt-4o", "a" : 1 }'),
        (b'{"a":{"model":"x"}}', b'{"model":"gpt-4o","a":{"model":"x"}}'),
        (b'{"a":[{"model":"x"},{"model":"y"}]}', b'{"model":"gpt-4o","a":[{"model":"x"},{"model":"y"}]}'),
        (b'{"a":"model"}', b'{"model":"gpt-4o","a":"model"}'),
        (b'{"a":"\\"model\\":"}', b'{"model":"gpt-4o","a":"\\"model\\":"}'),
        (b'{"a":", \\"model\\": 1"}', b'{"model":"gpt-4o","a":", \\"model\\": 1"}'),
        (b'{"Model":"x"}', b'{"model":"gpt-4o","Model":"x"}'),
        (b'{"\\"model":1,"model\\"":2}', b'{"model":"gpt-4o","\\"model":1,"model\\"":2}'),
    ],
)
def test_the_deployed_model_is_cut_in_after_the_first_brace(body: bytes, expected: bytes):
    assert spliced(body) == Spliced(expected, "gpt-4o", is_object=True, stream=False)


@pytest.mark.parametrize("model", ["gpt-4o", 'a"b\\c', "ü/模型", "", "\n"])
def test_the_models_name_is_written_as_json(model: str):
    assert json.loads(spliced(b'{"a":1}', model=model).body) == {"model": model, "a": 1}


def test_numbers_spaces_duplicates_and_escapes_stay_as_they_were():
    rest = b' "n":12345678901234567890123,"f" :1.10e+2,"a":1, "a":2,"s":"\\u00e9\\/\xc3\xa9", "e":1E999 } '
    assert spliced(b"{" + rest).body == b'{"model":"gpt-4o",' + rest


# --- a body with a model


@pytest.mark.parametrize(
    "body",
    [
        b'{"model":"other"}',
        b'{"a":1, "model" : "other" }',
        b'{"mod\\u0065l":"other"}',
        b'{"a":{"model":"my-deployment"},"model":"other"}',
        b'{"model":"\\u006fther"}',
    ],
)
def test_a_model_that_is_there_stays(body: bytes):
    assert spliced(body) == Spliced(body, "other", is_object=True, stream=False)


@pytest.mark.parametrize("value", [b"null", b"1", b"true", b"[]", b'{"model":"my-deployment"}'])
def test_a_model_that_is_no_text_stays_and_is_unknown(value: bytes):
    body = b'{"model":' + value + b',"a":1}'
    assert spliced(body) == Spliced(body, None, is_object=True, stream=False)


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        (b'{"model":"my-deployment"}', b'{"model":"gpt-4o"}'),
        (b'{"a":1, "model" :\n"my-deployment" ,"b":2}', b'{"a":1, "model" :\n"gpt-4o" ,"b":2}'),
        (b'{"model":"65f0c0ffee65f0c0ffee65f0"}', b'{"model":"gpt-4o"}'),
        (b'{"model":"my\\u002ddeployment"}', b'{"model":"gpt-4o"}'),
        (b'{"\\u006d\\u006F\\u0064e\\u006c":"my-deployment"}', b'{"\\u006d\\u006F\\u0064e\\u006c":"gpt-4o"}'),
        (
            b'{"a":{"model":"my-deployment"},"model":"my-deployment","b":[{"model":"my-deployment"}]}',
            b'{"a":{"model":"my-deployment"},"model":"gpt-4o","b":[{"model":"my-deployment"}]}',
        ),
    ],
)
def test_the_deployments_own_name_means_the_deployed_model(body: bytes, expected: bytes):
    assert spliced(body) == Spliced(expected, "gpt-4o", is_object=True, stream=False)


@pytest.mark.parametrize(
    "body",
    [
        b'{"model":"a","model":"b"}',
        b'{"model":"a","model":"a"}',
        b'{"model":null,"b":{},"model":"a"}',
        b'{"model":"a","mod\\u0065l":"b"}',
        b'{"\\u006dodel":"a","m\\u006Fdel":"b"}',
        b'{"a":{"model":1},"model":"a","b":[{"model":{"model":2}}],\n\t"model" : "b"}',
        b'{"a":1,"a":{"model":2},"model":"x", "model":"y"}',
    ],
)
def test_two_models_are_refused(body: bytes):
    with pytest.raises(Invalid, match="more than one 'model'"):
        spliced(body)


def test_one_model_beside_many_nested_ones_is_one():
    body = b'{"a":{"model":1},"a":[{"model":2}],"s":"model","model":"x","\\"model":3,"z":{"mod\\u0065l":4}}'
    assert spliced(body).model == "x"


# --- streaming


@pytest.mark.parametrize(
    ("body", "stream"),
    [
        (b'{"stream":true}', True),
        (b'{"stream": true }', True),
        (b'{"stream":false}', False),
        (b'{"stream":"true"}', False),
        (b'{"stream":1}', False),
        (b'{"a":{"stream":true}}', False),
        (b"{}", False),
    ],
)
def test_it_says_whether_a_stream_is_asked_for(body: bytes, stream: bool):
    assert spliced(body).stream is stream


# --- asking for a stream's usage


ASK = b'"stream_options":{"include_usage":true}'


def asking(body: bytes) -> Spliced:
    return with_model(body, model="gpt-4o", aliases=ALIASES, stream_usage=True)


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        (b'{"model":"o3","stream":true}', b"{" + ASK + b',"model":"o3","stream":true}'),
        (b'{"stream": true }', b'{"model":"gpt-4o",' + ASK + b',"stream": true }'),
        (b'{"stream":true,"model":"my-deployment"}', b"{" + ASK + b',"stream":true,"model":"gpt-4o"}'),
        (
            b'\n{ "model":"o3","stream":true,"a":{"stream_options":{}},"s":"stream_options"}',
            b"\n{" + ASK + b', "model":"o3","stream":true,"a":{"stream_options":{}},"s":"stream_options"}',
        ),
        (
            b'{"model":"o3","stream":true,"stream_options":null}',
            b'{"model":"o3","stream":true,"stream_options":{"include_usage":true}}',
        ),
        (
            b'{"stream_options": {},"stream":true,"model":"o3"}',
            b'{"stream_options": {"include_usage":true},"stream":true,"model":"o3"}',
        ),
        (
            b'{"stream_options":{ "include_obfuscation":false},"stream":true,"model":"my-deployment"}',
            b'{"stream_options":{"include_usage":true, "include_obfuscation":false},"stream":true,"model":"gpt-4o"}',
        ),
        (
            b'{"stream_options":{"include_usage" : false },"stream":true}',
            b'{"model":"gpt-4o","stream_options":{"include_usage" : true },"stream":true}',
        ),
        (
            b'{"model":"o3","stream":true,"stream\\u005Foptions":{"a":{"include_usage":true},"include_\\u0075sage":null}}',
            b'{"model":"o3","stream":true,"stream\\u005Foptions":{"a":{"include_usage":true},"include_\\u0075sage":true}}',
        ),
    ],
)
def test_a_stream_that_does_not_ask_for_its_usage_does_then(body: bytes, expected: bytes):
    result = asking(body)
    assert (result.body, result.asks_usage) == (expected, True)
    assert not spliced(body).asks_usage
    alone = with_stream_usage(body)
    assert (alone.model, alone.stream, alone.asks_usage) == (None, True, True)
    assert spliced(alone.body).body in {expected, b'{"model":"gpt-4o",' + alone.body[1:]}


@pytest.mark.parametrize(
    "rest",
    [
        b'"stream":true,"stream_options":{"include_usage":true}',
        b'"stream":true,"stream_options":{"include_\\u0075sage":true}',
        b'"stream":true,"stream_options":{"include_usage":"yes"}',
        b'"stream":true,"stream_options":{"include_usage":1}',
        b'"stream":true,"stream_options":{"include_usage":false,"include_usage":false}',
        b'"stream":true,"stream_options":{},"stream_options":{}',
        b'"stream":true,"stream_options":[]',
        b'"stream":true,"stream_options":"all"',
        b'"stream":false',
        b'"stream":"true"',
        b'"a":{"stream":true}',
    ],
)
def test_whoever_asks_or_does_not_stream_or_can_not_be_read_is_left_alone(rest: bytes):
    body = b'{"model":"o3",' + rest + b"}"
    assert asking(body) == spliced(body)
    assert not asking(body).asks_usage
    assert (with_stream_usage(body).body, with_stream_usage(body).asks_usage) == (body, False)


# --- what is no JSON object


NO_OBJECTS = {
    "empty": b"",
    "spaces": b"  \n",
    "text": b"hello",
    "array": b'[{"model":"x"}]',
    "string": b'"model"',
    "null": b"null",
    "cut short": b'{"a":1',
    "no quotes": b"{a:1}",
    "trailing comma": b'{"a":1,}',
    "trailing garbage": b'{"a":1} x',
    "two objects": b'{"a":1}{"model":"x"}',
    "trailing NUL": b'{"a":1}\0',
    "NUL in a string": b'{"a":"\0"}',
    "line feed in a string": b'{"a":"\n"}',
    "comment": b'{/**/"a":1}',
    "byte order mark": b'\xef\xbb\xbf{"a":1}',
    "UTF-16": '{"a":1}'.encode("utf-16"),
    "UTF-16 without mark": '{"a":1}'.encode("utf-16-le"),
    "UTF-32": '{"a":1}'.encode("utf-32"),
    "invalid UTF-8": b'{"a":"\xff"}',
    "invalid UTF-8 in a key": b'{"mod\xffel":"x"}',
    "surrogate in UTF-8": b'{"a":"\xed\xa0\x80"}',
    "lone surrogate": b'{"a":"\\ud800"}',
    "NaN": b'{"a":NaN}',
    "Infinity": b'{"a":-Infinity}',
    "leading zero": b'{"a":01}',
    "unknown escape": b'{"a":"\\q"}',
    "single quotes": b"{'a':1}",
    "too deep": b'{"a":' + b"[" * 100_000 + b"]" * 100_000 + b"}",
    "form": b"model=gpt-4o&a=1",
}


@pytest.mark.parametrize("body", NO_OBJECTS.values(), ids=NO_OBJECTS)
def test_a_body_that_is_no_json_object_goes_on_as_it_is(body: bytes):
    assert with_stream_usage(body) == Spliced(body, None, is_object=False, stream=False)
    assert spliced(body) == Spliced(body, None, is_object=False, stream=False)


@pytest.mark.parametrize("body", NO_OBJECTS.values(), ids=NO_OBJECTS)
def test_a_body_whose_model_cannot_be_read_is_refused_where_models_are_limited(body: bytes):
    with pytest.raises(Invalid, match='must be a JSON object: this deployment allows "gpt-4o"'):
        spliced(body, allowed=frozenset())


# --- allowed models


ALLOWED = frozenset({"gpt-4o-mini", "o3"})


@pytest.mark.parametrize("asked", ["gpt-4o", "gpt-4o-mini", "o3"])
def test_an_allowed_model_and_the_deployments_own_pass(asked: str):
    body = json.dumps({"model": asked}).encode()
    assert spliced(body, allowed=ALLOWED) == Spliced(body, asked, is_object=True, stream=False)


def test_a_body_without_a_model_gets_the_deployments_where_models_are_limited():
    assert spliced(b"{}", allowed=ALLOWED).body == b'{"model":"gpt-4o"}'
    assert spliced(b'{"model":"my-deployment"}', allowed=ALLOWED).body == b'{"model":"gpt-4o"}'


def test_another_model_is_refused_by_name():
    with pytest.raises(Invalid) as refused:
        spliced(b'{"model":"gpt-5"}', allowed=ALLOWED)
    assert refused.value.message == (
        'Model "gpt-5" is not allowed: this deployment allows "gpt-4o", "gpt-4o-mini", "o3"'
    )


@pytest.mark.parametrize("value", [b"null", b"1", b'["o3"]', b'{"id":"o3"}'])
def test_a_model_that_is_no_text_is_refused_where_models_are_limited(value: bytes):
    with pytest.raises(Invalid, match="must be a text"):
        spliced(b'{"model":' + value + b"}", allowed=ALLOWED)


@pytest.mark.parametrize("key", [b"Model", b"MODEL", b"m\\u004fdel", b"\\u004dodel", b"mode\\u004C"])
@pytest.mark.parametrize("first", [b"", b'"model":"o3",'])
def test_a_key_that_a_careless_reader_takes_for_the_model_is_refused_where_models_are_limited(key: bytes, first: bytes):
    body = b"{" + first + b'"a":{"Model":1},"' + key + b'":"gpt-5"}'
    with pytest.raises(Invalid, match="upper and lower case"):
        spliced(body, allowed=ALLOWED)
    assert spliced(body).is_object


def test_nested_keys_in_any_case_never_matter():
    body = b'{"model":"o3","a":{"Model":1,"MODEL":2},"b":[{"mOdel":3}]}'
    assert spliced(body, allowed=ALLOWED).body == body


def test_a_long_name_is_not_repeated_in_full():
    with pytest.raises(Invalid) as refused:
        spliced(json.dumps({"model": "x" * 100_000}).encode(), allowed=ALLOWED)
    assert len(str(refused.value)) < 400


# --- against a slow implementation

_SPACE = st.sampled_from(["", "", "", " ", "\n", "\t\r\n "])
_KEY = st.sampled_from(
    [
        "model",
        "mod\\u0065l",
        "\\u006Dodel",
        "Model",
        "a",
        "a",
        "stream",
        "stream_options",
        "stream_option\\u0073",
        "include_usage",
        '\\"model',
        "model\\\\",
        ",model",
        "modell",
        "",
    ]
)
_TEXT = st.sampled_from(
    [
        "",
        "model",
        "my-deployment",
        "other",
        '\\"model\\":',
        '{\\"model\\":',
        ', \\"model',
        "\\\\",
        "[{",
        "]}",
        "é\\u006d",
    ]
)
_SCALAR = st.one_of(_TEXT.map(lambda text: f'"{text}"'), st.sampled_from(["1", "-0.10", "true", "null", "1e400"]))


def _array(items: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    return st.builds(lambda values, space: f"[{space}{','.join(values)}]", st.lists(items, max_size=3), _SPACE)


def _object(items: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    member = st.builds('{0}"{1}"{2}:{0}{3}'.format, _SPACE, _KEY, _SPACE, items)
    return st.builds(lambda members, space: f"{{{','.join(members)}{space}}}", st.lists(member, max_size=4), _SPACE)


_VALUE = st.recursive(_SCALAR, lambda items: _array(items) | _object(items), max_leaves=8)
_BODY = st.builds("{0}{1}{0}".format, _SPACE, _object(_VALUE)).map(str.encode)


def _pairs(body: bytes) -> list[tuple[str, Any]]:
    """The object's own members, duplicates and all: the outermost object is the last one the hook sees."""
    seen: list[list[tuple[str, Any]]] = []
    json.loads(body, object_pairs_hook=lambda pairs: seen.append(pairs) or dict(pairs))
    return seen[-1]


@settings(max_examples=150, deadline=None)
@given(_BODY)
def test_it_does_what_a_full_parser_would_do(body: bytes):
    before = _pairs(body)
    models = [value for key, value in before if key == "model"]
    if len(models) > 1:
        with pytest.raises(Invalid, match="more than one"):
            spliced(body)
        return
    result = spliced(body)
    after = _pairs(result.body)
    assert result.is_object
    assert result.stream is (dict(before).get("stream") is True)
    if not models:
        assert after == [("model", "gpt-4o"), *before]
        cut_in = b'"model":"gpt-4o"' + (b"," if before else b"")
        at = body.index(b"{") + 1
        assert result.body == body[:at] + cut_in + body[at:]
    elif models[0] == "my-deployment":
        assert after == [(key, "gpt-4o" if key == "model" else value) for key, value in before]
        assert len(result.body) == len(body) - len("my-deployment") + len("gpt-4o")
    else:
        assert result.body == body
    asked = dict(after)["model"]
    assert result.model == (asked if isinstance(asked, str) else None)


_STREAMING = st.builds(lambda body: b'{"stream":true,' + body.lstrip()[1:], _BODY.filter(lambda body: b":" in body))


@settings(max_examples=150, deadline=None)
@given(_STREAMING)
def test_whoever_is_made_to_ask_asks_for_nothing_else(body: bytes):
    try:
        plain, result = spliced(body), asking(body)
    except Invalid:
        return
    before, after = dict(_pairs(plain.body)), dict(_pairs(result.body))
    if not result.asks_usage:
        assert result == plain
        options = before.get("stream_options")
        assert not result.stream or "stream_options" in before
        assert (
            not result.stream
            or not isinstance(options, dict)
            or options.get("include_usage") not in (None, False)
            # Of what is there twice nobody knows which counts.
            or [key for key, _ in _pairs(plain.body)].count("stream_options") > 1
            or result.body.count(b"stream_option") + result.body.count(b"include_usage") > 2
        )
        return
    asked = after.pop("stream_options")
    assert asked.pop("include_usage") is True
    given = before.pop("stream_options", None) or {}
    assert given.pop("include_usage", None) in (None, False)
    assert (asked, after) == (given, before)


@settings(max_examples=100, deadline=None)
@given(_BODY)
def test_where_models_are_limited_only_what_every_reader_reads_alike_passes(body: bytes):
    own = [(key, value) for key, value in _pairs(body) if key.lower() == "model"]
    fine = own in ([], [("model", "my-deployment")], [("model", "other")])
    try:
        result = spliced(body, allowed=frozenset({"other"}))
    except Invalid:
        assert not fine
    else:
        assert fine
        assert dict(_pairs(result.body))["model"] in {"gpt-4o", "other"}


@settings(max_examples=100, deadline=None)
@given(st.binary(max_size=40) | st.text(alphabet='{}[]",:model\\u0065 1', max_size=40).map(str.encode))
def test_any_bytes_whatever_give_an_answer(body: bytes):
    try:
        result = spliced(body)
    except Invalid:
        return
    assert result.is_object or result.body == body
