"""Completion requests: OpenAI's parameters, and those that users of GPT-2 know besides, read and validated.

A parameter that is unknown, or would change the text and is not implemented, is an error that names it.
Reference: https://platform.openai.com/docs/api-reference/completions
"""

import asyncio
from dataclasses import replace
from typing import Annotated, Any, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator
from starlette.requests import ClientDisconnect, Request

from tunesmith.generation.sampling import SamplingParams
from tunesmith.i18n import LazyString
from tunesmith.serving.api_errors import APIError
from tunesmith.utils.files import parse_json, to_json

T = TypeVar("T")
MAX_CHOICES = 128
MAX_STOPS = 16
MAX_LOGPROBS = 5
MAX_SEED = 2**63 - 1
MAX_BODY_BYTES = 4 * 2**20
MAX_BODY_S = 30.0
Prompt = str | list[int]
"""Text, or token ids."""


class StreamOptions(BaseModel):
    """Options of a stream."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)
    include_usage: bool = False


class CompletionRequest(BaseModel):
    """The body of a completion request; names, meanings, limits and defaults are OpenAI's.

    The last block are names of vLLM and transformers, for what OpenAI does not have.
    """

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)

    model: str | None = None
    prompt: Any = None
    max_tokens: Annotated[int, Field(ge=0)] | None = 16
    temperature: Annotated[float, Field(ge=0, le=2, allow_inf_nan=False)] | None = 1.0
    top_p: Annotated[float, Field(gt=0, le=1)] | None = 1.0
    n: Annotated[int, Field(ge=1, le=MAX_CHOICES)] | None = 1
    best_of: Annotated[int, Field(ge=1, le=MAX_CHOICES)] | None = None
    stop: Any = None
    logprobs: Annotated[int, Field(ge=0, le=MAX_LOGPROBS)] | None = None
    echo: bool | None = False
    seed: Annotated[int, Field(ge=-MAX_SEED, le=MAX_SEED)] | None = None
    stream: bool | None = False
    stream_options: StreamOptions | None = None
    user: str | None = None
    suffix: str | None = None
    presence_penalty: float | None = 0.0
    frequency_penalty: float | None = 0.0
    logit_bias: dict[str, float] | None = None

    top_k: Annotated[int, Field(ge=-1)] | None = 0
    min_p: Annotated[float, Field(ge=0, le=1)] | None = 0.0
    repetition_penalty: Annotated[float, Field(gt=0, allow_inf_nan=False)] | None = 1.0
    no_repeat_ngram_size: Annotated[int, Field(ge=0)] | None = 0
    min_tokens: Annotated[int, Field(ge=0)] | None = 0

    @field_validator("stop")
    @classmethod
    def _validate_stop(cls, value: object) -> list[str]:
        stops = [value] if isinstance(value, str) else [] if value is None else value
        if not (isinstance(stops, list) and all(isinstance(stop, str) for stop in stops)):
            raise APIError(400, "stop must be a string or a list of strings", param="stop")
        if len(stops) > MAX_STOPS:
            raise APIError(
                400, "stop has {count} strings; {most} are allowed", param="stop", count=len(stops), most=MAX_STOPS
            )
        return [stop for stop in stops if stop]

    @field_validator("prompt")
    @classmethod
    def _validate_prompt(cls, value: object) -> list[Prompt]:
        """Bring every form of OpenAI's to a list of prompts; none, and an end-of-text, start from nothing."""
        if value is None:
            return [""]
        if isinstance(value, str) or _are_ids(value):
            return [value]  # type: ignore[list-item]  # a string or ids, checked above
        if isinstance(value, list) and value and all(isinstance(item, str) or _are_ids(item) for item in value):
            return value
        raise APIError(
            400, "prompt must be a string, a list of strings, a list of token ids, or a list of those", param="prompt"
        )

    @property
    def prompts(self) -> list[Prompt]:
        """At least one."""
        prompts: list[Prompt] = self.prompt or [""]
        return prompts

    @property
    def stops(self) -> tuple[str, ...]:
        """Strings that end a text."""
        return tuple(self.stop or ())

    @property
    def params(self) -> SamplingParams:
        """Sampling parameters; null is the same as a missing value."""
        return SamplingParams(
            temperature=_or(self.temperature, 1.0),
            top_k=max(_or(self.top_k, 0), 0),
            top_p=_or(self.top_p, 1.0),
            min_p=_or(self.min_p, 0.0),
            repetition_penalty=_or(self.repetition_penalty, 1.0),
            no_repeat_ngram_size=_or(self.no_repeat_ngram_size, 0),
        )

    @property
    def n_choices(self) -> int:
        """Texts returned for each prompt."""
        return _or(self.n, 1)

    @property
    def n_generated(self) -> int:
        """Texts generated for each prompt, of which the best are returned."""
        return max(self.best_of or 0, self.n_choices)

    @property
    def max_new_tokens(self) -> int:
        """Longest continuation."""
        return _or(self.max_tokens, 16)

    @property
    def includes_usage(self) -> bool:
        """Whether a stream ends with the number of tokens."""
        return self.stream_options is not None and self.stream_options.include_usage


