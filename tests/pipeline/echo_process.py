"""A child that answers with its process id, or with an error where it is asked for one."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator

from pipeline.child import Message, failure, serve


def answers(messages: Iterator[Message]) -> Iterator[Message]:
    """Serve messages, one after the other."""
    for message in messages:
        yield failure(ValueError(str(message["fail"]))) if "fail" in message else {"pid": os.getpid()}


if __name__ == "__main__":
    sys.exit(serve(answers))
