"""A judge behind any server that speaks OpenAI's protocol, such as vLLM or ``transformers serve``."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

from segue.checks import check_count, check_positive, needed, unknown_name

if TYPE_CHECKING:
    from segue.judge.pairwise import JudgeSettings

__all__ = ["JudgeServer", "JudgeUnavailableError", "RequestRefusedError"]

_KEY_VARIABLE = "OPENAI_API_KEY"


class JudgeUnavailableError(ConnectionError):
    """The judge's server does not answer, or not as such a server does."""


class RequestRefusedError(ValueError):
    """The server refuses one question for what it says, such as its length."""


class JudgeServer:
    """The judge.

    Args:
        base_url: Such as ``http://localhost:8000/v1``.
        timeout_seconds: Longest wait for one answer.
        max_retries: How often a question is asked again after a failed connection, a time-out, or a
            status of 408, 409, 429 or from 500 on; the waits grow, and follow ``Retry-After``.

    The key is read from the environment variable ``OPENAI_API_KEY``; a server of one's own needs
    none.
    """

    def __init__(
        self, base_url: str, *, timeout_seconds: float = 120.0, max_retries: int = 5
    ) -> None:
        with needed("the judge", "openai", extra="judge"):
            import openai

        if not base_url.startswith(("http://", "https://")):
            raise ValueError(f"base_url must be like http://localhost:8000/v1, got {base_url!r}")
        check_positive("timeout_seconds", timeout_seconds)
        check_count("max_retries", max_retries)
        self.base_url = base_url
        self._openai = openai
        self._client = openai.OpenAI(
            base_url=base_url,
            api_key=os.environ.get(_KEY_VARIABLE) or "none",
            timeout=timeout_seconds,
            max_retries=max_retries,
        )

    def check(self, model: str) -> None:
        """Ask the server which models it has.

        Raises:
            JudgeUnavailableError: If it does not answer, or not as an OpenAI-compatible server.
            ValueError: If it does not have ``model``; names those it has.
        """
        # One retry: whoever forgot to start the server should not wait for it.
        try:
            found = self._client.with_options(max_retries=1).models.list()
            served = [each.id for each in found.data]
        except self._openai.APIStatusError as error:
            raise self._unavailable(
                model,
                f"answers GET /models with status {error.status_code}",
                "check the address (it usually ends in /v1) and " + _KEY_VARIABLE,
            ) from error
        except self._openai.APIConnectionError as error:
            raise self._unavailable(
                model, f"does not answer ({_reason(error)})", "start it, or name another --base-url"
            ) from error
        except (AttributeError, TypeError, ValueError) as error:
            raise self._unavailable(
                model, "answers GET /models with something else than a list", "check the address"
            ) from error
        if model not in served:
            raise ValueError(f"{unknown_name('model', model, served)} (at {self.base_url})")

    def answer(self, question: str, settings: JudgeSettings) -> str:
        """Ask the judge; return its answer as it is.

        Raises:
            JudgeUnavailableError: If there is no answer after all retries.
            RequestRefusedError: If the server refuses this question (status 400, 413 or 422).
        """
        try:
            reply: Any = self._client.chat.completions.create(**settings.request(question))
        except (self._openai.BadRequestError, self._openai.UnprocessableEntityError) as error:
            raise RequestRefusedError(_reason(error)) from error
        except self._openai.APIStatusError as error:
            if error.status_code == 413:
                raise RequestRefusedError(_reason(error)) from error
            raise self._unavailable(
                settings.model,
                f"answers with status {error.status_code} ({_reason(error)})",
                _AGAIN,
            ) from error
        except self._openai.APIConnectionError as error:
            raise self._unavailable(
                settings.model, f"stopped answering ({_reason(error)})", _AGAIN
            ) from error
        choices = getattr(reply, "choices", None)
        if not choices:
            raise self._unavailable(settings.model, "sent an answer without choices", _AGAIN)
        return choices[0].message.content or ""

    def _unavailable(self, model: str, what: str, remedy: str) -> JudgeUnavailableError:
        return JudgeUnavailableError(
            f"the judge {model} is away: the server at {self.base_url} {what}; {remedy}"
        )


_AGAIN = "what is judged is kept, the same command goes on"


def _reason(error: Exception) -> str:
    text = str(error.__cause__ or error).strip() or type(error).__name__
    return text if len(text) <= 200 else f"{text[:200]}…"
