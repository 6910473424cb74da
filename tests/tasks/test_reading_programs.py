"""Programs in a response: the formats that models use, and the rule that selects one of several."""

from __future__ import annotations

import contextlib
import io
import time
from typing import Any

import pytest

from vpdlab.tasks.common.markdown import Block, blocks
from vpdlab.tasks.common.programs import CUT, EMPTY, NONE, is_cut, read_program

F, T = "`" * 3, "~" * 3
ADD = "def add(a, b):\n    return a + b\n"
WRONG = "def add(a, b):\n    return a\n"
BROKEN = "def add(a, b)\n    return a\n"
SHOWN = f'def add(a, b):\n    """Adds.\n\n    {F}\n    >>> add(1, 2)\n    3\n    {F}\n    """\n    return a + b\n'
TWO = SHOWN.replace("    ", "  ")
PROGRAM = "n = int(input())\nprint(n + 1)\n"
CLASS = "class Solution:\n    def add(self, a, b):\n        return a + b\n"
USES = "def add(a, b):\n    return sum(parts(a, b))\n"
PARTS = "def parts(a, b):\n    return [a, b]\n"


def block(code: str, label: str = "python", fence: str = F) -> str:
    return f"{fence}{label}\n{code}{fence}\n"


def indented(text: str, by: str) -> str:
    return "".join(by + line for line in text.splitlines(keepends=True))


def adds(code: str) -> bool:
    """Whether an extracted program defines a correct add."""
    names: dict[str, Any] = {}
    with contextlib.redirect_stdout(io.StringIO()):
        exec(code, names)
    return names["add"](1, 2) == 3


