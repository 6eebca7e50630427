"""The official SDKs, unmodified, against the simulator on a real socket: they must not notice."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import anthropic
import httpx2
import openai
import pytest
import uvicorn
from google import genai
from google.genai import errors as google_errors
from google.genai import types as google_types
from pydantic import BaseModel

from aiwm import __version__
from aiwm.simulator import tokens, words
from aiwm.simulator.app import Simulator
from patience import PATIENCE

HELLO = "Hello there, simulator"
MESSAGES: Any = [{"role": "user", "content": HELLO}]
ANSWER = words.OPENING + HELLO
PROMPT_TOKENS = tokens.count(HELLO)
ANSWER_TOKENS = tokens.count(ANSWER)

WEATHER = {
    "type": "object",
    "properties": {"city": {"type": "string"}, "days": {"type": "integer"}},
    "required": ["city", "days"],
}
CALLED = {"city": "simulated", "days": 1}


class City(BaseModel):
    name: str
    people: int


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    server = uvicorn.Server(uvicorn.Config(Simulator(), port=0, log_config=None))
    thread = threading.Thread(target=server.run)
    thread.start()
    while not server.started:
        assert thread.is_alive(), "the simulator did not start"
        time.sleep(0.01)
    host, port = server.servers[0].sockets[0].getsockname()
    yield f"http://{host}:{port}"
    server.should_exit = True
    thread.join()


@pytest.fixture
def oai(address: str) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{address}/v1", api_key="sk-simulated", max_retries=0) as client:
        yield client


@pytest.fixture
def claude(address: str) -> Iterator[anthropic.Anthropic]:
    with anthropic.Anthropic(base_url=address, api_key="sk-ant-simulated", max_retries=0) as client:
        yield client


@pytest.fixture
def gemini(address: str) -> Iterator[genai.Client]:
    client = _gemini(address, "simulated")
    yield client
    client.close()


def _gemini(address: str, key: str, **more: Any) -> genai.Client:
    options = google_types.HttpOptions(base_url=address, **more)
    return genai.Client(api_key=key, vertexai=False, http_options=options)


def switched(switches: str) -> dict[str, Any]:
    return {"extra_headers": {"x-simulate": switches}}


def for_gemini(switches: str) -> google_types.HttpOptions:
    return google_types.HttpOptions(headers={"x-simulate": switches})


class TestOpenAI:
    def test_a_chat_is_answered_with_usage(self, oai: openai.OpenAI) -> None:
        raw = oai.chat.completions.with_raw_response.create(model="gpt-4o", messages=MESSAGES)
        completion = raw.parse()
        assert completion.choices[0].message.content == ANSWER
        assert completion.choices[0].finish_reason == "stop"
        assert completion.usage is not None
        assert completion.usage.prompt_tokens == PROMPT_TOKENS
        assert completion.usage.completion_tokens == ANSWER_TOKENS
        assert raw.headers["x-aiwm-simulator"] == __version__
        assert raw.request_id is not None

    def test_a_stream_has_no_usage_unless_asked(self, oai: openai.OpenAI) -> None:
        chunks = list(oai.chat.completions.create(model="gpt-4o", messages=MESSAGES, stream=True))
        assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == ANSWER
        assert all(chunk.usage is None for chunk in chunks)
        assert chunks[-1].choices[0].finish_reason == "stop"

    def test_a_stream_ends_with_usage_and_no_choices_if_asked(self, oai: openai.OpenAI) -> None:
        stream = oai.chat.completions.create(
            model="gpt-4o",
            messages=MESSAGES,
            stream=True,
            stream_options={"include_usage": True},
            **switched("cached=7; reasoning=5"),
        )
        *others, last = stream
        assert all(chunk.choices and chunk.usage is None for chunk in others)
        assert last.choices == []
        assert last.usage is not None
        assert last.usage.prompt_tokens == PROMPT_TOKENS + 7
        assert last.usage.completion_tokens == ANSWER_TOKENS + 5
        assert last.usage.total_tokens == PROMPT_TOKENS + 7 + ANSWER_TOKENS + 5
        assert last.usage.prompt_tokens_details is not None
        assert last.usage.prompt_tokens_details.cached_tokens == 7

    async def test_the_asynchronous_client_streams_too(self, address: str) -> None:
        async with openai.AsyncOpenAI(base_url=f"{address}/openai/v1", api_key="k", max_retries=0) as client:
            stream = await client.chat.completions.create(model="gpt-4o", messages=MESSAGES, stream=True, n=2)
            texts = ["", ""]
            async for chunk in stream:
                texts[chunk.choices[0].index] += chunk.choices[0].delta.content or ""
        assert texts == [ANSWER, ANSWER]

    @pytest.mark.parametrize("choice", ["required", {"type": "function", "function": {"name": "weather"}}])
    def test_a_tool_is_called_when_the_caller_insists(self, oai: openai.OpenAI, choice: Any) -> None:
        tool: Any = {"type": "function", "function": {"name": "weather", "parameters": WEATHER}}
        asked: Any = {"model": "gpt-4o", "messages": MESSAGES, "tools": [tool], "tool_choice": choice}
        completion = oai.chat.completions.create(**asked)
        with oai.chat.completions.stream(**asked) as stream:
            streamed = stream.get_final_completion()
        for one in (completion, streamed):
            assert one.choices[0].finish_reason == "tool_calls"
            call = one.choices[0].message.tool_calls[0]
            assert call.function.name == "weather"
            assert httpx2.Response(200, content=call.function.arguments).json() == CALLED

    def test_a_schema_is_filled(self, oai: openai.OpenAI) -> None:
        completion = oai.chat.completions.parse(model="gpt-4o", messages=MESSAGES, response_format=City)
        assert completion.choices[0].message.parsed == City(name="simulated", people=1)

    def test_completions_are_answered_whole_and_streamed(self, oai: openai.OpenAI) -> None:
        whole = oai.completions.create(model="gpt-3.5-turbo-instruct", prompt=HELLO)
        stream = oai.completions.create(model="gpt-3.5-turbo-instruct", prompt=HELLO, stream=True)
        assert whole.choices[0].text == ANSWER
        assert "".join(chunk.choices[0].text for chunk in stream) == ANSWER

    def test_azure_names_a_deployment_in_the_path(self, address: str) -> None:
        with openai.AzureOpenAI(azure_endpoint=address, api_key="k", api_version="2024-10-21", max_retries=0) as client:
            completion = client.chat.completions.create(model="mine", messages=MESSAGES)
            first, *others = client.chat.completions.create(model="mine", messages=MESSAGES, stream=True)
        assert completion.choices[0].message.content == ANSWER
        assert first.choices == []
        assert "".join(chunk.choices[0].delta.content or "" for chunk in others) == ANSWER

    def test_responses_are_answered(self, oai: openai.OpenAI) -> None:
        response = oai.responses.create(model="gpt-4o", input=HELLO, instructions="Be brief")
        assert response.output_text == ANSWER
        assert response.status == "completed"
        assert response.usage is not None
        assert response.usage.input_tokens == tokens.of([HELLO, "Be brief"])
        assert response.usage.output_tokens == ANSWER_TOKENS

    def test_responses_stream_the_real_sequence_of_events(self, oai: openai.OpenAI) -> None:
        with oai.responses.stream(model="gpt-4o", input=HELLO) as stream:
            events = list(stream)
            final = stream.get_final_response()
        kinds = [event.type for event in events]
        assert kinds[:4] == [
            "response.created",
            "response.in_progress",
            "response.output_item.added",
            "response.content_part.added",
        ]
        assert kinds[4:-4] == ["response.output_text.delta"] * ANSWER_TOKENS
        assert kinds[-4:] == [
            "response.output_text.done",
            "response.content_part.done",
            "response.output_item.done",
            "response.completed",
        ]
        assert [event.sequence_number for event in events] == list(range(len(events)))
        assert final.output_text == ANSWER
        assert final.usage is not None
        assert final.usage.output_tokens == ANSWER_TOKENS

    def test_responses_call_a_tool_when_the_caller_insists(self, oai: openai.OpenAI) -> None:
        tool: Any = {"type": "function", "name": "weather", "parameters": WEATHER, "strict": False}
        asked: Any = {"model": "gpt-4o", "input": HELLO, "tools": [tool], "tool_choice": "required"}
        with oai.responses.stream(**asked) as stream:
            streamed = stream.get_final_response()
        for response in (oai.responses.create(**asked), streamed):
            assert response.output[0].type == "function_call"
            assert response.output[0].name == "weather"

    def test_a_limit_ends_a_response_early(self, oai: openai.OpenAI) -> None:
        response = oai.responses.create(model="gpt-4o", input=HELLO, max_output_tokens=3)
        assert response.status == "incomplete"
        assert response.output_text == ANSWER[:12]

    def test_embeddings_are_the_same_in_both_encodings(self, oai: openai.OpenAI) -> None:
        asked: Any = {"model": "text-embedding-3-small", "input": [HELLO, "Bye"], "dimensions": 8}
        packed = oai.embeddings.create(**asked)
        plain = oai.embeddings.create(**asked, encoding_format="float")
        assert [len(item.embedding) for item in packed.data] == [8, 8]
        assert packed.data[0].embedding == pytest.approx(plain.data[0].embedding)
        assert packed.usage.prompt_tokens == PROMPT_TOKENS + 1

    def test_a_recording_is_transcribed(self, oai: openai.OpenAI) -> None:
        upload = ("talk.wav", bytes(40_000))
        counted = oai.audio.transcriptions.create(model="gpt-4o-transcribe", file=upload, prompt="Talk")
        timed = oai.audio.transcriptions.create(model="whisper-1", file=upload)
        verbose = oai.audio.transcriptions.create(model="whisper-1", file=upload, response_format="verbose_json")
        text = oai.audio.transcriptions.create(model="whisper-1", file=upload, response_format="text")
        assert "talk.wav has 40000 bytes" in counted.text
        assert counted.usage is not None
        assert counted.usage.type == "tokens"
        assert counted.usage.input_tokens == 30 + 1
        assert timed.usage is not None
        assert timed.usage.type == "duration"
        assert timed.usage.seconds == 3
        assert verbose.duration == 3
        assert text == counted.text + "\n"

    def test_a_transcription_streams(self, oai: openai.OpenAI) -> None:
        stream = oai.audio.transcriptions.create(model="gpt-4o-transcribe", file=b"sound", stream=True)
        *deltas, done = stream
        assert done.type == "transcript.text.done"
        assert "".join(event.delta for event in deltas if event.type == "transcript.text.delta") == done.text
        assert done.usage is not None

    def test_speech_is_bytes(self, oai: openai.OpenAI, tmp_path: Path) -> None:
        with oai.audio.speech.with_streaming_response.create(
            model="gpt-4o-mini-tts", voice="alloy", input=HELLO, response_format="wav"
        ) as response:
            response.stream_to_file(tmp_path / "hello.wav")
        assert (tmp_path / "hello.wav").read_bytes().startswith(b"RIFF")
        assert oai.audio.speech.create(model="tts-1", voice="alloy", input=HELLO).content.startswith(b"\xff\xfb")

    def test_an_image_is_drawn_and_counted(self, oai: openai.OpenAI) -> None:
        images = oai.images.generate(model="gpt-image-1", prompt=HELLO, n=2, quality="low")
        assert images.data is not None
        assert len(images.data) == 2
        assert images.usage is not None
        assert images.usage.input_tokens == PROMPT_TOKENS
        assert images.usage.output_tokens == 2 * 272

    def test_models_are_listed_and_found(self, oai: openai.OpenAI) -> None:
        names = [model.id for model in oai.models.list()]
        assert oai.models.retrieve(names[0]).id == names[0]
        with pytest.raises(openai.NotFoundError):
            oai.models.retrieve("no-such-model")

    @pytest.mark.parametrize(
        ("status", "error"),
        [
            (400, openai.BadRequestError),
            (401, openai.AuthenticationError),
            (403, openai.PermissionDeniedError),
            (404, openai.NotFoundError),
            (409, openai.ConflictError),
            (422, openai.UnprocessableEntityError),
            (429, openai.RateLimitError),
            (500, openai.InternalServerError),
            (503, openai.InternalServerError),
        ],
    )
    def test_a_status_is_the_sdks_error(
        self, oai: openai.OpenAI, status: int, error: type[openai.APIStatusError]
    ) -> None:
        with pytest.raises(error) as caught:
            oai.chat.completions.create(model="gpt-4o", messages=MESSAGES, **switched(f"status={status}"))
        assert isinstance(caught.value.body, dict)
        assert caught.value.body["message"]
        assert caught.value.request_id

    def test_a_bad_key_is_refused_and_quoted_only_if_asked(self, oai: openai.OpenAI) -> None:
        bad = oai.with_options(api_key="sk-this-one-is-invalid")
        with pytest.raises(openai.AuthenticationError) as masked:
            bad.models.list()
        with pytest.raises(openai.AuthenticationError) as quoted:
            bad.models.list(**switched("quote-key"))
        assert "sk-this-one-is-invalid" not in masked.value.message
        assert "sk-this-one-is-invalid" in quoted.value.message

    def test_an_error_in_mid_stream_is_raised(self, oai: openai.OpenAI) -> None:
        stream = oai.chat.completions.create(
            model="gpt-4o", messages=MESSAGES, stream=True, **switched("error-mid-stream")
        )
        with pytest.raises(openai.APIError, match="had an error"):
            list(stream)

    def test_a_response_tells_of_an_error_in_mid_stream(self, oai: openai.OpenAI) -> None:
        stream = oai.responses.create(model="gpt-4o", input=HELLO, stream=True, **switched("error-mid-stream"))
        *_, last = stream
        assert last.type == "error"

    @pytest.mark.parametrize("encoding", ["gzip", "deflate", "br"])  # the SDK does not read zstd here
    def test_a_compressed_stream_is_read(self, oai: openai.OpenAI, encoding: str) -> None:
        stream = oai.chat.completions.create(
            model="gpt-4o", messages=MESSAGES, stream=True, **switched(f"encoding={encoding}; piece=7")
        )
        assert "".join(chunk.choices[0].delta.content or "" for chunk in stream) == ANSWER

    @pytest.mark.parametrize("switches", ["cut=3", "cut=3; chunk-delay=0.001", "cut=0"])
    def test_a_cut_stream_is_a_broken_connection(self, oai: openai.OpenAI, switches: str) -> None:
        stream = oai.chat.completions.create(model="gpt-4o", messages=MESSAGES, stream=True, **switched(switches))
        with pytest.raises((openai.APIConnectionError, httpx2.RemoteProtocolError)):
            list(stream)

    def test_a_cut_answer_in_pieces_is_a_broken_connection(self, oai: openai.OpenAI) -> None:
        with pytest.raises(openai.APIConnectionError):
            oai.chat.completions.create(model="gpt-4o", messages=MESSAGES, **switched("cut=2; piece=10"))

    def test_one_that_hangs_runs_into_the_callers_timeout(self, oai: openai.OpenAI) -> None:
        with pytest.raises(openai.APITimeoutError):
            oai.chat.completions.create(model="gpt-4o", messages=MESSAGES, timeout=0.2, **switched("hang"))


class TestAnthropic:
    def test_a_message_is_answered_with_usage_that_leaves_the_cache_out(self, claude: anthropic.Anthropic) -> None:
        message = claude.messages.create(
            model="claude-sonnet-5-5",
            max_tokens=100,
            messages=MESSAGES,
            system="Be brief",
            **switched("cached=7; cache-write=3"),
        )
        assert message.content[0].type == "text"
        assert message.content[0].text == ANSWER
        assert message.stop_reason == "end_turn"
        assert message.usage.input_tokens == tokens.of([HELLO, "Be brief"])
        assert message.usage.cache_read_input_tokens == 7
        assert message.usage.cache_creation_input_tokens == 3
        assert message.usage.output_tokens == ANSWER_TOKENS

    def test_the_stream_helper_adds_up_the_same_message(self, claude: anthropic.Anthropic) -> None:
        with claude.messages.stream(
            model="claude-sonnet-5-5", max_tokens=100, messages=MESSAGES, **switched("cached=7")
        ) as stream:
            assert "".join(stream.text_stream) == ANSWER
            message = stream.get_final_message()
        assert message.usage.input_tokens == PROMPT_TOKENS
        assert message.usage.cache_read_input_tokens == 7
        assert message.usage.output_tokens == ANSWER_TOKENS

    async def test_the_asynchronous_client_streams_too(self, address: str) -> None:
        async with (
            anthropic.AsyncAnthropic(base_url=address, api_key="k", max_retries=0) as client,
            client.messages.stream(model="claude-sonnet-5-5", max_tokens=5, messages=MESSAGES) as stream,
        ):
            message = await stream.get_final_message()
        assert message.stop_reason == "max_tokens"
        assert message.usage.output_tokens == 5

    @pytest.mark.parametrize("choice", [{"type": "any"}, {"type": "tool", "name": "weather"}])
    def test_a_tool_is_used_when_the_caller_insists(self, claude: anthropic.Anthropic, choice: Any) -> None:
        asked: Any = {
            "model": "claude-sonnet-5-5",
            "max_tokens": 100,
            "messages": MESSAGES,
            "tools": [{"name": "weather", "input_schema": WEATHER}],
            "tool_choice": choice,
        }
        with claude.messages.stream(**asked) as stream:
            streamed = stream.get_final_message()
        for message in (claude.messages.create(**asked), streamed):
            assert message.stop_reason == "tool_use"
            assert message.content[0].type == "tool_use"
            assert message.content[0].input == CALLED

    def test_thinking_comes_first_and_is_counted(self, claude: anthropic.Anthropic) -> None:
        asked: Any = {"model": "claude-sonnet-5-5", "max_tokens": 2000, "messages": MESSAGES}
        asked["thinking"] = {"type": "enabled", "budget_tokens": 1024}
        with claude.messages.stream(**asked) as stream:
            streamed = stream.get_final_message()
        for message in (claude.messages.create(**asked), streamed):
            assert [block.type for block in message.content] == ["thinking", "text"]
            assert message.usage.output_tokens == tokens.count(words.THINKING) + ANSWER_TOKENS

    def test_tokens_are_counted(self, claude: anthropic.Anthropic) -> None:
        counted = claude.messages.count_tokens(model="claude-sonnet-5-5", messages=MESSAGES)
        assert counted.input_tokens == PROMPT_TOKENS

    def test_models_are_listed_and_found(self, claude: anthropic.Anthropic) -> None:
        names = [model.id for model in claude.models.list()]
        assert claude.models.retrieve(names[0]).id == names[0]

    @pytest.mark.parametrize(
        ("status", "error", "kind"),
        [
            (400, anthropic.BadRequestError, "invalid_request_error"),
            (401, anthropic.AuthenticationError, "authentication_error"),
            (403, anthropic.PermissionDeniedError, "permission_error"),
            (404, anthropic.NotFoundError, "not_found_error"),
            (413, anthropic.APIStatusError, "request_too_large"),
            (429, anthropic.RateLimitError, "rate_limit_error"),
            (500, anthropic.InternalServerError, "api_error"),
            (529, anthropic.InternalServerError, "overloaded_error"),
        ],
    )
    def test_a_status_is_the_sdks_error(
        self, claude: anthropic.Anthropic, status: int, error: type[anthropic.APIStatusError], kind: str
    ) -> None:
        with pytest.raises(error) as caught:
            claude.messages.create(
                model="claude-sonnet-5-5", max_tokens=9, messages=MESSAGES, **switched(f"status={status}")
            )
        assert caught.value.status_code == status
        assert isinstance(caught.value.body, dict)
        assert caught.value.body["error"]["type"] == kind
        assert caught.value.request_id

    def test_an_overload_in_mid_stream_is_raised(self, claude: anthropic.Anthropic) -> None:
        stream = claude.messages.create(
            model="claude-sonnet-5-5",
            max_tokens=100,
            messages=MESSAGES,
            stream=True,
            **switched("error-mid-stream"),
        )
        with pytest.raises(anthropic.APIStatusError, match="Overloaded"):
            list(stream)


class TestGoogle:
    def test_content_is_generated_with_usage(self, gemini: genai.Client) -> None:
        response = gemini.models.generate_content(
            model="gemini-2.5-flash",
            contents=HELLO,
            config=google_types.GenerateContentConfig(http_options=for_gemini("cached=7; reasoning=5")),
        )
        assert response.text == ANSWER
        usage = response.usage_metadata
        assert usage is not None
        assert usage.prompt_token_count == PROMPT_TOKENS + 7
        assert usage.cached_content_token_count == 7
        assert usage.candidates_token_count == ANSWER_TOKENS
        assert usage.thoughts_token_count == 5
        assert usage.total_token_count == PROMPT_TOKENS + 7 + ANSWER_TOKENS + 5

    def test_a_stream_counts_up(self, gemini: genai.Client) -> None:
        records = list(gemini.models.generate_content_stream(model="gemini-2.5-flash", contents=HELLO))
        assert "".join(record.text or "" for record in records) == ANSWER
        counts = [record.usage_metadata.candidates_token_count for record in records if record.usage_metadata]
        assert counts == list(range(1, ANSWER_TOKENS + 1))

    async def test_the_asynchronous_client_streams_from_v1_too(self, address: str) -> None:
        client = _gemini(address, "k", api_version="v1")
        stream = await client.aio.models.generate_content_stream(model="gemini-2.5-flash", contents=HELLO)
        text = "".join([record.text or "" async for record in stream])
        await client.aio.aclose()
        client.close()
        assert text == ANSWER

    def test_a_function_is_called_when_the_caller_insists(self, gemini: genai.Client) -> None:
        tool: Any = {"function_declarations": [{"name": "weather", "parameters_json_schema": WEATHER}]}
        config: Any = {"tools": [tool], "tool_config": {"function_calling_config": {"mode": "ANY"}}}
        response = gemini.models.generate_content(model="gemini-2.5-flash", contents=HELLO, config=config)
        assert response.function_calls is not None
        assert response.function_calls[0].name == "weather"
        assert response.function_calls[0].args == CALLED

    def test_a_schema_is_filled(self, gemini: genai.Client) -> None:
        config: Any = {"response_mime_type": "application/json", "response_schema": City}
        response = gemini.models.generate_content(model="gemini-2.5-flash", contents=HELLO, config=config)
        assert response.parsed == City(name="simulated", people=1)

    def test_thoughts_are_shown_if_asked(self, gemini: genai.Client) -> None:
        config: Any = {"thinking_config": {"include_thoughts": True}}
        response = gemini.models.generate_content(model="gemini-2.5-pro", contents=HELLO, config=config)
        assert response.text == ANSWER
        assert response.usage_metadata is not None
        assert response.usage_metadata.thoughts_token_count == tokens.count(words.THINKING)

    def test_texts_are_embedded_and_counted(self, gemini: genai.Client) -> None:
        embedded = gemini.models.embed_content(
            model="gemini-embedding-001",
            contents=[HELLO, "Bye"],
            config=google_types.EmbedContentConfig(output_dimensionality=8),
        )
        counted = gemini.models.count_tokens(model="gemini-2.5-flash", contents=HELLO)
        assert embedded.embeddings is not None
        assert [len(embedding.values or []) for embedding in embedded.embeddings] == [8, 8]
        assert counted.total_tokens == PROMPT_TOKENS

    def test_models_are_listed_and_found(self, gemini: genai.Client) -> None:
        names = [model.name for model in gemini.models.list()]
        assert gemini.models.get(model=str(names[0])).name == names[0]

    @pytest.mark.parametrize(
        ("status", "error", "name"),
        [
            (404, google_errors.ClientError, "NOT_FOUND"),
            (429, google_errors.ClientError, "RESOURCE_EXHAUSTED"),
            (500, google_errors.ServerError, "INTERNAL"),
            (503, google_errors.ServerError, "UNAVAILABLE"),
        ],
    )
    def test_a_status_is_the_sdks_error(
        self, gemini: genai.Client, status: int, error: type[google_errors.APIError], name: str
    ) -> None:
        config: Any = {"http_options": for_gemini(f"status={status}")}
        with pytest.raises(error) as caught:
            gemini.models.generate_content(model="gemini-2.5-flash", contents=HELLO, config=config)
        assert (caught.value.code, caught.value.status) == (status, name)

    def test_an_error_in_mid_stream_is_raised(self, gemini: genai.Client) -> None:
        config: Any = {"http_options": for_gemini("error-mid-stream")}
        stream = gemini.models.generate_content_stream(model="gemini-2.5-flash", contents=HELLO, config=config)
        with pytest.raises(google_errors.APIError, match="overloaded"):
            list(stream)

    def test_an_invalid_key_is_googles_400(self, address: str) -> None:
        client = _gemini(address, "invalid")
        with pytest.raises(google_errors.ClientError, match="API_KEY_INVALID") as caught:
            client.models.generate_content(model="gemini-2.5-flash", contents=HELLO)
        client.close()
        assert caught.value.code == 400


def test_a_client_that_leaves_is_noticed_by_a_stream_that_waits() -> None:
    """Without the listener the simulator would still sit in its wait when the server has been told to stop."""
    server = uvicorn.Server(uvicorn.Config(Simulator(), port=0, log_config=None))
    thread = threading.Thread(target=server.run)
    thread.start()
    while not server.started:
        time.sleep(0.01)
    body = b'{"model":"m","messages":[{"role":"user","content":"Hi"}],"stream":true}'
    with socket.create_connection(server.servers[0].sockets[0].getsockname()) as client:
        client.sendall(
            b"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\nauthorization: Bearer k\r\n"
            b"x-simulate: chunk-delay=60\r\ncontent-length: %d\r\n\r\n%s" % (len(body), body)
        )
        assert client.recv(12) == b"HTTP/1.1 200"
    server.should_exit = True
    thread.join(timeout=PATIENCE)
    assert not thread.is_alive()
