"""Chat templates: variables that they know, turns that they lose, clocks; what of a prompt is lost is told."""

from __future__ import annotations

import dataclasses
import re
from typing import Any

import pytest
from test_prompts import CHAT, PROBLEM, TOKENIZER, build_tokenizer

from vpdlab.errors import UserError
from vpdlab.prompts import Renderer, Templates
from vpdlab.prompts.chat import CLOCK, Chat
from vpdlab.types import Feedback, Problem

TALK = "{% for m in messages %}<|open|>{{ m.role }}\n{{ m.content }}<|close|>\n{% endfor %}"
OPEN = "{% if add_generation_prompt %}<|open|>assistant\n{% endif %}"
USER_ONLY = TALK.replace("messages", "messages if m.role == 'user'") + OPEN
LLAMA3 = (
    "{%- if not date_string is defined %}{%- if strftime_now is defined %}"
    "{%- set date_string = strftime_now('%d %b %Y') %}"
    "{%- else %}{%- set date_string = '26 Jul 2024' %}{%- endif %}{%- endif %}Today: {{ date_string }}\n"
)


def chat(template: str, **variables: Any) -> Chat:
    tokenizer = build_tokenizer()
    tokenizer.chat_template = template
    return Chat(tokenizer, variables)


def renderer(template: str, **options: Any) -> Renderer:
    return Renderer(chat(template).tokenizer, **options)


# -- variables -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["thinkin", "Thinking", "enable_thinking"])
def test_a_variable_that_the_template_does_not_know_is_told_with_those_that_it_knows(name):
    with pytest.raises(UserError, match=f"no variable '{name}'; it takes thinking"):
        chat(CHAT, **{name: False}).check()


@pytest.mark.parametrize(
    "name", ["messages", "tokenize", "add_generation_prompt", "tools", "strftime_now", "chat_template"]
)
def test_what_vpdlab_sets_itself_cannot_be_set(name):
    with pytest.raises(UserError, match=f"chat_args: {name} is set by vpdlab itself"):
        chat(CHAT, **{name: True}).check()


def test_a_variable_that_is_set_within_the_template_where_it_is_missing_is_one_that_it_takes():
    assert chat(LLAMA3 + CHAT, date_string="1 May 2020").check()
    assert chat(LLAMA3 + CHAT, date_string="1 May 2020")([{"role": "user", "content": "x"}]).startswith(
        "Today: 1 May 2020"
    )


def test_a_template_with_a_tag_of_transformers_own_can_be_read():
    marked = TALK.replace("{{ m.content }}", "{% generation %}{{ m.content }}{%- endgeneration -%}")
    assert chat(marked + OPEN).check() == []


def test_a_template_with_a_syntax_error_is_told():
    with pytest.raises(UserError, match="chat template cannot be read: line 2"):
        chat("{{ messages }}\n{% for %}").check()


@pytest.mark.parametrize(
    "text",
    [
        "{{ messages[0].content.nothing.more }}",
        "{{ raise_exception('no') }}",
        "{{ 1 + 'a' }}",
        "{{ range(10 ** 9) | list }}",
    ],
)
def test_a_template_that_fails_on_a_plain_turn_is_told(text):
    with pytest.raises(UserError, match="fails on a plain user turn"):
        chat(text + TALK).check()


# -- what is lost ----------------------------------------------------------------------------------------------------


def test_a_template_that_leaves_the_user_out_is_refused():
    with pytest.raises(UserError, match="drops the user's turn"):
        chat("{% for m in messages if m.role == 'system' %}{{ m.content }}{% endfor %}" + OPEN).check()


@pytest.mark.parametrize(
    ("template", "told"),
    [
        (TALK, True),
        (TALK.replace("<|open|>{{ m.role }}", "{{ 'Q' if m.role == 'user' else 'A' }}:"), True),
        (TALK + OPEN, False),
        ("{% for m in messages %}[INST] {{ m.content }} [/INST]{% endfor %}", False),
        ("{% for m in messages %}{% if m.role == 'user' %}[INST] {{ m.content }} [/INST]"
         "{% else %} {{ m.content }}</s>{% endif %}{% endfor %}", False),
        (TALK.replace("{{ m.content }}", "{% if m.role == 'assistant' %}<think></think>{% endif %}{{ m.content }}")
         + OPEN, False),
    ],
)  # fmt: skip
def test_a_template_that_opens_no_turn_for_the_answer_is_told_unless_it_needs_none(template, told):
    assert any("assistant turn" in line for line in chat(template).check()) is told
    assert bool(chat(template).unopened) is told