def _or(value: T | None, default: T) -> T:
    return default if value is None else value


def _are_ids(value: object) -> bool:
    return isinstance(value, list) and bool(value) and all(type(item) is int for item in value)


def read_request(body: bytes) -> CompletionRequest:
    """Parse and validate a body.

    Raises:
        APIError: which names the parameter.
    """
    try:
        values = parse_json(body)
        to_json(values).encode("utf-8")
    except UnicodeEncodeError:
        raise APIError(400, "the body contains half a character (a lone surrogate)") from None
    except ValueError:
        raise APIError(400, "the body is not JSON") from None
    if not isinstance(values, dict):
        raise APIError(400, "the body must be a JSON object")
    try:
        request = CompletionRequest.model_validate(values)
    except ValidationError as error:
        raise _validation_error(error) from None
    _check_supported(request)
    return request


def _check_supported(request: CompletionRequest) -> None:
    """Reject what would give another text than requested if it were ignored, and contradictions."""
    unsupported = [
        ("suffix", request.suffix),
        ("presence_penalty", request.presence_penalty),
        ("frequency_penalty", request.frequency_penalty),
        ("logit_bias", request.logit_bias),
    ]
    for name, value in unsupported:
        if value:
            raise APIError(
                400,
                "{name} is not implemented by this server; leave it out",
                code="unsupported_parameter",
                param=name,
                name=name,
            )
    if request.best_of is not None and request.best_of < request.n_choices:
        raise APIError(400, "best_of must not be less than n", param="best_of")
    if request.stream and request.n_generated > request.n_choices:
        raise APIError(400, "best_of cannot be streamed: the best text is known at the end", param="best_of")
    if request.stream_options is not None and not request.stream:
        raise APIError(400, "stream_options needs stream", param="stream_options")
    if _or(request.min_tokens, 0) > request.max_new_tokens:
        raise APIError(400, "min_tokens must not be more than max_tokens", param="min_tokens")
    if request.max_new_tokens == 0 and not request.echo:
        raise APIError(400, "max_tokens 0 makes sense with echo only", param="max_tokens")


REASONS = {
    "extra_forbidden": LazyString("unknown parameter: {name}"),
    "int_type": LazyString("{name} must be a whole number"),
    "float_type": LazyString("{name} must be a number"),
    "finite_number": LazyString("{name} must be a finite number"),
    "bool_type": LazyString("{name} must be true or false"),
    "string_type": LazyString("{name} must be a string"),
    "dict_type": LazyString("{name} must be an object"),
    "greater_than": LazyString("{name} must be greater than {gt}"),
    "greater_than_equal": LazyString("{name} must be at least {ge}"),
    "less_than_equal": LazyString("{name} must be at most {le}"),
}
"""By the error types of pydantic."""


def _validation_error(error: ValidationError) -> APIError:
    """Return the first error, in OpenAI's words."""
    first = error.errors(include_url=False, include_input=False)[0]
    name = ".".join(str(part) for part in first["loc"])[:80]
    reason = REASONS.get(first["type"], LazyString("{name} is not a valid value: {problem}"))
    problem = replace(reason, values={"name": name, "problem": first["msg"], **first.get("ctx", {})})
    code = "unknown_parameter" if first["type"] == "extra_forbidden" else None
    return APIError(400, "{problem}", param=name, code=code, problem=problem)


async def read_body(request: Request) -> bytes:
    """Read a JSON body.

    Raises:
        APIError: if it is not declared as JSON, is too large or comes too slowly.
    """
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != "application/json":  # pages of other sites cannot send this without asking first
        raise APIError(415, "the body must be JSON: send the header Content-Type: application/json")
    parts = []
    n_bytes = 0
    try:
        async with asyncio.timeout(MAX_BODY_S):
            async for part in request.stream():
                parts.append(part)
                n_bytes += len(part)
                if n_bytes > MAX_BODY_BYTES:
                    raise APIError(413, "the body is larger than {most:,} bytes", most=MAX_BODY_BYTES)
    except TimeoutError:
        raise APIError(408, "the body did not come within {most:g} s", most=MAX_BODY_S) from None
    except ClientDisconnect:
        raise APIError(400, "the body ended too early") from None
    return b"".join(parts)
