"""A real server that speaks OpenAI's protocol, in this process, and says what it is told."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Literal

import pytest

Failure = int | Literal["drop", "hang"]


class LocalJudge:
    """Answers with ``reply(question)``; takes ``failures`` off the list first, one a request."""

    def __init__(self) -> None:
        self.model = "judge"
        self.requests: list[dict[str, Any]] = []  # those that were answered
        self.num_received = 0
        self.failures: list[Failure] = []
        self.always_fail_after: int | None = None
        self.models_status = 200
        self.reply: Callable[[str], str] = lambda question: "A"
        self.lock = threading.Lock()
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self.server.daemon_threads = True
        self.thread = threading.Thread(target=self.server.serve_forever, args=(0.02,), daemon=True)
        self.thread.start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server.server_address[1]}/v1"

    @property
    def questions(self) -> list[str]:
        return [request["messages"][-1]["content"] for request in self.requests]

    def close(self) -> None:
        self.server.shutdown()
        self.server.server_close()

    def next_failure(self) -> Failure | None:
        with self.lock:
            self.num_received += 1
            if self.failures:
                return self.failures.pop(0)
            limit = self.always_fail_after
            return 500 if limit is not None and len(self.requests) >= limit else None

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        judge = self

        class Handler(BaseHTTPRequestHandler):
            def log_message(self, *_: Any) -> None:
                pass

            def send(self, status: int, body: Any) -> None:
                content = json.dumps(body).encode()
                self.send_response(status)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(content)))
                if status != 200:
                    self.send_header("retry-after-ms", "1")
                self.end_headers()
                self.wfile.write(content)

            def do_GET(self) -> None:
                if self.path != "/v1/models" or judge.models_status != 200:
                    self.send(
                        404 if self.path != "/v1/models" else judge.models_status, {"error": "no"}
                    )
                    return
                model = {"id": judge.model, "object": "model", "created": 0, "owned_by": "us"}
                self.send(200, {"object": "list", "data": [model]})

            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                failure = judge.next_failure()
                if failure == "drop":
                    self.connection.close()
                    return
                if failure == "hang":
                    time.sleep(1.0)
                    return
                if failure is not None:
                    self.send(failure, {"error": {"message": f"status {failure} as told"}})
                    return
                with judge.lock:
                    judge.requests.append(body)
                words = judge.reply(body["messages"][-1]["content"])
                message = {"role": "assistant", "content": words}
                self.send(
                    200,
                    {
                        "id": "1",
                        "object": "chat.completion",
                        "created": 0,
                        "model": body["model"],
                        "choices": [{"index": 0, "finish_reason": "stop", "message": message}],
                    },
                )

        return Handler


@pytest.fixture
def judge() -> Iterator[LocalJudge]:
    served = LocalJudge()
    yield served
    served.close()


@pytest.fixture(autouse=True)
def _no_key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
