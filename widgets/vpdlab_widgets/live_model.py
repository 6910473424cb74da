"""LiveModel: a small model that answers in the browser itself, with and without feedback; no kernel is needed."""

from __future__ import annotations

import json
import zlib
from collections.abc import Iterable, Mapping
from typing import Any

import traitlets

from vpdlab_widgets.base import LabWidget, fallback_table, plain

SIDES = ("student", "teacher")
_FIELDS = ("problem", "system", "critique", "demonstration")
_MODEL = ("name", "shape", "tokenizer", "prompts", "ends", "closed", "parameters", "notes", "weights", "sets")


class LiveModel(LabWidget):
    """Student and teacher answer a problem of the reader's own, token by token, in the browser.

    The reader types a problem and a critique, changes the temperature, and forces tokens: the answer continues from
    there. Each token shows what both say at its place. The weights are part of the widget's state, so a saved notebook,
    an offline page and JupyterLab without a kernel are all alive. `answers` holds what was written, in Python too:
    student and teacher -> text, tokens, ids, student_logp, teacher_logp, kl.

    Args:
        model: plain data from `vpdlab.zoo.live` (`live_model`, `bundled`) or `vpdlab.zoo.live_run.of_run`.
        examples: dicts with `problem` and optionally `system`, `critique`, `demonstration`, `answer`, to choose from.
        index: the example shown; None for none.
        problem, system, critique, demonstration: the texts; default: those of the example.
        temperature: of both distributions, in sampling and in what is shown; 0 takes the likeliest token, and shows
            the distributions at 1.
        seed: of the draws; the same seed and texts give the same answers.
        length: largest number of tokens of an answer.
        colour: what colours a token: "probability" by whoever wrote it, "ratio" (log q - log pi), or "kl".
        title: plain text above the model.

    Raises:
        TypeError: a keyword is unknown, or a value is not plain data.
        ValueError: `model` lacks a part.
    """

    _parts = ("live_engine",)
    model = traitlets.Dict().tag(keyword=True)
    packed = traitlets.Dict().tag(sync=True, internal=True)
    kept = traitlets.Dict().tag(sync=True, internal=True)
    examples = traitlets.List(traitlets.Dict()).tag(sync=True)
    index = traitlets.Int(0, allow_none=True).tag(sync=True)
    problem = traitlets.Unicode("").tag(sync=True)
    system = traitlets.Unicode("").tag(sync=True)
    critique = traitlets.Unicode("").tag(sync=True)
    demonstration = traitlets.Unicode("").tag(sync=True)
    temperature = traitlets.Float(1.0, min=0.0, max=100.0).tag(sync=True)
    seed = traitlets.Int(0).tag(sync=True)
    length = traitlets.Int(24, min=1).tag(sync=True)
    colour = traitlets.Enum(["probability", "ratio", "kl"], "probability").tag(sync=True)
    answers = traitlets.Dict().tag(sync=True)
    title = traitlets.Unicode("").tag(sync=True)
    selected = traitlets.Dict(None, allow_none=True).tag(sync=True)
    """The selected token: {"answer": "student" or "teacher", "token": its index}."""

    def __init__(self, model: Mapping[str, Any], examples: Iterable[Mapping[str, Any]] = (), **kwargs: Any) -> None:
        listed = [plain(dict(one), f"examples[{place}]") for place, one in enumerate(examples)]
        index = kwargs.get("index", 0)
        first = listed[index] if listed and index is not None else {}
        texts = {name: str(first.get(name) or "") for name in _FIELDS}
        super().__init__(model=dict(model), examples=listed, **texts | kwargs)
        self.packed = pack_model(self.model)

    def fallback(self) -> str:
        """The last answers as a table; without one, the problem."""
        rows = [{"who": side, "text": (self.answers.get(side) or {}).get("text")} for side in SIDES]
        shown = [{"who": "problem", "text": self.problem}, {"who": "critique", "text": self.critique}, *rows]
        return fallback_table(f"{self._title()} (it answers where JavaScript runs)", [("who", ""), ("text", "")], shown)


def pack_model(model: Mapping[str, Any]) -> dict[str, Any]:
    """A model as sent to the browser: plain values, and each set of weights deflated.

    float32 weights deflate to four fifths where the first bytes of all numbers come first, then all second ones.

    Raises:
        ValueError: a part is missing, or a set of weights that is named.
    """
    if missing := [name for name in _MODEL if name not in model]:
        raise ValueError(f"model lacks {', '.join(missing)}")
    if unknown := set(model["weights"].values()) - set(model["sets"]):
        raise ValueError(f"model.weights names a set that is not there: {', '.join(sorted(unknown))}")
    packed = {name: plain(model[name], f"model.{name}") for name in _MODEL if name not in ("sets", "tokenizer")}
    # As text: a vocabulary is a thousand values that nobody changes.
    packed["tokenizer"] = json.dumps(model["tokenizer"], ensure_ascii=True, separators=(",", ":"))
    packed["sets"] = {
        name: {"shapes": plain(one["shapes"]), "bytes": zlib.compress(_planes(one["values"]), 9)}
        for name, one in model["sets"].items()
    }
    return packed


def _planes(values: bytes) -> bytes:
    """Little-endian 32-bit numbers with all their highest bytes first, then all second ones, and so on."""
    return b"".join(values[place::4] for place in (3, 2, 1, 0))