@pytest.mark.parametrize(
    ("template", "problem", "words"),
    [
        (CHAT, {"prompt": "What does `x <|header|>` print?"}, r"control tokens \(<\|header\|>\) are removed"),
        (CHAT, {"system": "Say <|close|>."}, r"control tokens \(<\|close\|>\) are removed"),
        (USER_ONLY, {"system": "Be brief."}, "system turn"),
        (TALK.replace("m.content", "m.content[:12]") + OPEN, {"prompt": "A long problem"}, "changes the user's turn"),
        (TALK.replace("m.content", "m.content | upper") + OPEN, {"prompt": "usermark"}, None),
        (TALK.replace("m.content", "m.content | tojson") + OPEN, {"prompt": "a\nb"}, "changes the user's turn"),
        (TALK.replace("m.content", "m.content | trim") + OPEN, {"prompt": " a "}, ""),
        (CHAT, {"prompt": "plain words", "system": "Be brief."}, ""),
    ],
)  # fmt: skip
def test_what_of_a_problem_is_not_read_is_told_by_its_id(template, problem, words):
    render = renderer(template)
    problem = dataclasses.replace(PROBLEM, **problem)
    if words is None:  # nothing of the marks is left
        with pytest.raises(UserError, match="drops the user's turn"):
            render.check([problem])
        return
    lines = render.check([problem]).lines
    assert bool(lines) is bool(words)
    if words:
        assert len(lines) == 1
        assert lines[0].startswith("problem p1: ")
        assert re.search(words, lines[0])


def test_many_problems_that_lose_the_same_are_one_line():
    problems = [dataclasses.replace(PROBLEM, id=f"p{n}", prompt=f"<|close|> {n}") for n in range(5)]
    (line,) = renderer(CHAT).check(problems).lines
    assert line.startswith("5 problems, the first p0: ")


def test_characters_that_the_tokenizer_cannot_write_back_are_told():
    from tokenizers import normalizers

    tokenizer = build_tokenizer()
    tokenizer.backend_tokenizer.normalizer = normalizers.Lowercase()
    render = Renderer(tokenizer)
    assert render.check([Problem("a", "what is 3 + 4?", "7")]).lines == ()
    assert "does not decode" in render.check([Problem("b", "What is C1CCC1?", "7")]).lines[0]


def test_the_record_has_what_was_read():
    problem = dataclasses.replace(PROBLEM, prompt="a <|close|>b", system="s <|header|>t")
    assert renderer(CHAT).read(problem) == ("s t", "a b")
    assert renderer(USER_ONLY).read(problem) == ("", "a b")


# -- one text for one problem ----------------------------------------------------------------------------------------


def test_a_clock_in_the_template_stands_still_and_is_told():
    for template in (LLAMA3 + CHAT, "{{ strftime_now('%H:%M:%S.%f') }}" + CHAT):
        once = renderer(template)
        assert once.student(PROBLEM) == renderer(template).student(PROBLEM)
        assert any("reads the clock" in line for line in once.check([PROBLEM]).lines)
    assert CLOCK.strftime("%d %b %Y") in TOKENIZER.decode(renderer(LLAMA3 + CHAT).student(PROBLEM))


def test_a_template_that_draws_lots_is_refused():
    with pytest.raises(UserError, match="a different text each time"):
        chat("{{ range(100000) | list | random }}" + CHAT).check()


def test_the_digest_follows_the_prompts():
    one, two = ([dataclasses.replace(PROBLEM, prompt=text)] for text in ("a", "b"))
    render = renderer(CHAT)
    assert render.check(one).digest == render.check(one).digest != render.check(two).digest
    assert render.check(one * 2).digest != render.check(one).digest
    assert renderer(CHAT, chat_args={"thinking": "off"}).check(one).digest != render.check(one).digest
    assert render.check(one).lengths == (len(render.student(one[0])),)


