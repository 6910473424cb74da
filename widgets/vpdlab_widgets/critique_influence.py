"""CritiqueInfluence: which sentence of the feedback moved which token, and what another text would have done."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import traitlets

from vpdlab_widgets import pack
from vpdlab_widgets.base import LabWidget, fallback_table, plain

MEASURES = ("delta", "shapley", "kl")
_PER_TOKEN = ("student_logp", "logp", "empty_logp", "total", "total_kl", "gap")
_MATRICES = ("drop", "drop_kl", "shapley")
_LONGEST = 20_000  # characters of the reader's own text


class CritiqueInfluence(LabWidget):
    """A matrix of sentences by tokens: how far each sentence of the critique moved the teacher at each token.

    `selected` is the selected row: sentence i is row i, followed by the whole critique, the additivity gap, the
    variants (shuffled, swapped, ...), no critique and the plain prompt; `token` is the selected token. Both are None if
    nothing is selected. Each row says what it is compared with: a sentence with the critique without it, a whole text
    with `baseline`.

    With `rescore`, the reader can edit the critique and score the new text. Scoring runs on the thread that created the
    widget and, in a notebook, between cells: never while a cell that trains the model is running. `own_record` is the
    result. For a model with a closed vocabulary, `rescore` has a method `unknown_words(text) -> list[str]`, and a line
    under the text names the words that the model does not know while the reader types.

    Args:
        record: plain data from `vpdlab.study.influence.critique_influence`.
        rescore: from the reader's text to such a record (`vpdlab.study.influence.rescorer`).
        measure: "delta", the change of log q at the sampled token when a sentence is omitted; "shapley", the same
            attributed exactly; "kl", how far the whole distribution moved.
        baseline: what whole texts are compared with: "none", the teacher's prompt without a critique; "plain", the
            student on the plain prompt; or the name of a variant, such as another problem's critique.
        title: plain text above the matrix.

    Raises:
        TypeError: a keyword is unknown, or a value is not plain data.
        ValueError: a list is not as long as `tokens`, or `baseline` is unknown.
    """

    record = traitlets.Dict().tag(keyword=True)
    packed = traitlets.Dict().tag(sync=True, internal=True)
    edited = traitlets.Dict().tag(sync=True, internal=True)
    live = traitlets.Bool(False).tag(sync=True, internal=True)
    busy = traitlets.Enum(["", "queued", "working"], "").tag(sync=True, internal=True)
    trouble = traitlets.Unicode("").tag(sync=True, internal=True)
    closed = traitlets.Bool(False).tag(sync=True, internal=True)
    unknown = traitlets.List(traitlets.Unicode()).tag(sync=True, internal=True)
    own = traitlets.Bool(False).tag(sync=True)
    """Whether the reader's own text is shown instead of the recorded critique."""
    measure = traitlets.Enum(MEASURES, "delta").tag(sync=True)
    baseline = traitlets.Unicode("none").tag(sync=True)
    title = traitlets.Unicode("").tag(sync=True)
    token = traitlets.Int(None, allow_none=True).tag(sync=True)
    selected = traitlets.Int(None, allow_none=True).tag(sync=True)

    own_record: dict[str, Any] | None = None

    def __init__(
        self,
        record: Mapping[str, Any],
        rescore: Callable[[str], Mapping[str, Any]] | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(record=dict(record), **kwargs)
        self._thread, self._loop = threading.get_ident(), _running_loop()
        self._take(rescore)
        self.observe(lambda change: self._take(None), "record")
        self.on_msg(self._on_message)

    @traitlets.validate("baseline")
    def _check_baseline(self, proposal: Mapping[str, Any]) -> str:
        if proposal["value"] not in self._baselines():
            raise ValueError(f"baseline {proposal['value']!r} is not one of {', '.join(self._baselines())}")
        return proposal["value"]

    def _baselines(self) -> list[str]:
        return ["none", "plain", *(str(one["name"]) for one in self.record.get("variants", ()))]

    def show(self, record: Mapping[str, Any], rescore: Callable[[str], Mapping[str, Any]] | None = None) -> None:
        """Show another rollout's record; `rescore` scores other texts on that rollout."""
        self.record = dict(record)
        self._take(rescore)

    def _take(self, rescore: Callable[[str], Mapping[str, Any]] | None) -> None:
        self.packed = pack_influence(self.record)
        self.edited, self.own, self.own_record = {}, False, None
        self.baseline = self.baseline if self.baseline in self._baselines() else "none"  # another rollout's variants
        self._rescore, self.live = rescore, rescore is not None
        self._unknown_words, self.unknown = getattr(rescore, "unknown_words", None), []
        self.closed = self._unknown_words is not None

    def _on_message(self, widget: Any, content: Any, buffers: Any) -> None:
        # This may run on any thread while a cell trains the model, so it only schedules the work.
        if not isinstance(content, dict) or self._rescore is None:
            return
        kind, text = content.get("kind"), str(content.get("text", ""))[:_LONGEST]
        if kind == "words" and self.closed:
            self._later(self._look_up, text)
        elif kind == "rescore" and not self.busy:
            self.busy = "queued" if self._loop is not None else ""
            self._later(self._work, text)

    def _later(self, work: Callable[[str], None], text: str) -> None:
        """Do the work on the thread that created the widget."""
        if self._loop is not None:
            self._loop.call_soon_threadsafe(work, text)
        elif threading.get_ident() == self._thread:
            work(text)
        else:
            self.trouble = "no event loop reaches the thread that created this widget"

    def _look_up(self, text: str) -> None:
        if self._unknown_words is None:  # another record was shown in the meantime
            return
        try:
            self.unknown = [str(word) for word in self._unknown_words(text)]
        except Exception as error:  # noqa: BLE001  as in `_work`
            self.trouble = f"{type(error).__name__}: {error}"[:500]

    def _work(self, text: str) -> None:
        self.busy, self.trouble = "working", ""
        try:
            assert self._rescore is not None
            found = dict(self._rescore(text))
            self.edited = pack_influence(found)
            self.own_record, self.own = found, True
        except Exception as error:  # noqa: BLE001  the reader sees any error; a traceback would be lost here
            self.trouble = f"{type(error).__name__}: {error}"[:500]
        finally:
            self.busy = ""

    def fallback(self) -> str:
        """A table of the sentences and the effect of each."""
        record = self.record
        shapley = record.get("shapley") or [None] * len(record.get("sentences", ()))
        rows = [
            {"sentence": text, "drop": sum(drop), "shapley": None if share is None else sum(share)}
            for text, drop, share in zip(record["sentences"], record["drop"], shapley, strict=True)
        ]
        part = record.get("part") or "critique"
        whole = f"(the whole {part}, against no {part})"
        rows.append({"sentence": whole, "drop": sum(record["total"]), "shapley": sum(record["total"])})
        for variant in record.get("variants", ()):
            effect = sum(record["total"]) - sum(variant["delta"])
            rows.append({"sentence": f"({variant['name']}, against no {part})", "drop": effect})
        columns = [("sentence", "sentence"), ("drop", "effect on log q of the response"), ("shapley", "Shapley value")]
        return fallback_table(self._title(), columns, rows)


def _running_loop() -> asyncio.AbstractEventLoop | None:
    """The event loop that runs cells, seen from within one; None in a plain program."""
    try:
        return asyncio.get_running_loop()
    except RuntimeError:
        return None


def pack_influence(record: Mapping[str, Any]) -> dict[str, Any]:
    """An influence record as sent to the browser: texts and scalars unchanged, per-token lists as bytes.

    Raises:
        ValueError: a list is not as long as the response, or a matrix does not have one row per sentence.
    """
    length, count = len(record["tokens"]), len(record["sentences"])
    long = {"tokens", "variants", *_PER_TOKEN, *_MATRICES}
    packed: dict[str, Any] = {"meta": plain({key: v for key, v in record.items() if key not in long}, "record")}
    packed["tokens"] = pack.texts(record["tokens"])
    packed["numbers"] = {name: _row(record[name], length, name) for name in _PER_TOKEN if record.get(name) is not None}
    packed["matrices"] = {}
    for name in _MATRICES:
        matrix = record.get(name)
        if matrix is None:
            continue
        if len(matrix) != count:
            raise ValueError(f"record.{name}: {len(matrix)} rows for {count} sentences")
        packed["matrices"][name] = b"".join(_row(row, length, f"{name}[{i}]") for i, row in enumerate(matrix))
    packed["variants"] = [
        {
            "name": str(variant["name"]),
            "text": str(variant["text"]),
            "delta": _row(variant["delta"], length, f"variants[{i}].delta"),
            "kl": _row(variant["kl"], length, f"variants[{i}].kl"),
        }
        for i, variant in enumerate(record.get("variants", ()))
    ]
    return packed


def _row(values: Sequence[float | None], length: int, where: str) -> bytes:
    if len(values) != length:
        raise ValueError(f"record.{where}: {len(values)} numbers for {length} tokens")
    return pack.floats(values)
