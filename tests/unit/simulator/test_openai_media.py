from __future__ import annotations

import base64
from typing import Any

import pytest

from aiwm.simulator import openai_media, tokens

from .conftest import KEYS, Answered, Ask

FORM = {**KEYS, "content-type": "multipart/form-data; boundary=b"}


def _form(size: int = 40_000, **fields: str) -> bytes:
    parts = [f'--b\r\nContent-Disposition: form-data; name="{name}"\r\n\r\n{text}\r\n' for name, text in fields.items()]
    head = '--b\r\nContent-Disposition: form-data; name="file"; filename="a.wav"\r\n\r\n'
    return "".join(parts).encode() + head.encode() + bytes(size) + b"\r\n--b--\r\n"


async def _transcribed(ask: Ask, **fields: str) -> Answered:
    return await ask("/v1/audio/transcriptions", _form(**{"model": "gpt-4o-transcribe", **fields}), headers=FORM)


@pytest.mark.parametrize(
    ("given", "vectors", "used"),
    [("Hello", 1, 2), (["Hello", ""], 2, 3), ([1, 2, 3], 1, 3), ([[1, 2], [3]], 2, 3)],
)
async def test_each_input_is_embedded_and_counted_on_its_own(ask: Ask, given: Any, vectors: int, used: int) -> None:
    answered = (await ask("/v1/embeddings", {"model": "m", "input": given, "dimensions": 4})).json
    assert [len(item["embedding"]) for item in answered["data"]] == [4] * vectors
    assert answered["usage"] == {"prompt_tokens": used, "total_tokens": used}


@pytest.mark.parametrize(("model", "size"), [("text-embedding-3-small", 1536), ("text-embedding-3-large", 3072)])
async def test_models_have_their_usual_size(ask: Ask, model: str, size: int) -> None:
    answered = (await ask("/v1/embeddings", {"model": model, "input": "Hello", "encoding_format": "base64"})).json
    assert len(base64.b64decode(answered["data"][0]["embedding"])) == 4 * size


@pytest.mark.parametrize(
    "change", [{"input": []}, {"input": 5}, {"input": None}, {"dimensions": 0}, {"dimensions": 99999}]
)
async def test_what_cannot_be_embedded_is_refused(ask: Ask, change: Any) -> None:
    assert (await ask("/v1/embeddings", {"model": "m", "input": "Hello", **change})).status == 400


async def test_a_transcription_is_counted_in_tokens(ask: Ask) -> None:
    answered = (await _transcribed(ask, prompt="Hello")).json
    assert answered["usage"] == {
        "type": "tokens",
        "input_tokens": 30 + 2,
        "input_token_details": {"text_tokens": 2, "audio_tokens": 30},
        "output_tokens": tokens.count(answered["text"]),
        "total_tokens": 30 + 2 + tokens.count(answered["text"]),
    }


async def test_whisper_is_counted_in_seconds(ask: Ask) -> None:
    assert (await _transcribed(ask, model="whisper-1")).json["usage"] == {"type": "duration", "seconds": 3}
    verbose = (await _transcribed(ask, model="whisper-1", response_format="verbose_json")).json
    assert (verbose["duration"], verbose["usage"]["seconds"]) == (3.0, 3)


@pytest.mark.parametrize(
    ("form", "start"), [("text", b"This is"), ("srt", b"1\n00:00:00,000 --> 00:00:03,000\n"), ("vtt", b"WEBVTT\n\n00:")]
)
async def test_plain_transcripts_carry_no_usage(ask: Ask, form: str, start: bytes) -> None:
    answered = await _transcribed(ask, response_format=form)
    assert answered.headers["content-type"].startswith("text/plain")
    assert answered.body.startswith(start)


async def test_a_streamed_transcription_ends_with_its_usage(ask: Ask) -> None:
    *deltas, done = (await _transcribed(ask, stream="true")).events
    assert "".join(event["delta"] for event in deltas) == done["text"]
    assert done["usage"]["output_tokens"] == len(deltas)


@pytest.mark.parametrize(
    ("body", "field"),
    [
        (b"{}", "file"),
        (b"--b--", "file"),
        (_form(), "model"),
        (_form(model="m", response_format="x"), "response_format"),
    ],
)
async def test_a_bad_upload_is_refused(ask: Ask, body: bytes, field: str) -> None:
    answered = await ask("/v1/audio/transcriptions", body, headers=FORM)
    assert (answered.status, answered.json["error"]["param"]) == (400, field)


async def test_an_upload_must_be_a_form(ask: Ask) -> None:
    assert (await ask("/v1/audio/transcriptions", {})).status == 400


@pytest.mark.parametrize(
    ("form", "start"), [("mp3", b"\xff\xfb"), ("wav", b"RIFF"), ("pcm", b"\0"), ("opus", b"No audio")]
)
async def test_speech_is_a_chunk_for_each_token(ask: Ask, form: str, start: bytes) -> None:
    answered = await ask("/v1/audio/speech", {"model": "m", "voice": "v", "input": "Hello", "response_format": form})
    assert len(answered.chunks) == 2
    assert answered.body.startswith(start)


async def test_a_wav_says_its_true_length(ask: Ask) -> None:
    answered = await ask("/v1/audio/speech", {"model": "m", "voice": "v", "input": "Hi", "response_format": "wav"})
    assert int.from_bytes(answered.body[40:44], "little") == len(answered.body) - 44


async def test_speech_as_events_has_usage(ask: Ask) -> None:
    body = {"model": "m", "voice": "v", "input": "Hello", "stream_format": "sse"}
    *_, done = (await ask("/v1/audio/speech", body)).events
    assert done["usage"] == {"input_tokens": 2, "output_tokens": 20, "total_tokens": 22}


async def test_images_are_pngs_with_usage_by_quality(ask: Ask) -> None:
    answered = (
        await ask("/v1/images/generations", {"model": "gpt-image-1", "prompt": "Hello", "quality": "high"})
    ).json
    assert base64.b64decode(answered["data"][0]["b64_json"]).startswith(b"\x89PNG")
    assert answered["usage"]["output_tokens"] == openai_media.IMAGE_TOKENS["high"]
    assert answered["usage"]["input_tokens_details"] == {"text_tokens": 2, "image_tokens": 0}


async def test_dall_e_counts_no_tokens(ask: Ask) -> None:
    answered = (await ask("/v1/images/generations", {"model": "dall-e-3", "prompt": "Hello"})).json
    assert "usage" not in answered
    assert answered["data"][0]["url"].startswith("data:image/png;base64,")
