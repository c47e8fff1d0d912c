"""OpenAI's HTTP JSON, read: the bodies of chat completions and completions become a `Request`.

`read_chat` and `read_completion` take the decoded JSON of a body; `answers` has the other direction and the errors.
What the interface knows and a `Model` cannot do is refused with the reason, never ignored: a sampling setting that
silently does nothing would spoil a comparison. Beyond OpenAI's fields, as other servers have them: `top_k`,
`return_token_ids`, and `token_ids` in an assistant's message, which go into the prompt as they are.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from fairtrial.core.config import explain
from fairtrial.core.errors import UserError, did_you_mean
from fairtrial.models.model import Feature, Message, Request, Sampling, ToolCall, UnsupportedError

_COMPLETION_TOKENS = 16
"""OpenAI's default for completions; a chat goes on until the model stops."""

_HARMLESS = frozenset(
    {"user", "metadata", "store", "service_tier", "safety_identifier", "prompt_cache_key", "prompt_cache_retention"}
)
"""Say who asks and how it is billed or cached, not what is answered."""

_REFUSED: Mapping[str, tuple[tuple[Any, ...], str]] = {
    "n": ((1,), "one reply a request; send several requests, each with its own seed"),
    "best_of": ((1,), "one reply a request; send several requests and choose"),
    "logit_bias": (({},), "no logits are changed; use response_format to constrain the reply"),
    "presence_penalty": ((0,), "no penalties; the log-probabilities would not be the model's"),
    "frequency_penalty": ((0,), "no penalties; the log-probabilities would not be the model's"),
    "repetition_penalty": ((1,), "no penalties; the log-probabilities would not be the model's"),
    "min_p": ((0,), "not implemented; use top_p or top_k"),
    "min_tokens": ((0,), "not implemented; the model's end mark always ends the reply"),
    "ignore_eos": ((False,), "not implemented; the model's end mark always ends the reply"),
    "stop_token_ids": (([],), "not implemented; use stop"),
    "skip_special_tokens": ((True,), "end marks are never part of the text; ask for return_token_ids"),
    "parallel_tool_calls": ((True,), "the number of calls is not limited; take the first"),
    "functions": ((), "replaced by tools"),
    "function_call": ((), "replaced by tool_choice"),
    "modalities": ((["text"],), "text only"),
    "audio": ((), "text only"),
    "prediction": ((), "not implemented; leave it out"),
    "web_search_options": ((), "no search; give the model a tool"),
    "reasoning_effort": ((), "set it where the model is opened"),
    "verbosity": ((), "set it where the model is opened"),
    "echo": ((False,), "the prompt is not repeated; its log-probabilities come from fairtrial's score"),
    "suffix": (("",), "text is continued, not filled in"),
    "prompt_logprobs": ((), "log-probabilities of a prompt come from fairtrial's score"),
    "guided_json": ((), "use response_format"),
    "guided_regex": ((), "use response_format"),
    "structured_outputs": ((), "use response_format"),
}
"""Field -> the values that change nothing (null always does), and why any other is refused."""


class WireError(UserError):
    """A request that cannot be answered as it stands. `param`: the field at fault; `status`: of the HTTP reply."""

    def __init__(self, message: str, *, param: str | None = None, status: int = 400, code: str | None = None) -> None:
        super().__init__(message)
        self.param, self.status, self.code = param, status, code


@dataclass(frozen=True, slots=True)
class Asked:
    """What a client wants: the request, and how the reply is to be written."""

    kind: Literal["chat", "completion"]
    model: str | None
    """As the client named it; None: it named none."""
    request: Request
    stream: bool = False
    include_usage: bool = False
    """A last chunk with the usage, when streaming."""
    logprobs: bool = False
    top: int = 0
    """Most likely alternatives to list at each token: 0 or 1."""
    token_ids: bool = False
    """Give prompt and completion ids."""


class _StreamOptions(BaseModel):
    model_config = ConfigDict(strict=True, extra="ignore")
    include_usage: bool | None = None


class _Body(BaseModel):
    """What chat completions and completions share."""

    model_config = ConfigDict(strict=True, extra="allow", allow_inf_nan=False)
    model: str | None = None
    max_tokens: Annotated[int, Field(ge=1)] | None = None
    temperature: Annotated[float, Field(ge=0)] | None = None
    top_p: Annotated[float, Field(gt=0, le=1)] | None = None
    top_k: Annotated[int, Field(ge=-1)] | None = None
    stop: Any = None
    seed: Annotated[int, Field(ge=0, lt=2**63)] | None = None
    response_format: dict[str, Any] | None = None
    stream: bool | None = None
    stream_options: _StreamOptions | None = None
    return_token_ids: bool | None = None


class _Chat(_Body):
    messages: list[dict[str, Any]]
    tools: list[dict[str, Any]] | None = None
    tool_choice: Any = None
    max_completion_tokens: Annotated[int, Field(ge=1)] | None = None
    logprobs: bool | None = None
    top_logprobs: Annotated[int, Field(ge=0, le=20)] | None = None


