"""Text to token ids, and text from outside as data: no control token in it."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cached_property
from typing import Any

WORD = re.compile(r"[^\W\d_]+")


@dataclass(frozen=True)
class Encoder:
    """A tokenizer, with the operations that prompts need.

    Attributes:
        tokenizer: a Hugging Face tokenizer.
    """

    tokenizer: Any

    def ids(self, text: str) -> tuple[int, ...]:
        """Token ids of a text, nothing added."""
        return tuple(self.tokenizer(text, add_special_tokens=False).input_ids)

    def count(self, text: str) -> int:
        """Number of tokens in a text."""
        return len(self.ids(text))

    def located(self, text: str) -> tuple[tuple[int, ...], list[tuple[int, int]]]:
        """Token ids of a text, nothing added, and the (start, end) of each token's characters in it."""
        found = self.tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
        return tuple(found.input_ids), [(start, end) for start, end in found.offset_mapping]

    def unknown_words(self, text: str) -> list[str]:
        """The words (runs of letters) of a text that are not one token, neither alone nor after a space.

        In the order of their first occurrence, each once. A model whose vocabulary is closed
        (`model.traits.closed_vocabulary`) has never seen them; for any other model they mean nothing.
        """
        return [word for word in dict.fromkeys(WORD.findall(text)) if not self._is_token(word)]

    def _is_token(self, word: str) -> bool:
        unknown = self.tokenizer.unk_token_id
        return any(len(ids) == 1 and ids[0] != unknown for ids in (self.ids(word), self.ids(f" {word}")))

    def head(self, text: str, tokens: int) -> str:
        """The longest start of `text` that has at most `tokens` of its tokens."""
        offsets = self.located(text)[1]
        if tokens >= len(offsets):
            return text
        # Cut where the first dropped token starts: all tokens of one character start with it. Trailing white space goes
        # too, since some tokenizers count it as part of the token that follows.
        return text[: offsets[tokens][0]].rstrip()

    def plain(self, text: str | None) -> str:
        """The text as data: control tokens are removed, so that it cannot open a new turn. None is ""."""
        text = text or ""
        if self._pattern.search(text) is None:
            return text
        # Character by character: once a token is removed, the text around it may form another one.
        kept, lengths = [], sorted({len(token) for token in self._control})
        for character in text:
            kept.append(character)
            for length in lengths:
                if "".join(kept[-length:]) in self._control:
                    del kept[-length:]
                    break
        return "".join(kept)

    def control_tokens(self, text: str) -> list[str]:
        """The control tokens in a text, sorted, each once."""
        return sorted(set(self._pattern.findall(text)))

    @cached_property
    def _control(self) -> frozenset[str]:
        """The tokenizer's control tokens: the named ones (eos and so on) and those only marked as special."""
        added = (str(token) for token in self.tokenizer.added_tokens_decoder.values() if token.special)
        return frozenset({*self.tokenizer.all_special_tokens, *added} - {""})

    @cached_property
    def _pattern(self) -> re.Pattern[str]:
        """Matches any control token; nothing where the tokenizer has none."""
        return re.compile("|".join(map(re.escape, sorted(self._control, key=len, reverse=True))) or r"(?!)")
