"""CLIP's tokeniser cut to its most frequent merges.

Apart from models/clip.py because open_clip takes seconds to import, which commands that build no CLIP should not wait for.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from open_clip.tokenizer import SimpleTokenizer

_BYTES = 512  # 256 bytes and 256 bytes that end a word


class ShortTokenizer(SimpleTokenizer):
    """Tokenise with CLIP's byte-pair encoding cut to its first `merges` merges."""

    encoder: dict[str, int]
    bpe_ranks: dict[tuple[str, str], int]

    def __init__(self, *, merges: int, context_length: int) -> None:
        super().__init__(context_length=context_length)
        words = sorted(self.encoder, key=lambda word: self.encoder[word])[: _BYTES + merges]
        words += ["<start_of_text>", "<end_of_text>"]
        self.encoder = {word: i for i, word in enumerate(words)}
        self.decoder = {i: word for word, i in self.encoder.items()}
        self.bpe_ranks = {pair: rank for pair, rank in self.bpe_ranks.items() if rank < merges}
        self.vocab_size = len(self.encoder)
        self.sot_token_id, self.eot_token_id = self.vocab_size - 2, self.vocab_size - 1
        self.all_special_ids = [self.sot_token_id, self.eot_token_id]


def tokenizer_of(*, merges: int | None, context_length: int) -> SimpleTokenizer:
    """Return CLIP's tokeniser, whole or cut."""
    if merges is None:
        return SimpleTokenizer(context_length=context_length)
    return ShortTokenizer(merges=merges, context_length=context_length)


def longest(text: str, templates: Sequence[str], tokenizer: SimpleTokenizer) -> int:
    """Return how many tokens a text takes in the longest template, start and end included."""
    return max(len(tokenizer.encode(template.format(text))) for template in templates) + 2


def count_tokens(text: str, config: Mapping[str, object]) -> int:
    """Return the same by the `config` of a pack's CLIP, without building it."""
    model, merges, templates = config["model"], config.get("merges"), config.get("templates", ("{}",))
    assert isinstance(model, Mapping) and (merges is None or isinstance(merges, int)) and isinstance(templates, Sequence)
    length = int(model["text_cfg"].get("context_length", 77))
    return longest(text, [str(template) for template in templates], tokenizer_of(merges=merges, context_length=length))