class _Completion(_Body):
    prompt: Any
    logprobs: Annotated[int, Field(ge=0, le=5)] | None = None


_B = TypeVar("_B", bound=_Body)


def read_chat(body: Any) -> Asked:
    """The body of POST /v1/chat/completions. Raises WireError, which names the field."""
    parsed = _parse(_Chat, body)
    if not parsed.messages:
        raise WireError("messages: is empty; give at least one message", param="messages")
    messages = tuple(_message(index, item) for index, item in enumerate(parsed.messages))
    tools = tuple(_tool(index, item) for index, item in enumerate(parsed.tools or ()))
    limit, newer = parsed.max_tokens, parsed.max_completion_tokens
    if limit is not None and newer is not None and limit != newer:
        raise WireError("max_tokens and max_completion_tokens differ; give one", param="max_tokens")
    top = parsed.top_logprobs or 0
    if top and not parsed.logprobs:
        raise WireError("top_logprobs: needs logprobs: true", param="top_logprobs")
    _check_top(top, parsed.temperature, "top_logprobs")
    sampling = _sampling(parsed, newer if limit is None else limit)
    if not _tools_wanted(parsed.tool_choice, bool(tools)):
        tools = ()
    return _asked("chat", parsed, Request(messages=messages, tools=tools, sampling=sampling), parsed.logprobs, top)


def read_completion(body: Any) -> Asked:
    """The body of POST /v1/completions. Raises WireError, which names the field."""
    parsed = _parse(_Completion, body)
    prompt = parsed.prompt
    if isinstance(prompt, list) and len(prompt) == 1 and isinstance(prompt[0], str | list):
        prompt = prompt[0]
    limit = _COMPLETION_TOKENS if parsed.max_tokens is None else parsed.max_tokens
    sampling, top = _sampling(parsed, limit), parsed.logprobs or 0
    if top > 1:
        _check_top(top, 0.0, "logprobs")
    if isinstance(prompt, list) and any(isinstance(item, str | list) for item in prompt):
        raise WireError("prompt: one prompt a request; send several requests", param="prompt")
    if not prompt or not isinstance(prompt, str | list):
        raise WireError("prompt: give a text or a list of token ids, not empty", param="prompt")
    if isinstance(prompt, str):
        request = Request(prompt=prompt, sampling=sampling)
    else:
        request = Request(prompt_ids=_ids(prompt, "prompt"), sampling=sampling)
    return _asked("completion", parsed, request, parsed.logprobs is not None, top)


def check_features(asked: Asked, features: Collection[Feature], name: str) -> None:
    """Raise UnsupportedError where the reply is to hold what the model `name` does not give."""
    for field, wanted, feature in (
        ("logprobs", asked.logprobs, "logprobs"),
        ("return_token_ids", asked.token_ids, "token-ids"),
    ):
        if wanted and feature not in features:
            raise UnsupportedError(f'{field}: "{name}" gives none; leave it out or serve another model')


def _parse(model: type[_B], body: Any) -> _B:
    if not isinstance(body, dict):
        raise WireError("the body must be a JSON object")
    try:
        parsed = model.model_validate(body)
    except ValidationError as error:
        path = error.errors(include_url=False, include_input=False)[0]["loc"]
        raise WireError(explain(error, model), param=".".join(map(str, path)) or None) from None
    for name, value in (parsed.model_extra or {}).items():
        if value is None or name in _HARMLESS:
            continue
        if name not in _REFUSED:
            known = {*model.model_fields, *_HARMLESS}
            raise WireError(f'unknown field "{name[:80]}"{did_you_mean(name, known)}', param=name[:80])
        neutral, why = _REFUSED[name]
        if value not in neutral:
            raise WireError(f"{name}: not supported here: {why}", param=name)
    return parsed


def _asked(
    kind: Literal["chat", "completion"], body: _Body, request: Request, logprobs: bool | None, top: int
) -> Asked:
    options = body.stream_options
    return Asked(
        kind=kind,
        model=body.model,
        request=request,
        stream=bool(body.stream),
        include_usage=bool(options and options.include_usage),
        logprobs=bool(logprobs),
        top=top,
        token_ids=bool(body.return_token_ids),
    )


def _check_top(top: int, temperature: float | None, field: str) -> None:
    if top > 1 or (top == 1 and temperature != 0):
        raise WireError(
            f"{field}: {top} is not supported: only the sampled token's log-probability is kept; "
            "use 0, or 1 at temperature 0, where the sampled token is the most likely",
            param=field,
        )


def _sampling(body: _Body, limit: int | None) -> Sampling:
    stop = body.stop
    stops = [stop] if isinstance(stop, str) else [] if stop is None else stop
    if not isinstance(stops, list) or not all(isinstance(item, str) and item for item in stops):
        raise WireError("stop: give a text or a list of texts, none of them empty", param="stop")
    return Sampling(
        max_tokens=limit,
        temperature=1.0 if body.temperature is None else body.temperature,
        top_p=1.0 if body.top_p is None else body.top_p,
        top_k=max(0, body.top_k or 0),
        stop=tuple(stops),
        seed=body.seed,
        json_schema=_schema(body.response_format),
    )