RIGHT = {
    "plain": block(ADD),
    "no label": block(ADD, ""),
    "another label": block(ADD, "text"),
    **{
        f"labelled {label}": block(ADD, label)
        for label in (
            "Python",
            "PYTHON",
            "py",
            "py3",
            "python3",
            "python3.11",
            " python",
            "ipython",
            "python ",
            "{.python}",
            "{python}",
            'python title="add.py"',
            "python,linenos",
            "python:add.py",
            "python {highlight: [1]}",
            "cpp",
        )
    },
    "session": block(">>> def add(a, b):\n...     return a + b\n...\n>>> add(1, 2)\n3\n", "pycon"),
    "session as python": block(">>> def add(a, b):\n...     return a + b\n>>> add(1, 2)\n3\n"),
    "tildes": block(ADD, fence=T),
    "long fence": block(ADD, fence="`" * 5),
    "closed by a longer fence": f"{F}python\n{ADD}{F}``\n",
    "crlf": block(ADD).replace("\n", "\r\n"),
    "cr": block(ADD).replace("\n", "\r"),
    "fences in a docstring": block(SHOWN),
    "fences in a docstring, two spaces": block(TWO),
    "fences in a docstring at the left": block(SHOWN.replace("    " + F, F)),
    "labelled fences in a docstring": block(SHOWN.replace(F, F + "python", 1)),
    "fences in a string": block(f"MARK = '{F}'\nTEXT = '''\n{F}\nx\n{F}\n'''\n{ADD}"),
    "four around three": block(SHOWN.replace("    " + F, F), fence="`" * 4),
    "tildes within backticks": block(f"RULE = '''\n~~~~~~~~\n'''\n{ADD}"),
    "backticks within tildes": block(SHOWN.replace("    " + F, F), fence=T),
    "words before": f"Here is the code: {block(ADD)}",
    "words before, no label": f"Here is the code:{block(ADD, '')}",
    "words before, in bold": f"**Solution:** {block(ADD)}",
    "closing fence behind the code": f"{F}python\n{ADD.rstrip()}{F}",
    "closing fence behind the code, then words": f"{F}python\n{ADD.rstrip()} {F}\nThat is all.",
    "all in one line": f"Here: {F}python def add(a, b): return a + b{F}",
    "output": f"{block(ADD)}Output:\n{block('3' + chr(10), '')}",
    "output as python": f"{block(ADD)}It prints:\n{block('3' + chr(10))}",
    "usage": f"{block(ADD)}Use it:\n{block('print(add(1, 2))' + chr(10))}",
    "usage that imports": f"{block(ADD)}Use it:\n{block('from add import helper' + chr(10) + 'helper()' + chr(10))}",
    "usage that imports it": f"{block(ADD)}Use it:\n{block('from mine import add' + chr(10) + 'add(1, 2)' + chr(10))}",
    "tests": f"{block(ADD)}\n{block('def test_add():' + chr(10) + '    assert add(1, 2) == 3' + chr(10))}",
    "shell": f"{block('pip install x' + chr(10), 'bash')}{block(ADD)}\n{block('ls' + chr(10), 'sh')}",
    "json": f"{block(ADD)}{block('{}' + chr(10), 'json')}",
    "a wrong draft, then a right answer": f"{block(WRONG)}No:\n{block(ADD)}",
    "a broken draft, then a right answer": f"{block(BROKEN)}No:\n{block(ADD)}",
    "a draft that was never closed": f"{F}python\n{WRONG}Better:\n{block(ADD)}",
    "thoughts": f"<think>\n{block(WRONG)}</think>\n{block(ADD)}",
    "thoughts after": f"{block(ADD)}<think>\n{block(WRONG)}</think>\n",
    "thoughts with an open block": f"<think>\n{F}python\n{WRONG}</think>\n{block(ADD)}",
    "thoughts that the template opened": f"Hm.\n{block(WRONG)}</think>\n{block(ADD)}",
    "thoughts that never end": f"<think>\nHm.\n{block(WRONG)}So:\n{block(ADD)}",
    "thoughts twice": f"<think>a</think>{block(WRONG)}<think>{F}\n</think>{block(ADD)}",
    "thinking": f"<thinking>{F}python\n{WRONG}</thinking>\n{block(ADD)}",
    "a tag in a string": block(f"TAG = '</think>'\n{ADD}"),
    "tags in a string": block(f'TEXT = "<think> a </think> b"\n{ADD}'),
    "thoughts that speak of a tag": f"<think>I end with `</think>` soon. {block(WRONG)}</think>{block(ADD)}",
    "thoughts that end behind a fence": f"<think>{F}\n{WRONG}{F}</think>{block(ADD)}",
    "answer tags": f"<answer>\n{block(ADD)}</answer>",
    "html before": f"<div>\n{block(ADD)}</div>",
    "in a list": f"1. The code:\n\n{indented(block(ADD), '   ')}",
    "in a list, on the item's line": f"1. {F}python\n{indented(ADD, '   ')}   {F}\n",
    "in a list, code at the left": f"1. {F}python\n{ADD}{F}\n",
    "in a list, fence indented, code at the left": f"- It is:\n  {F}python\n{ADD}  {F}\n",
    "in a list in a list": f"1. a\n   - b\n\n{indented(block(ADD), '     ')}",
    "in a quotation": indented(block(ADD), "> "),
    "indented far": indented(block(ADD), "        "),
    "indented code in a plain fence": block(indented(ADD, "    ")),
    "a heading under it": f"{block(ADD)}===\n---\n",
    "never closed": f"{F}python\n{ADD}",
    "never closed, then words": f"{F}python\n{ADD}\nThis adds both numbers.\n",
    "imports in one block, the function in another": f"{block('import operator' + chr(10))}and\n"
    + block("def add(a, b):\n    return operator.add(a, b)\n"),
    "a star import": f"{block('from operator import *' + chr(10))}"
    + block("def plus(a, b):\n    return concat([a], [b])\n\n\ndef add(a, b):\n    return sum(plus(a, b))\n"),
    "a helper before": f"{block(PARTS)}{block(USES)}",
    "a helper after": f"{block(USES)}with\n{block(PARTS)}",
    "a helper of a helper": block("ONE = 1\n") + block("def parts(a, b):\n    return [a * ONE, b]\n") + block(USES),
    "the last helper": block("def parts(a, b):\n    return []\n") + block(PARTS) + block(USES),
    "an assignment": block("add = lambda a, b: a + b\n"),
    "an import": block("from operator import add\n"),
    "in a branch": block(f"try:\n    from nowhere import add\nexcept ImportError:\n{indented(ADD, '    ')}"),
    "async beside": block(f"async def other():\n    pass\n\n\n{ADD}"),
    "other ends of lines in strings": block(f'X = "\x0c\x1c\x1d\x85\u2028\u2029"\nassert len(X) == 6\n{ADD}'),
    "a form feed between": block(f"import math\n\x0c\n{ADD}"),
    "tabs": block(ADD.replace("    ", "\t")),
    "no fence": ADD,
    "no fence, words before and after": f"Here it is:\n\n{ADD}\nThis adds both.\n",
    "no fence, imports": f"Sure!\n\nimport math\n\n\n{ADD}",
    "no fence, indented": indented(ADD, "    "),
    "no fence, indented, words around": f"It is:\n\n{indented(ADD, '    ')}\nwhich adds.\n",
    "a fence that the prompt opened": f"{ADD}{F}\nThis adds.",
    "no fence, and an example within one": f"{ADD}\nExample:\n{block('add(1, 2)' + chr(10), '')}",
    "a block of Markdown around": f"````markdown\nHere:\n{block(ADD)}````\n",
    "a block of Markdown around, with fences as long": f"{F}markdown\n{block(ADD)}{F}\n",
    "words behind the closing fence": f"{F}python\n{ADD}{F} That is it.",
    "code, closing fence and words on one line": f"{F}python\n{ADD.rstrip()}{F} That is it.\n",
    "code behind the label": f"{F}python {ADD}{F}\n",
    "code in place of the label": f"{F}{ADD}{F}\n",
    "a session in a console": block(
        "$ python\n>>> def add(a, b):\n...     return a + b\n>>> add(1, 2)\n3\n", "console"
    ),
    "html": f"<pre><code>{ADD}</code></pre>",
    "html with a class": f'<pre><code class="language-python">\n{ADD.replace("+", "&#43;")}</code></pre>',
    "marks of a set of prompts": f"[PYTHON]\n{ADD}[/PYTHON]",
    "a span of code": "`def add(a, b): return a + b`",
    "a span of two backticks": "It is ``def add(a, b): return a + b``.",
    "a byte order mark within": block("\ufeff" + ADD),
    "its head afterwards": f"{block(ADD)}Its head is\n{block('def add(a, b):' + chr(10))}",
    "its head with dots afterwards": f"{block(ADD)}Its head is\n{block('def add(a, b): ...' + chr(10))}",
    "the prompt's head before": f"{block('def add(a, b):' + chr(10) + '    pass' + chr(10))}So:\n{block(ADD)}",
    "a line of it afterwards": f"{block(ADD)}The line that counts:\n{block('    return a + b' + chr(10))}",
    "steps, then the whole": f"1. Head:\n   {F}py\n   def add(a, b):\n   {F}\n2. All:\n{indented(block(ADD), '   ')}",
    "apostrophes around a tag": f"That's it:\n{F}python\n{WRONG}That's all</think> Here's the code:\n{block(ADD)}",
    "inline code around": f"Use `add`:\n{block(ADD)}and `{F}` is a fence.",
    "a byte order mark": "\ufeff" + block(ADD),
}
LEFT_OUT = {
    "wrong": block(WRONG),
    "a right draft, then a wrong answer": f"{block(ADD)}Better:\n{block(WRONG)}",
    "a right draft, then a wrong answer without a label": f"{block(ADD)}Better:\n{block(WRONG, '')}",
    "a right draft, then a wrong answer with words before": f"{block(ADD)}Better: {block(WRONG)}",
    "a right draft, then a wrong answer closed behind the code": f"{block(ADD)}Better:\n{F}python\n{WRONG.rstrip()}{F}",
    "a right draft, then a wrong answer that was never closed": f"{block(ADD)}Better:\n{F}python\n{WRONG}",
    "a right draft in words before, then a wrong answer": f"First: {block(ADD)}Better:\n{block(WRONG)}",
    "a right docstring": block(
        WRONG.replace("    return", f'    """\n    {F}python\n    {ADD}    {F}\n    """\n    return')
    ),
    "a right draft in thoughts": f"<think>{block(ADD)}</think>\n{block(WRONG)}",
}


