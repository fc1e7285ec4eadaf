"""What a client may ask for: the parameters of OpenAI's completions, and those that users of GPT-2 know besides.

A parameter that is unknown, or would change the text and is not implemented, is refused by name and never ignored.
Reference: https://platform.openai.com/docs/api-reference/completions
"""

from dataclasses import replace
from typing import Annotated, Any, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from tunesmith.generation.sampling import SamplingRules
from tunesmith.messages.catalogue import Phrase
from tunesmith.serving.refusal import Refusal
from tunesmith.utils.files import parse_json, to_json

T = TypeVar("T")
MOST_CHOICES = 128
MOST_STOPS = 16
MOST_LOGPROBS = 5
LARGEST_SEED = 2**63 - 1
Prompt = str | list[int]
"""Text, or ids of tokens."""


class StreamOptions(BaseModel):
    """How to stream."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)
    include_usage: bool = False


class CompletionRequest(BaseModel):
    """The body of a request for completions; names, meanings, limits and defaults are OpenAI's.

    The last block are names of vLLM and transformers, for what OpenAI does not have.
    """

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)

    model: str | None = None
    prompt: Any = None
    max_tokens: Annotated[int, Field(ge=0)] | None = 16
    temperature: Annotated[float, Field(ge=0, le=2, allow_inf_nan=False)] | None = 1.0
    top_p: Annotated[float, Field(gt=0, le=1)] | None = 1.0
    n: Annotated[int, Field(ge=1, le=MOST_CHOICES)] | None = 1
    best_of: Annotated[int, Field(ge=1, le=MOST_CHOICES)] | None = None
    stop: Any = None
    logprobs: Annotated[int, Field(ge=0, le=MOST_LOGPROBS)] | None = None
    echo: bool | None = False
    seed: Annotated[int, Field(ge=-LARGEST_SEED, le=LARGEST_SEED)] | None = None
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
    def _stop_is_text(cls, value: object) -> list[str]:
        stops = [value] if isinstance(value, str) else [] if value is None else value
        if not (isinstance(stops, list) and all(isinstance(stop, str) for stop in stops)):
            raise Refusal(400, "stop must be a string or a list of strings", param="stop")
        if len(stops) > MOST_STOPS:
            raise Refusal(
                400, "stop has {count} strings; {most} are allowed", param="stop", count=len(stops), most=MOST_STOPS
            )
        return [stop for stop in stops if stop]

    @field_validator("prompt")
    @classmethod
    def _prompts(cls, value: object) -> list[Prompt]:
        """Every form of OpenAI's as a list of prompts; nothing, and an end-of-text, are a text from nothing."""
        if value is None:
            return [""]
        if isinstance(value, str) or _are_ids(value):
            return [value]  # type: ignore[list-item]  # a string or ids, as was just seen
        if isinstance(value, list) and value and all(isinstance(one, str) or _are_ids(one) for one in value):
            return value
        raise Refusal(
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
    def rules(self) -> SamplingRules:
        """How to choose tokens; what was sent as null is as if it had not been sent."""
        return SamplingRules(
            temperature=_or(self.temperature, 1.0),
            top_k=max(_or(self.top_k, 0), 0),
            top_p=_or(self.top_p, 1.0),
            min_p=_or(self.min_p, 0.0),
            repetition_penalty=_or(self.repetition_penalty, 1.0),
            no_repeat_ngram_size=_or(self.no_repeat_ngram_size, 0),
        )

    @property
    def n_choices(self) -> int:
        """How many texts are answered for each prompt."""
        return _or(self.n, 1)

    @property
    def n_written(self) -> int:
        """How many are written for each prompt, of which the best are answered."""
        return max(self.best_of or 0, self.n_choices)

    @property
    def most_tokens(self) -> int:
        """Longest continuation."""
        return _or(self.max_tokens, 16)

    @property
    def wants_usage(self) -> bool:
        """Whether a stream ends with the number of tokens."""
        return self.stream_options is not None and self.stream_options.include_usage


def _or(value: T | None, default: T) -> T:
    return default if value is None else value


def _are_ids(value: object) -> bool:
    return isinstance(value, list) and bool(value) and all(type(one) is int for one in value)


def read_request(body: bytes) -> CompletionRequest:
    """Parse and check a body.

    Raises:
        Refusal: with the parameter's name.
    """
    try:
        values = parse_json(body)
        to_json(values).encode("utf-8")
    except UnicodeEncodeError:
        raise Refusal(400, "the body holds half a character (a lone surrogate)") from None
    except ValueError:
        raise Refusal(400, "the body is no JSON") from None
    if not isinstance(values, dict):
        raise Refusal(400, "the body must be a JSON object")
    try:
        asked = CompletionRequest.model_validate(values)
    except ValidationError as error:
        raise _refusal(error) from None
    _refuse_what_is_not_implemented(asked)
    return asked


def _refuse_what_is_not_implemented(asked: CompletionRequest) -> None:
    """By name, where ignoring it would give another text than was asked for."""
    not_here = [
        ("suffix", asked.suffix),
        ("presence_penalty", asked.presence_penalty),
        ("frequency_penalty", asked.frequency_penalty),
        ("logit_bias", asked.logit_bias),
    ]
    for name, value in not_here:
        if value:
            raise Refusal(
                400,
                "{name} is not implemented by this server; leave it out",
                code="unsupported_parameter",
                param=name,
                name=name,
            )
    if asked.best_of is not None and asked.best_of < asked.n_choices:
        raise Refusal(400, "best_of must not be less than n", param="best_of")
    if asked.stream and asked.n_written > asked.n_choices:
        raise Refusal(400, "best_of cannot be streamed: the best text is known at the end", param="best_of")
    if asked.stream_options is not None and not asked.stream:
        raise Refusal(400, "stream_options needs stream", param="stream_options")
    if _or(asked.min_tokens, 0) > asked.most_tokens:
        raise Refusal(400, "min_tokens must not be more than max_tokens", param="min_tokens")
    if asked.most_tokens == 0 and not asked.echo:
        raise Refusal(400, "max_tokens 0 makes sense with echo only", param="max_tokens")


REASONS = {
    "extra_forbidden": Phrase("unknown parameter: {name}"),
    "int_type": Phrase("{name} must be a whole number"),
    "float_type": Phrase("{name} must be a number"),
    "finite_number": Phrase("{name} must be a finite number"),
    "bool_type": Phrase("{name} must be true or false"),
    "string_type": Phrase("{name} must be a string"),
    "dict_type": Phrase("{name} must be an object"),
    "greater_than": Phrase("{name} must be greater than {gt}"),
    "greater_than_equal": Phrase("{name} must be at least {ge}"),
    "less_than_equal": Phrase("{name} must be at most {le}"),
}
"""By pydantic's names of what is wrong."""


def _refusal(error: ValidationError) -> Refusal:
    """The first thing that is wrong, as OpenAI says it."""
    first = error.errors(include_url=False, include_input=False)[0]
    name = ".".join(str(part) for part in first["loc"])[:80]
    reason = REASONS.get(first["type"], Phrase("{name} is no such value: {problem}"))
    said = replace(reason, values={"name": name, "problem": first["msg"], **first.get("ctx", {})})
    code = "unknown_parameter" if first["type"] == "extra_forbidden" else None
    return Refusal(400, "{problem}", param=name, code=code, problem=said)