def _schema(wanted: dict[str, Any] | None) -> dict[str, Any] | None:
    if wanted is None or wanted.get("type") == "text":
        return None
    if wanted.get("type") == "json_object":
        return {"type": "object"}
    given = wanted.get("json_schema")
    if wanted.get("type") != "json_schema":
        raise WireError('response_format.type: use "text", "json_object" or "json_schema"', param="response_format")
    if not isinstance(given, dict) or not isinstance(given.get("schema"), dict):
        raise WireError("response_format.json_schema.schema: must be a JSON schema", param="response_format")
    return given["schema"]


def _tools_wanted(choice: Any, offered: bool) -> bool:
    if choice is None or choice == "auto":
        return True
    if choice == "none":
        return False
    if not offered:
        raise WireError("tool_choice: there are no tools to choose from", param="tool_choice")
    raise WireError('tool_choice: use "auto" or "none"; a call cannot be forced', param="tool_choice")


def _tool(index: int, item: dict[str, Any]) -> dict[str, Any]:
    where, function = f"tools[{index}]", item.get("function")
    if item.get("type") != "function" or not isinstance(function, dict):
        raise WireError(f'{where}: must be {{"type": "function", "function": {{...}}}}', param=where)
    if not isinstance(function.get("name"), str) or not function["name"]:
        raise WireError(f"{where}.function.name: must be a text", param=where)
    if not isinstance(function.get("parameters", {}), dict | None):
        raise WireError(f"{where}.function.parameters: must be a JSON schema", param=where)
    return item


def _message(index: int, item: dict[str, Any]) -> Message:
    where, role = f"messages[{index}]", item.get("role")
    if role not in ("system", "developer", "user", "assistant", "tool"):
        raise WireError(f"{where}.role: use system, user, assistant or tool", param=f"{where}.role")
    for old in ("function_call", "audio"):
        if item.get(old) is not None:
            raise WireError(f"{where}.{old}: not supported here", param=f"{where}.{old}")
    reasoning = item.get("reasoning_content", item.get("reasoning"))
    ids = item.get("token_ids")
    if (role in ("user", "tool", "system", "developer")) and item.get("content") is None:
        raise WireError(f'{where}.content: is required for role "{role}"', param=f"{where}.content")
    for field, value in (
        ("reasoning_content", reasoning),
        ("name", item.get("name")),
        ("tool_call_id", item.get("tool_call_id")),
    ):
        if value is not None and not isinstance(value, str):
            raise WireError(f"{where}.{field}: must be a text", param=f"{where}.{field}")
    try:
        return Message(
            role="system" if role == "developer" else role,
            content=_content(item.get("content"), f"{where}.content"),
            reasoning=reasoning,
            tool_calls=_calls(item.get("tool_calls"), where),
            tool_call_id=item.get("tool_call_id"),
            name=item.get("name"),
            token_ids=None if ids is None else _ids(ids, f"{where}.token_ids"),
        )
    except ValidationError as error:
        raise WireError(f"{where}: {explain(error, Message)}", param=where) from None


def _content(content: Any, where: str) -> str:
    """A message's text; parts of type text are joined as they are."""
    if content is None or isinstance(content, str):
        return content or ""
    if not isinstance(content, list):
        raise WireError(f"{where}: must be a text or a list of parts", param=where)
    texts: list[str] = []
    for index, part in enumerate(content):
        kind = part.get("type") if isinstance(part, dict) else None
        if kind not in ("text", "refusal") or not isinstance(text := part.get(kind), str):
            raise WireError(f'{where}[{index}]: only {{"type": "text", "text": "..."}} is supported', param=where)
        texts.append(text)
    return "".join(texts)


def _calls(given: Any, where: str) -> tuple[ToolCall, ...]:
    if given is None:
        return ()
    field = f"{where}.tool_calls"
    if not isinstance(given, list):
        raise WireError(f"{field}: must be a list", param=field)
    calls: list[ToolCall] = []
    for index, item in enumerate(given):
        function = item.get("function") if isinstance(item, dict) else None
        if not isinstance(function, dict) or not isinstance(item.get("id"), str):
            raise WireError(f"{field}[{index}]: needs id and function", param=field)
        name, arguments = function.get("name"), function.get("arguments", "{}")
        if not isinstance(name, str) or not isinstance(arguments, str):
            raise WireError(f"{field}[{index}].function: name and arguments must be texts", param=field)
        calls.append(ToolCall(id=item["id"], name=name, arguments=arguments))
    return tuple(calls)


def _ids(given: Any, where: str) -> tuple[int, ...]:
    if not isinstance(given, list) or not all(type(item) is int and item >= 0 for item in given):
        raise WireError(f"{where}: must be a list of token ids (integers, not negative)", param=where)
    return tuple(given)