@pytest.mark.parametrize("name", RIGHT)
def test_a_right_program_is_read_in_every_dress(name: str) -> None:
    code, why = read_program(RIGHT[name], "add", True)
    assert why == ""
    assert adds(code)


@pytest.mark.parametrize("name", LEFT_OUT)
def test_a_wrong_answer_stays_wrong(name: str) -> None:
    code, why = read_program(LEFT_OUT[name], "add", True)
    assert why == ""
    assert not adds(code)


@pytest.mark.parametrize("answer", [block(BROKEN), f"{F}python\n{BROKEN}", f"so: {block(BROKEN)}"])
def test_a_right_draft_does_not_stand_in_for_a_broken_answer(answer: str) -> None:
    code, _ = read_program(f"{block(ADD)}Better:\n{answer}", "add", True)
    with pytest.raises(SyntaxError):
        compile(code, "x", "exec")
    assert "return a\n" in code


@pytest.mark.parametrize(
    ("text", "finished", "why"),
    [
        ("It is a + b.", True, NONE),
        ("", True, NONE),
        ("It is a + b.", False, CUT),
        (block(""), True, EMPTY),
        (block("\n\n"), True, EMPTY),
        (f"<think>{block(ADD)}</think>\nI do not know.", True, NONE),
        (f"{F}python\ndef add(a, b):\n    return (a +", False, CUT),
        (f"{F}python\ndef add(a,", False, CUT),
        (f"Use `{F}` here.", True, NONE),
        ("3", True, NONE),
    ],
)
def test_no_program_has_a_reason(text: str, finished: bool, why: str) -> None:
    assert read_program(text, "add", finished) == ("", why)


