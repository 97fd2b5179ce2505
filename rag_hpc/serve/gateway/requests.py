"""The bodies of requests. OpenAI's have fields that mean nothing here, and are taken; our own have none to spare."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from rag_hpc.algo.answer.prompt import Turn
from rag_hpc.serve.gateway.problems import Problem


class OwnRequest(BaseModel):
    """A body of ours."""

    model_config = ConfigDict(extra="forbid")


class Query(OwnRequest):
    """POST /v1/query and /v1/retrieve."""

    question: str
    k: int = Field(0, ge=0)  # 0: as many as the run reads
    candidates: int | None = Field(None, ge=0)  # hits that the cross-encoder scores; 0: none, null: as the gateway does
    filter: str = Field("", max_length=4096)
    deadline_ms: int | None = Field(None, ge=1, le=600_000)
    session: str = Field("", max_length=256)
    stream: bool = False


class Feedback(OwnRequest):
    """POST /v1/feedback."""

    request_id: str = Field(pattern=r"^[A-Za-z0-9._-]{1,64}$")
    rating: Literal[-1, 1]
    chunk_id: str = Field("", max_length=256)  # of one of the answer's passages; "" = of the answer as a whole
    comment: str = Field("", max_length=2000)


class TokenRequest(OwnRequest):
    """POST /v1/auth/token."""

    api_key: str = Field(max_length=256)
    scopes: list[str] = Field(default_factory=list, max_length=16)


class Message(BaseModel):
    """One message of a chat."""

    role: Literal["system", "developer", "user", "assistant", "tool", "function"]
    content: str | list[dict[str, Any]] | None = None

    def text(self) -> str:
        """Return its text. Raises Problem for what is no text."""
        if isinstance(self.content, str):
            return self.content
        parts = self.content or []
        if any(part.get("type") != "text" or not isinstance(part.get("text"), str) for part in parts):
            raise Problem(400, "unsupported_content", "messages: only text is read; leave images and the like away")
        return "\n".join(part["text"] for part in parts)


class Generation(BaseModel):
    """What chat and completions share."""

    model: str = Field(max_length=256)
    stream: bool = False
    n: int | None = None
    temperature: float | None = Field(None, ge=0, le=2)
    max_tokens: int | None = Field(None, ge=1)
    user: str | None = Field(None, max_length=256)
    k: int = Field(0, ge=0)  # ours, as of Query
    candidates: int | None = Field(None, ge=0)  # likewise

    def most_tokens(self) -> int | None:
        """Return how long the answer may be."""
        return self.max_tokens

    def before(self) -> list[Turn]:
        """Return what was said before the question, oldest first."""
        return []


class Chat(Generation):
    """POST /v1/chat/completions."""

    messages: list[Message] = Field(min_length=1, max_length=1024)
    max_completion_tokens: int | None = Field(None, ge=1)
    tools: list[Any] | None = None

    def most_tokens(self) -> int | None:
        """Return how long the answer may be."""
        return self.max_completion_tokens or self.max_tokens

    def question(self) -> str:
        """Return the last thing that the user said. Raises Problem where nothing is."""
        if self.tools:
            raise Problem(400, "unsupported_tools", "tools: answers come from passages, none is called; leave it away")
        said = [message.text() for message in self.messages if message.role == "user"]
        if not said:
            raise Problem(400, "no_question", "messages: none is of the role user, whose last one is answered")
        return said[-1]

    def before(self) -> list[Turn]:
        """Return what the user and the assistant said before that, oldest first; the rules are the run's own."""
        last = max(n for n, message in enumerate(self.messages) if message.role == "user")
        said = [message for message in self.messages[:last] if message.role in ("user", "assistant")]
        return [Turn(message.role, message.text()) for message in said]


class Completion(Generation):
    """POST /v1/completions."""

    prompt: str | list[str]

    def question(self) -> str:
        """Return the prompt. Raises Problem for several."""
        prompts = [self.prompt] if isinstance(self.prompt, str) else self.prompt
        if len(prompts) != 1:
            raise Problem(400, "one_prompt", f"prompt: {len(prompts)} of them; ask one at a time")
        return prompts[0]


class Embeddings(BaseModel):
    """POST /v1/embeddings."""

    input: str | list[str]
    model: str = Field("", max_length=256)
    encoding_format: Literal["float", "base64"] = "float"
    input_type: Literal["passage", "query"] = "passage"

    def texts(self) -> list[str]:
        """Return the texts."""
        return [self.input] if isinstance(self.input, str) else self.input
