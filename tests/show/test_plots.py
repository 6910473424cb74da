"""Figures from plain rows: they hold the numbers they were given, and gaps stay gaps."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
from offline_browser import offline_page

from vpdlab.show import plots


def row(step: int, **fields) -> dict:
    empty = dict.fromkeys(("margin", "delta", "e_loss"))
    return empty | {"step": step, "success_rate": 0.5, "kl": 0.1, "entropy": 0.2, "length": 5.0} | fields


def test_the_training_figure_holds_the_rows_and_marks_e_steps():
    rows = [row(1), row(2, margin=0.5, delta=0.1, e_loss=1.3), row(3, margin=0.7)]
    evals = [{"step": 0, "accuracy": 0.2, "accuracy_low": 0.1, "accuracy_high": 0.35}]
    figure = plots.training_figure(rows, evals)
    traces = {trace.name: trace for trace in figure.data}
    assert list(traces["margin"].y) == [None, 0.5, 0.7]
    assert list(traces["E-step"].x) == [2]
    accuracy = traces["held-out accuracy, 95 % interval"]
    assert list(accuracy.error_y.array) == [0.35 - 0.2]
    assert list(accuracy.error_y.arrayminus) == [0.2 - 0.1]
    assert figure.layout.paper_bgcolor == "rgba(0,0,0,0)"  # the page's own background shows, light or dark


def test_a_run_without_feedback_has_no_empty_lines():
    figure = plots.training_figure([row(1), row(2)])
    assert {trace.name for trace in figure.data} == {"success rate of the rollouts", "KL", "entropy", "length"}
    panels = [axis.title.text.split("<br>")[0] for axis in figure.select_yaxes()]
    assert panels == ["success", "KL(student‖teacher)", "entropy", "length"]  # and no empty panel
    assert figure.layout.xaxis.dtick == 1  # nor an iteration 1.5


def test_implicit_rewards_are_split_by_outcome():
    figure = plots.implicit_reward_figure({"before": [1.0, -1.0, 2.0]}, [True, False, True], 0.25)
    right, wrong = figure.data
    assert (list(right.x), list(wrong.x)) == ([1.0, 2.0], [-1.0])
    assert figure.layout.shapes[0].x0 == 0.25


def test_tokens_and_top_lists_keep_their_order():
    assert list(plots.token_figure(["The", " ", " 7"], [0.0, 0.1, 2.0]).layout.xaxis.ticktext) == ["The", "·", "7"]
    figure = plots.top_figure({"student": [("7", 0.6), ("8", 0.2)], "teacher": [("8", 0.9)]}, "x")
    student, teacher = figure.data
    assert list(student.x) == ["“7”", "“8”"]
    assert list(teacher.y) == [None, 0.9]


def test_pushes_are_coloured_by_each_methods_own_scale():
    figure = plots.push_figure(["4", " "], {"sdpo": [2.0, -4.0], "grpo": [0.0, -0.1]}, {"sdpo": 4.0, "grpo": 0.1})
    (tiles,) = figure.data
    assert [list(row) for row in tiles.z] == [[0.5, -1.0], [0.0, -1.0]]
    assert [list(row) for row in tiles.customdata] == [[2.0, -4.0], [0.0, -0.1]]
    assert list(figure.layout.xaxis.ticktext) == ["4", "·"]


def test_moves_and_cosines_hold_what_they_were_given():
    bars = plots.move_figure({"vpd": {"7": -1.0, "8": 0.9}, "grpo": {"7": -1.0, "8": 0.5}}).data
    assert [list(bar.y) for bar in bars] == [[-1.0, 0.9], [-1.0, 0.5]] and list(bars[0].x) == ["“7”", "“8”"]
    (tiles,) = plots.likeness_figure(["a", "b"], [[1.0, -0.2], [-0.2, 1.0]]).data
    assert list(tiles.x) == ["a", "b"] and tiles.z[0][1] == -0.2


def evaluated(step: int, **probes: float | None) -> dict:
    row = {"step": step, "accuracy": 0.5, "accuracy_low": 0.4, "accuracy_high": 0.6}
    return row | {"probes": {name.replace("__", "/"): value for name, value in probes.items()}}


EVALS = [evaluated(0, belief__Ada=0.1, belief__Bob=0.1, drift=3.0), evaluated(4, belief__Ada=0.9, belief__Bob=None)]


def test_the_training_figure_has_a_panel_for_each_group_of_probes():
    figure = plots.training_figure([row(1), row(4)], EVALS)
    panels = [axis.title.text.split("<br>")[0] for axis in figure.select_yaxes()]
    assert panels == ["success", "belief", "drift", "KL(student‖teacher)", "entropy", "length"]
    ada, bob, alone = (next(t for t in figure.data if t.name == name) for name in ("Ada", "Bob", "drift"))
    assert (list(ada.x), list(ada.y), list(bob.y)) == ([0, 4], [0.1, 0.9], [0.1, None])
    assert (ada.yaxis, bob.yaxis, alone.yaxis) == ("y2", "y2", "y3")
    assert ada.legend == bob.legend != alone.legend  # who is said beside the panel
    assert ada.line.color != bob.line.color and ada.marker.symbol != bob.marker.symbol


def test_belief_is_a_line_for_each_voice_and_a_dash_pattern_for_each_run():
    ada, bob, guessing = plots.belief_figure(EVALS, names={"Bob": "Bob (lies)"}).data
    assert (ada.name, bob.name, guessing.name) == ("Ada", "Bob (lies)", "guessing (6.25%)")
    assert (list(ada.y), list(guessing.x), list(guessing.y)) == ([0.1, 0.9], [0, 4], [1 / 16, 1 / 16])
    figure = plots.belief_figure({"vpd": EVALS, "sdpo": EVALS}, rollouts=32, chance=None, title="<b>who</b>")
    assert [line.name for line in figure.data] == ["Ada, vpd", "Bob, vpd", "Ada, sdpo", "Bob, sdpo"]
    assert list(figure.data[0].x) == [0, 128]
    assert (
        figure.data[0].line.color == figure.data[2].line.color and figure.data[0].line.dash != figure.data[2].line.dash
    )
    assert figure.layout.title.text == "&lt;b&gt;who&lt;/b&gt;"
    assert figure.layout.xaxis.title.text == "rollouts"


def test_a_run_without_belief_is_told_so():
    figure = plots.belief_figure([evaluated(0)])
    assert len(figure.data) == 0
    assert figure.layout.annotations[0].text == "no probes of the group 'belief'"


def test_belief_of_several_seeds_is_their_mean_and_range():
    second = [evaluated(0, belief__Ada=0.3), evaluated(4, belief__Ada=None), evaluated(8, belief__Ada=0.5)]
    runs = {"vpd": [SimpleNamespace(eval_rows=EVALS), SimpleNamespace(evals=second)]}
    lines = plots.belief_figure(runs, chance=None).data
    high, low, mean = (line for line in lines if line.legendgroup == "Ada, vpd")
    assert list(mean.x) == [0, 4, 8]
    assert list(mean.y) == pytest.approx([0.2, 0.9, 0.5])
    assert (list(high.y), list(low.y)) == ([0.3, 0.9, 0.5], [0.1, 0.9, 0.5])
    assert [line.showlegend for line in (high, low, mean)] == [False, False, None]
    (bob,) = (line for line in lines if line.name == "Bob, vpd")  # one run has him: no band
    assert list(bob.y) == [0.1, None]


@pytest.mark.parametrize("of", [SimpleNamespace(eval_rows=EVALS), SimpleNamespace(evals=EVALS), EVALS])
def test_belief_is_drawn_of_a_run_a_record_or_its_lines(of):
    assert [list(line.y) for line in plots.belief_figure(of, chance=None).data] == [[0.1, 0.9], [0.1, None]]
    assert len(plots.belief_figure([], chance=0.5).data) == 0
    assert len(plots.belief_figure(SimpleNamespace(eval_rows=[], evals="a data frame")).data) == 0


def test_a_colour_bar_s_title_stands_beside_its_labels_and_no_zero_line_crosses_a_token() -> None:
    push = plots.push_figure(["a", "b"], {"vpd": [0.1, -0.1]}, {"vpd": 1.0})
    likeness = plots.likeness_figure(["vpd", "sdpo"], [[1.0, 0.5], [0.5, 1.0]])
    assert [figure.data[0].colorbar.title.side for figure in (push, likeness)] == ["right", "right"]
    for figure in (push, likeness, plots.token_figure(["a", "b"], [0.1, 0.2])):
        assert figure.layout.xaxis.zeroline is False


def test_a_side_has_its_colour_in_every_line() -> None:
    lines = plots.lines_figure([0, 1], {"p": {"margin": [0.0, 1.0]}, "q": {"teacher": [0.0, 1.0]}}, "x").data
    assert next(line for line in lines if line.name == "teacher").line.color == plots.TEACHER


def test_an_equal_curve_does_not_hide_another() -> None:
    lines = plots.lines_figure([0, 1], {"p": {name: [0.0, 1.0] for name in ("vpd", "sdpo", "sdar")}}, "x").data
    solid = [line.zorder for line in lines if line.line.dash == "solid"]
    dashed = [line.zorder for line in lines if line.line.dash != "solid"]
    assert len(solid) == 2 and dashed and max(solid) < min(dashed)


DIVERGENCES = {
    "forward KL(q‖π), α = 0": [1.0, 2.0],
    "Jensen-Shannon, α = ½": [0.5, 0.2],
    "reverse KL(π‖q), α = 1": [1.0, 0.1],
}
FIGURES = {
    "lines": lambda: plots.lines_figure([0, 1], {"divergence, nats": DIVERGENCES, "enlarged": DIVERGENCES}, "x"),
    "training": lambda: plots.training_figure([row(1), row(2, margin=0.5, delta=0.1, e_loss=1.3)], []),
    "rewards": lambda: plots.implicit_reward_figure({"before": [1.0, -1.0]}, [True, False], 0.25),
    "pushes": lambda: plots.push_figure(["4", " "], {"sdpo": [2.0, -4.0]}, {"sdpo": 4.0}),
    "compared": lambda: plots.compare_figure(
        [{"preset": p, "method": m, "seed": 0, "rollouts": [0, 8], "accuracy": [0.1, 0.5], "seconds": [0, 3]}
         for p in ("critics tell the truth", "half of the critiques lie") for m in ("vpd", "sdpo")]
    ),
}  # fmt: skip
UNDER_THE_BAR = """() => {
  const LABELS = ".legendtext, .annotation-text, .gtitle, .cbtitle text, .cbaxis text, .updatemenu-button";
  const bar = document.querySelector(".modebar").getBoundingClientRect();
  const texts = [...document.querySelectorAll(LABELS)];
  const hidden = texts.filter((one) => {
    const box = one.getBoundingClientRect();
    return box.right > bar.left && box.left < bar.right && box.bottom > bar.top && box.top < bar.bottom;
  });
  return [texts.length > 0, hidden.map((one) => one.textContent)];
}"""


@pytest.mark.slow
@pytest.mark.parametrize("width", [700, 1280])
@pytest.mark.parametrize("name", FIGURES)
def test_nothing_to_read_is_under_the_mode_bar(chromium, tmp_path, name, width):
    FIGURES[name]().write_html(tmp_path / "figure.html", config={"displayModeBar": True, "displaylogo": False})
    with offline_page(chromium, tmp_path / "figure.html", viewport={"width": width, "height": 900}) as page:
        page.wait_for_selector(".modebar")
        assert page.evaluate(UNDER_THE_BAR) == [True, []]
