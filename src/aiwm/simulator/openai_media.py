"""OpenAI's embeddings, audio and images.

Embeddings and transcriptions say their usage in the answer; so do images of the gpt-image models. Speech is bytes
and says nothing, unless `stream_format` is "sse". An upload of n bytes lasts ceil(n / 16000) seconds, and a second
is 10 audio tokens; a transcription's text tokens are those of the `prompt` field, if there is one. A token spoken
is 10 audio tokens too.
"""

from __future__ import annotations

import base64
import struct
import zlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from aiwm.simulator import forms, openai_protocol, tokens, vectors, words
from aiwm.simulator.dialect import Answer, Fields, Request, Wrong, broken, event_answer, json_answer
from aiwm.simulator.openai_chat import data_event, error_chunk
from aiwm.simulator.words import Said

BYTES_PER_SECOND = 16_000
AUDIO_TOKENS = 10
"""In a second heard, and for a token spoken."""

IMAGE_TOKENS = {"low": 272, "medium": 1056, "high": 4160}
"""For a square image: https://platform.openai.com/docs/guides/image-generation#cost-and-latency"""


def embed(request: Request) -> Answer:
    """POST /v1/embeddings"""
    fields = request.fields
    model, inputs = openai_protocol.model(request), _inputs(fields.needed("input"))
    usual = 3072 if model.endswith("-large") else 1536
    dimensions = fields.whole("dimensions", most=vectors.LARGEST) or usual
    encoded = fields.text("encoding_format") == "base64"
    used = sum(map(tokens.of_input, inputs))
    return json_answer(
        {
            "object": "list",
            "data": [
                {"object": "embedding", "index": index, "embedding": vectors.in_base64(values) if encoded else values}
                for index, values in enumerate(vectors.vector(item, dimensions) for item in inputs)
            ],
            "model": model,
            "usage": {"prompt_tokens": used, "total_tokens": used},
        },
        indented=True,
    )


def _inputs(given: object) -> list[Any]:
    """One text, or a list of token numbers, or a list of either."""
    if isinstance(given, str):
        return [given]
    if not isinstance(given, list) or not given:
        raise Wrong("input", "a string or an array that is not empty")
    return [given] if isinstance(given[0], int) else given


@dataclass(frozen=True, slots=True)
class _Transcript:
    said: Said
    model: str
    language: str
    seconds: int
    prompt: str

    @property
    def usage(self) -> dict[str, Any]:
        if self.model.startswith("whisper"):
            return {"type": "duration", "seconds": self.seconds}
        audio, text = self.seconds * AUDIO_TOKENS, tokens.count(self.prompt) if self.prompt else 0
        return {
            "type": "tokens",
            "input_tokens": audio + text,
            "input_token_details": {"text_tokens": text, "audio_tokens": audio},
            "output_tokens": self.said.tokens,
            "total_tokens": audio + text + self.said.tokens,
        }


def transcribe(request: Request) -> Answer:
    """POST /v1/audio/transcriptions, an upload"""
    form = forms.parts(request.headers.get(b"content-type", b""), request.body)
    if form is None:
        raise Wrong("body", "multipart/form-data")
    transcript = _transcript(request, form)
    if "stream" in form and form["stream"].text == "true" and not transcript.model.startswith("whisper"):
        return event_answer(broken(request, _transcript_events(transcript), error_chunk))
    wanted = form["response_format"].text if "response_format" in form else "json"
    if wanted not in _TRANSCRIPTS:
        raise Wrong("response_format", f"one of {', '.join(_TRANSCRIPTS)}")
    return _TRANSCRIPTS[wanted](transcript)