def test_a_block_that_the_limit_cut_counts_where_it_is_a_whole_program() -> None:
    assert adds(read_program(f"{F}python\n{ADD}", "add", False)[0])
    assert adds(read_program(f"{block(ADD)}Shorter:\n{F}python\ndef add(a,", "add", False)[0])
    assert read_program(f"{F}python\n{PROGRAM}", "", False)[0].rstrip() == PROGRAM.rstrip()
    assert read_program(f"{F}python\n{PROGRAM}print(", "", False) == ("", CUT)
    assert is_cut(f"{F}python\n{ADD}") and is_cut(ADD) and not is_cut(block(ADD))


def test_a_class_is_an_entry_point_too() -> None:
    draft = "class Solution:\n    def add(self, a, b):\n        return a\n"
    code = read_program(
        f"{block(draft)}{block(CLASS)}{block('print(Solution().add(1, 2))' + chr(10))}", "Solution.add", True
    )
    assert code == (CLASS, "")


@pytest.mark.parametrize(
    ("text", "program"),
    [
        (block(PROGRAM), PROGRAM),
        (f"{block('print(0)' + chr(10))}Better:\n{block(PROGRAM)}", PROGRAM),
        (f"{block(PROGRAM)}Output:\n{block('4' + chr(10), '')}", PROGRAM),
        (f"{block(PROGRAM)}Output:\n{block('YES' + chr(10))}", PROGRAM),
        (f"{block(PROGRAM, '')}Input:\n{block('3' + chr(10), '')}Output:\n{block('4' + chr(10), '')}", PROGRAM),
        (f"{block(PROGRAM, '')}Output:\n{block('[1, 2]' + chr(10), '')}", PROGRAM),
        (f"{block(PROGRAM)}Run:\n{block('python x.py' + chr(10), 'sh')}", PROGRAM),
        (f"{block(PROGRAM)}Better:\n{block('print(' + chr(10))}", "print(\n"),  # broken, but the answer
        (f"{block('import math' + chr(10))}{block('print(math.pi)' + chr(10))}", "import math\nprint(math.pi)\n"),
        (PROGRAM, PROGRAM),
        ("4", ""),
        ("YES", ""),
        ("The answer is 4.", ""),
    ],
)  # fmt: skip
def test_a_program_that_reads_its_input(text: str, program: str) -> None:
    assert read_program(text, "", True)[0].rstrip("\n") == program.rstrip("\n")


def test_what_a_block_is() -> None:
    text = f"a\n{block(ADD, 'Python')}b\n{block('ls' + chr(10), 'Bash')}{T}\nx = 1"
    assert blocks(text) == [Block("python", ADD, True), Block("bash", "ls\n", True), Block("", "x = 1\n", False)]


@pytest.mark.parametrize(
    "text",
    [
        f"{F}python\n(\n" * 10_000, f"{F}\n" * 20_000, f"a {F}\n" * 10_000, "`" * 100_000, "<think>" * 20_000,
        "</think>" + "<think>" * 20_000, f"{F}python\n(\n" + f"{F}\n" * 20_000, f"{F}python" + " " * 100_000,
        ">" * 50_000, "- " * 20_000, "\n" * 100_000, f"{F}python\n" + "This is\n\n" * 20_000,
        "<pre" * 20_000, "<pre><code>" * 10_000, " " * 100_000, "[PYTHON]" * 10_000, "`a" * 50_000, "a" * 100_000,
        "> " * 50_000 + "x", f"{F}python\n" + " " * 100_000, f"{F}python\n(" + " " * 100_000 + "x",
        "- " + " " * 100_000,
        "> \t" * 30_000, "1. " * 30_000, f"{F} " * 30_000, f"a{F} b c\n" * 10_000,
        block("-" * 100_000 + "1\n"), block("a" + ".b" * 100_000), block("(" * 100_000), block("x = " + "[" * 5000),
    ],
    ids=range(30),
)  # fmt: skip
def test_no_text_holds_up_a_run(text: str) -> None:
    start = time.monotonic()
    read_program(text, "add", True)
    read_program(text, "", False)
    assert time.monotonic() - start < 15