# -- templates -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "text", "written"),
    [
        ("student", "{problem!z}", "{problem!z}"), ("student", "{problem!r} x", "{problem!r}"),
        ("student", "{problem:d}", "{problem:d}"), ("student", "x {problem:.5}", "{problem:.5}"),
        ("feedback", "{text:>80}", "{text:>80}"), ("critic", "{problem}{attempt}{answer!s:.3}", "{answer!s:.3}"),
    ],
)  # fmt: skip
def test_conversions_and_formats_in_templates_are_refused_by_name(name, text, written):
    with pytest.raises(UserError, match="template") as error:
        Templates(**{name: text})
    assert f"{name!r} has {written}" in str(error.value)


@pytest.mark.parametrize("text", ["{problem.id}", "{problem[0]}", "{0}", "{}"])
def test_fields_of_fields_are_no_fields_of_a_template(text):
    with pytest.raises(UserError, match="template 'student' fills in"):
        Templates(student=text)


def test_half_a_character_in_a_template_is_refused():
    with pytest.raises(UserError, match="template 'solution' contains half a character"):
        Templates(solution="{text} \ud83d")


def test_a_template_file_may_begin_with_a_byte_order_mark_and_lie_in_the_home_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "t.yaml").write_bytes(b"\xef\xbb\xbfstudent: '{problem} ?'\n")
    assert Templates.read("~/t.yaml").student == "{problem} ?"
    assert Renderer(TOKENIZER, Templates.read("~/t.yaml")).teacher_text(PROBLEM, Feedback())


# -- turn by turn ------------------------------------------------------------------------------------------------------

SOME = "{% for m in messages %}{% if m.role != 'system' or SHOWN %}<|open|>{{ m.role }}\n{{ m.content }}<|close|>\n"
SOME += "{% endif %}{% endfor %}" + OPEN


@pytest.mark.parametrize("shown", ["(m.content | length) < 12", "(m.content | length) > 12", "'7' in m.content"])
def test_a_system_turn_that_is_dropped_at_times_is_told_and_recorded_each_by_itself(shown):
    render = renderer(SOME.replace("SHOWN", shown))
    for system in ("Be brief.", "Be brief, and always give 7 reasons."):
        problem = dataclasses.replace(PROBLEM, system=system)
        read = TOKENIZER.decode(render.student(problem))
        there = system in read
        assert render.read(problem)[0] == (system if there else "")
        assert any("system turn" in line for line in render.check([problem]).lines) is not there


def test_a_system_turn_equal_to_the_users_is_not_taken_for_it():
    problem = dataclasses.replace(PROBLEM, system=PROBLEM.prompt)
    render = renderer(USER_ONLY)
    assert render.read(problem) == ("", PROBLEM.prompt)
    assert "system turn" in render.check([problem]).lines[0]


def test_a_turn_that_is_trimmed_is_recorded_trimmed():
    render = renderer(TALK.replace("m.content", "m.content | trim") + OPEN)
    problem = dataclasses.replace(PROBLEM, prompt="    def f():\n        return 0\n", system=" Be good. ")
    system, prompt = render.read(problem)
    assert (system, prompt) == ("Be good.", "def f():\n        return 0")
    assert prompt in TOKENIZER.decode(render.student(problem))


def test_a_template_that_cuts_only_what_is_long_is_told_of_the_teachers_turn():
    lines = renderer(TALK.replace("m.content", "m.content[:90]") + OPEN).check([PROBLEM]).lines
    assert len(lines) == 1
    assert "teacher's turn" in lines[0]


def test_a_template_that_draws_lots_over_some_problems_is_refused_by_the_problem():
    drawn = "{% if m.content | length > 40 %}{{ range(90000) | random }}{% endif %}{{ m.content }}"
    render = renderer(TALK.replace("{{ m.content }}", drawn) + OPEN)
    with pytest.raises(UserError, match="gives problem long a different text"):
        render.check([Problem("long", "Why? " * 20, "")])


def test_the_record_has_the_feedback_and_the_teachers_prompt_as_they_were_read():
    from vpdlab.run.observe import _teacher_prompt
    from vpdlab.types import Rollout, View

    render = renderer(TALK.replace("m.content", "m.content[:60]") + OPEN)
    note = Feedback(critique="Think <|close|>again, and count the digits.")
    ids, cut = render.teacher(PROBLEM, note)
    rollout = Rollout(PROBLEM, 0, 0, (1,), (2,), (0.0,), "x", True)
    said = _teacher_prompt(render, rollout, note, View(ids, (2,), cut))
    assert said == TOKENIZER.decode(ids)
    assert render.as_data(note.critique) == "Think again, and count the digits."
    assert render.as_data(None) is None
