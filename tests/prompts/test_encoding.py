"""The tokenizer's operations on text: where its tokens stand, and which words it does not have."""

from __future__ import annotations

import pytest
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from vpdlab.prompts.encoding import Encoder


def word_tokenizer(unknown: bool) -> PreTrainedTokenizerFast:
    """One token each: "zork", "rising", "Ada", the latter two also after a space, and letters."""
    alphabet = [*"abcdefghijklmnopqrstuvwxyz", "A", "Ġ", "."]
    words = [*alphabet, "zo", "rk", "zork", "ri", "si", "ng", "risi", "rising", "Ġrising", "Ad", "Ada", "ĠAda"]
    merges = [("z", "o"), ("r", "k"), ("zo", "rk"), ("r", "i"), ("s", "i"), ("n", "g"), ("ri", "si"), ("risi", "ng"),
              ("Ġ", "rising"), ("A", "d"), ("Ad", "a"), ("Ġ", "Ada")]  # fmt: skip
    special = {"unk_token": "[UNK]"} if unknown else {}
    vocabulary = {token: place for place, token in enumerate([*words, *special.values()])}
    made = Tokenizer(models.BPE(vocabulary, merges, **special))
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    return PreTrainedTokenizerFast(tokenizer_object=made, **special)


@pytest.mark.parametrize("unknown", [False, True])
def test_words_that_are_not_one_token_are_unknown(unknown: bool) -> None:
    encoder = Encoder(word_tokenizer(unknown))
    assert encoder.unknown_words("Ada zork rising. rising a zork") == []
    assert encoder.unknown_words("zork zorks, Adas (rising) sing_zork 47 zorks x9") == ["zorks", "Adas", "sing"]
    assert encoder.unknown_words("") == []


def test_a_word_that_becomes_the_unknown_token_is_unknown() -> None:
    made = Tokenizer(models.WordLevel({"[UNK]": 0, "zork": 1}, unk_token="[UNK]"))
    made.pre_tokenizer = pre_tokenizers.Whitespace()
    encoder = Encoder(PreTrainedTokenizerFast(tokenizer_object=made, unk_token="[UNK]"))
    assert encoder.unknown_words("zork flurb Größe") == ["flurb", "Größe"]


def test_tokens_are_located_in_their_text() -> None:
    text = "Ada zork rising."
    ids, offsets = Encoder(word_tokenizer(False)).located(text)
    assert [text[start:end] for start, end in offsets] == ["Ada", " ", "zork", " rising", "."]
    assert len(ids) == 5
