"""The process that talks to MLflow: `python -m pipeline.mlflow_process`.

A message says what to `do`. One to `edit` or `write` begins a conversation, which ends the process; any other is one request and one
answer, of which there may be many.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping

from pipeline import mlflow_history, mlflow_registry, mlflow_training_run
from pipeline.child import Message, failure, serve
from pipeline.mlflow_edit_run import record_edit
from pipeline.mlflow_training_run import write

CONVERSATIONS: Mapping[str, Callable[[Message, Iterator[Message]], Iterator[Message]]] = {"edit": record_edit, "write": write}
REQUESTS: Mapping[str, Callable[[Message], Message]] = {
    **dict.fromkeys(("open", "end"), mlflow_training_run.answer),
    **dict.fromkeys(("history", "fetch", "mark"), mlflow_history.answer),
    **dict.fromkeys(("register", "find", "download"), mlflow_registry.answer),
}


def answers(messages: Iterator[Message]) -> Iterator[Message]:
    """Serve messages, one after the other; an error of a request is its answer."""
    for message in messages:
        do = str(message["do"])
        if do in CONVERSATIONS:
            yield from CONVERSATIONS[do](message, messages)
            return
        try:
            answer = REQUESTS[do](message)
        except Exception as error:  # whatever a server or database does, the owner is told
            answer = failure(error)
        yield answer


if __name__ == "__main__":
    sys.exit(serve(answers))