def _transcript(request: Request, form: Mapping[str, forms.Part]) -> _Transcript:
    if "file" not in form:
        raise Wrong("file")
    deployment = openai_protocol.route(request.path)[1]
    if "model" not in form and deployment is None:
        raise Wrong("model")
    upload = form["file"]
    return _Transcript(
        said=words.transcript(upload.filename or "without a name", len(upload.content), length=request.switches.tokens),
        model=form["model"].text if "model" in form else str(deployment),
        language=form["language"].text if "language" in form else "english",
        seconds=max(1, -(-len(upload.content) // BYTES_PER_SECOND)),
        prompt=form["prompt"].text if "prompt" in form else "",
    )


def _transcript_events(transcript: _Transcript) -> Iterator[bytes]:
    for piece in transcript.said.pieces:
        yield data_event({"type": "transcript.text.delta", "delta": piece})
    yield data_event({"type": "transcript.text.done", "text": transcript.said.text, "usage": transcript.usage})


def _json(transcript: _Transcript) -> Answer:
    return json_answer({"text": transcript.said.text, "usage": transcript.usage})


def _verbose(transcript: _Transcript) -> Answer:
    segment = {
        "id": 0,
        "seek": 0,
        "start": 0.0,
        "end": float(transcript.seconds),
        "text": transcript.said.text,
        "tokens": list(range(transcript.said.tokens)),
        "temperature": 0.0,
        "avg_logprob": -0.1,
        "compression_ratio": 1.0,
        "no_speech_prob": 0.0,
    }
    return json_answer(
        {
            "task": "transcribe",
            "language": transcript.language,
            "duration": float(transcript.seconds),
            "text": transcript.said.text,
            "segments": [segment],
            "usage": {"type": "duration", "seconds": transcript.seconds},
        }
    )


def _plain(text: str, content_type: bytes = b"text/plain; charset=utf-8") -> Answer:
    return Answer((text.encode(),), content_type)


def _times(transcript: _Transcript, mark: str) -> str:
    minutes, seconds = divmod(transcript.seconds, 60)
    return f"00:00:00{mark}000 --> {minutes // 60:02}:{minutes % 60:02}:{seconds:02}{mark}000"


_TRANSCRIPTS: Mapping[str, Callable[[_Transcript], Answer]] = {
    "json": _json,
    "verbose_json": _verbose,
    "text": lambda transcript: _plain(transcript.said.text + "\n"),
    "srt": lambda transcript: _plain(f"1\n{_times(transcript, ',')}\n{transcript.said.text}\n\n"),
    "vtt": lambda transcript: _plain(f"WEBVTT\n\n{_times(transcript, '.')}\n{transcript.said.text}\n\n"),
}


def speak(request: Request) -> Answer:
    """POST /v1/audio/speech: silence, 0.2 seconds for each token, which is a chunk"""
    fields = request.fields
    openai_protocol.model(request)
    fields.needed("voice")
    spoken = tokens.count(fields.needed_text("input"))
    form = fields.text("response_format") or "mp3"
    if form not in _AUDIO:
        raise Wrong("response_format", f"one of {', '.join(_AUDIO)}")
    content_type, chunk = _AUDIO[form]
    chunks = (_wav_head(spoken * len(chunk)) + chunk if form == "wav" and not at else chunk for at in range(spoken))
    if fields.text("stream_format") != "sse":
        return event_answer(chunks, content_type)
    return event_answer(broken(request, _speech_events(chunks, spoken), error_chunk))


def _speech_events(chunks: Iterator[bytes], spoken: int) -> Iterator[bytes]:
    for chunk in chunks:
        yield data_event({"type": "speech.audio.delta", "audio": base64.b64encode(chunk).decode()})
    heard = spoken * AUDIO_TOKENS
    usage = {"input_tokens": spoken, "output_tokens": heard, "total_tokens": spoken + heard}
    yield data_event({"type": "speech.audio.done", "usage": usage})


def _wav_head(size: int) -> bytes:
    """Of 16-bit mono at 24 kHz."""
    form = struct.pack("<4sIHHIIHH", b"fmt ", 16, 1, 1, 24_000, 48_000, 2, 16)
    return struct.pack("<4sI4s", b"RIFF", 36 + size, b"WAVE") + form + struct.pack("<4sI", b"data", size)


# A frame of MPEG-1 layer 3, 128 kbit/s at 44.1 kHz, with nothing in it: 26 ms of silence.
_MP3 = (b"\xff\xfb\x90\x64" + bytes(413)) * 8
_PCM = bytes(9_600)
_NO_AUDIO = b"No audio: this is AIWM's simulator. "

_AUDIO: Mapping[str, tuple[bytes, bytes]] = {
    "mp3": (b"audio/mpeg", _MP3),
    "wav": (b"audio/wav", _PCM),
    "pcm": (b"audio/pcm", _PCM),
    # Silence in these would need an encoder.
    "opus": (b"audio/opus", _NO_AUDIO),
    "aac": (b"audio/aac", _NO_AUDIO),
    "flac": (b"audio/flac", _NO_AUDIO),
}


def draw(request: Request) -> Answer:
    """POST /v1/images/generations: one grey pixel, and usage if the model is a gpt-image"""
    fields = request.fields
    model, prompt = openai_protocol.model(request), fields.needed_text("prompt")
    n = fields.whole("n", most=10) or 1
    if model.startswith("dall-e"):
        return json_answer({"created": request.time, "data": [_image(fields, prompt)] * n}, indented=True)
    quality = fields.text("quality")
    quality = quality if quality in IMAGE_TOKENS else "medium"
    return json_answer(
        {
            "created": request.time,
            "background": "opaque",
            "data": [{"b64_json": _PIXEL}] * n,
            "output_format": "png",
            "quality": quality,
            "size": "1024x1024",
            "usage": _image_usage(tokens.count(prompt), n * IMAGE_TOKENS[quality]),
        },
        indented=True,
    )


def _image(fields: Fields, prompt: str) -> dict[str, Any]:
    if fields.text("response_format") == "b64_json":
        return {"b64_json": _PIXEL, "revised_prompt": prompt}
    return {"url": f"data:image/png;base64,{_PIXEL}", "revised_prompt": prompt}


def _image_usage(text: int, drawn: int) -> dict[str, Any]:
    return {
        "input_tokens": text,
        "input_tokens_details": {"text_tokens": text, "image_tokens": 0},
        "output_tokens": drawn,
        "output_tokens_details": {"text_tokens": 0, "image_tokens": drawn},
        "total_tokens": text + drawn,
    }


def _png_chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


_PIXEL = base64.b64encode(
    b"\x89PNG\r\n\x1a\n"
    + _png_chunk(b"IHDR", struct.pack(">IIBBBBB", 1, 1, 8, 0, 0, 0, 0))
    + _png_chunk(b"IDAT", zlib.compress(b"\x00\x80"))
    + _png_chunk(b"IEND", b"")
).decode()
