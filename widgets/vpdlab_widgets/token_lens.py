"""TokenLens: a response token by token, coloured by how student and teacher disagree."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import traitlets

from vpdlab_widgets import pack, palette
from vpdlab_widgets.base import LabWidget, counted, plain, safe

MEASURES = ("kl", "ratio", "reward", "rank", "student_entropy", "teacher_entropy", "surprise")
NUMBERS = (
    "student_logp", "teacher_logp", "kl", "divergence", "student_entropy", "teacher_entropy", "student_rank",
    "teacher_rank", "sampled_logp", "alpha_divergence", "alpha_divergence_push", "alpha_divergence_part",
    "cross_entropy", "cross_entropy_push", "clipped_kl", "clipped_kl_push", "clipped_kl_part", "to_come",
    "entropy_share", "reference_logp",
)  # fmt: skip
_FALLBACK_TOKENS = 400


class TokenLens(LabWidget):
    """One response at a time as text, each token coloured by a measure that the reader chooses.

    An episode (a record with `turn_roles`, `turn_texts` and `turn_ends`) is shown turn by turn. Tokens whose `mask` is
    False, the environment's, have no colour and no part in any scale; outputs of tools and long replies are folded.
    `feedback_turn`, from 1, marks the policy's turn that the feedback is about.

    `selected` is the index of the pinned token in the response (from 0), or None. `index` is the record shown, or None:
    `traitlets.link((table, "selected"), (lens, "index"))` makes a table of the same records drive the lens.

    Args:
        records: plain dicts from `vpdlab.show.widget_data.lens_records`, or one of them. All per-token lists are
            optional: what a run did not record is not offered, and a record without `tokens` shows its text only.
        index: which record is shown.
        colour: the measure that colours the tokens: one of `MEASURES`, or the name of a list in the records' `weights`.
        title: plain text above the response.
        why: the method whose formula is shown, filled in with the current token's numbers, beside those of all others;
            "" is the run's own, None shows none. It needs records made with `lens_records(..., config=run.config)`.

    Raises:
        TypeError: a keyword is unknown, or a value is not plain data.
        ValueError: a list is not as long as `tokens`, the turns are not those of the tokens, `colour` is unknown, or
            `index` is out of range.
    """

    _parts = ("mathematics", "formulas")
    records = traitlets.List(traitlets.Dict()).tag(keyword=True)
    packed = traitlets.List().tag(sync=True, internal=True)
    index = traitlets.Int(0, allow_none=True).tag(sync=True)
    colour = traitlets.Unicode("kl").tag(sync=True)
    title = traitlets.Unicode("").tag(sync=True)
    why = traitlets.Unicode(None, allow_none=True).tag(sync=True)
    selected = traitlets.Int(None, allow_none=True).tag(sync=True)

    def __init__(self, records: Iterable[Mapping[str, Any]] | Mapping[str, Any] = (), **kwargs: Any) -> None:
        items = [records] if isinstance(records, Mapping) else records
        super().__init__(records=[dict(record) for record in items], **kwargs)
        self._send_records()
        self.observe(self._send_records, "records")

    @property
    def record(self) -> dict[str, Any] | None:
        """The record shown, or None."""
        return None if self.index is None or self.index >= len(self.records) else self.records[self.index]

    def _send_records(self, change: Any = None) -> None:
        self.packed = [pack_record(record, f"records[{place}]") for place, record in enumerate(self.records)]

    @traitlets.validate("colour")
    def _check_colour(self, proposal: Mapping[str, Any]) -> str:
        known = [*MEASURES, *dict.fromkeys(name for record in self.records for name in record.get("weights") or {})]
        if proposal["value"] not in known:
            raise ValueError(f"colour {proposal['value']!r} is not one of {', '.join(known)}")
        return proposal["value"]

    @traitlets.validate("index")
    def _check_index(self, proposal: Mapping[str, Any]) -> int | None:
        return checked_index(proposal["value"], self.records, "record")

    def fallback(self) -> str:
        """The current response, coloured, without interaction."""
        return "<p>TokenLens: no response</p>" if self.record is None else static_record(self.record, self._title())


def static_record(record: Mapping[str, Any], title: str) -> str:
    """A response, coloured by its KL, as static HTML."""
    tokens, values, mask, heads = _pieces(record)
    values = values[:_FALLBACK_TOKENS]
    largest = max((value for value in values if value is not None), default=0.0)
    spans = "".join(
        heads.get(place, "") + _span(token, value, largest, own)
        for place, (token, value, own) in enumerate(zip(tokens, values, mask, strict=False))
    )
    cut = f" … ({counted(len(tokens), 'token')})" if len(tokens) > _FALLBACK_TOKENS else ""
    named = f"{safe(title)}: {safe(record.get('prompt') or '')}"
    return f'<p>{named}</p><p style="white-space: pre-wrap">{spans}{cut}</p>'


def _pieces(
    record: Mapping[str, Any],
) -> tuple[Sequence[str], Sequence[float | None], Sequence[bool], dict[int, str]]:
    """Text, KL and mask of each token (of each turn, where there are no tokens), and the roles by their first token."""
    roles, tokens = record.get("turn_roles") or [], record.get("tokens")
    if tokens:
        kl, mask = record.get("kl") or [None] * len(tokens), record.get("mask") or [True] * len(tokens)
        starts = [0, *(record.get("turn_ends") or ())]
    else:
        tokens = record.get("turn_texts") or [record.get("text") or ""]
        kl, mask = [None] * len(tokens), [role == "assistant" for role in roles] or [True]
        starts = range(len(roles))
    values = [value if own else None for value, own in zip(kl, mask, strict=True)]
    named = zip(starts, roles, strict=False)
    return tokens, values, mask, {place: f"{chr(10) * (place > 0)}<b>[{safe(role)}]</b>\n" for place, role in named}


def _span(token: str, value: float | None, largest: float, own: bool) -> str:
    if not own:
        return f'<span style="opacity: 0.6">{safe(token)}</span>'
    alpha = 0.74 * value / largest if value is not None and largest > 0 else 0.0
    colour = palette.tinted(palette.EITHER["teacher"], round(alpha, 2))
    return f'<span style="background: {colour}">{safe(token)}</span>'


def pack_record(record: Mapping[str, Any], where: str = "record") -> dict[str, Any]:
    """One record as sent to the browser: scalars unchanged, per-token lists as bytes.

    Raises:
        TypeError: a value is not plain data.
        ValueError: a per-token list is not as long as `tokens`, or the turns are not those of the tokens.
    """
    tokens = record.get("tokens")
    long = {"tokens", "mask", "weights", *NUMBERS}
    long |= {f"{side}_{what}" for side in ("student", "teacher") for what in ("top", "top_logp", "context")}
    packed: dict[str, Any] = {"meta": plain({key: v for key, v in record.items() if key not in long}, where)}
    _check_turns(record, where)
    if tokens is None:
        return packed
    if record.get("mask"):
        if len(record["mask"]) != len(tokens):
            raise ValueError(f"{where}.mask: {len(record['mask'])} values for {len(tokens)} tokens")
        packed["mask"] = pack.integers(map(int, record["mask"]))
    words: dict[str, int] = {}
    packed["tokens"] = pack.texts(tokens)
    packed["numbers"] = {name: _numbers(record, name, len(tokens), where) for name in NUMBERS if record.get(name)}
    packed["weights"] = {
        name: _numbers(record["weights"], name, len(tokens), f"{where}.weights")
        for name, values in (record.get("weights") or {}).items()
        if values is not None
    }
    packed["tops"] = {
        side: _tops(record[f"{side}_top"], record[f"{side}_top_logp"], words, len(tokens), f"{where}.{side}_top")
        for side in ("student", "teacher")
        if record.get(f"{side}_top") and record.get(f"{side}_top_logp")
    }
    packed["contexts"] = {
        side: pack.texts(record[f"{side}_context"])
        for side in ("student", "teacher")
        if record.get(f"{side}_context") is not None
    }
    packed["words"] = pack.texts(list(words))
    return packed


def _check_turns(record: Mapping[str, Any], where: str) -> None:
    roles, texts, ends = (record.get(f"turn_{what}") or [] for what in ("roles", "texts", "ends"))
    if not len(roles) == len(texts) == len(ends):
        raise ValueError(f"{where}.turn_roles: {len(roles)} roles, {len(texts)} texts and {len(ends)} ends of turns")
    length = ends[-1] if record.get("tokens") is None and ends else len(record.get("tokens") or ())
    if ends and (list(ends) != sorted(ends) or ends[0] < 0 or ends[-1] != length):
        raise ValueError(f"{where}.turn_ends: {list(ends)} do not divide {length} tokens")
    own, about = roles.count("assistant"), record.get("feedback_turn")
    if roles and about is not None and not 1 <= about <= own:
        raise ValueError(f"{where}.feedback_turn: {about}, but the policy has {own} turns")


def _numbers(source: Mapping[str, Any], name: str, length: int, where: str) -> bytes:
    if len(source[name]) != length:
        raise ValueError(f"{where}.{name}: {len(source[name])} numbers for {length} tokens")
    return pack.floats(source[name])


def _tops(
    lists: Sequence[Sequence[str]], logps: Sequence[Sequence[float]], words: dict[str, int], length: int, where: str
) -> dict[str, Any]:
    """Top-k lists: each text once in `words`, and indices into it, -1 where a list is shorter than the longest."""
    if len(lists) != length or len(logps) != length:
        raise ValueError(f"{where}: {len(lists)} and {len(logps)} lists for {length} tokens")
    k = max(map(len, lists), default=0)
    ids, values = [], []
    for place, (row, logp) in enumerate(zip(lists, logps, strict=True)):
        if len(row) != len(logp):
            raise ValueError(f"{where}[{place}]: {len(row)} tokens with {len(logp)} numbers")
        ids += [words.setdefault(word, len(words)) for word in row] + [-1] * (k - len(row))
        values += [*logp, *([None] * (k - len(row)))]
    return {"k": k, "ids": pack.integers(ids), "logp": pack.floats(values)}


def checked_index(value: int | None, items: Sequence[Any], noun: str) -> int | None:
    """The place of one of some items, from 0, or None; any place where there are no items yet.

    Raises:
        ValueError: there is no such item.
    """
    if value is not None and items and not 0 <= value < len(items):
        raise ValueError(f"index {value} is not one of the {counted(len(items), noun)}")
    return value
