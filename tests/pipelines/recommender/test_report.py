import io
import json
import re
from xml.etree import ElementTree

import numpy as np
import pytest
from rich.console import Console
from scipy.sparse import csr_matrix

from pipelines.recommender.cases import EvaluationCases
from pipelines.recommender.evaluation import evaluate, paired_interval
from pipelines.recommender.report import comparison_table, to_json, write_html


class Table:
    def __init__(self, name, table):
        self.name, self.table = name, table

    def scores(self, _history, user_rows):
        return self.table[user_rows]


@pytest.fixture(scope="module")
def evaluations():
    rng = np.random.default_rng(0)
    targets = np.zeros((30, 25), np.bool_)
    targets[np.arange(30), rng.integers(25, size=30)] = True
    cases = EvaluationCases(
        history=csr_matrix((30, 25), dtype=np.float32),
        targets=csr_matrix(targets),
        excluded=csr_matrix((30, 25), dtype=np.bool_),
        user_rows=np.arange(30),
        slices={"warm": np.arange(30) < 20, "cold": np.arange(30) >= 20},
    )
    noise = rng.random((30, 25), dtype=np.float32)
    rankers = [Table("blind", noise), Table("<ours & more>", noise + 0.5 * targets)]
    return [evaluate(r, cases, item_popularity=np.arange(25.0), cutoffs=(3, 5)) for r in rankers]


def test_the_table_shows_every_ranker_and_marks_the_best(evaluations):
    console = Console(file=io.StringIO(), width=160, color_system="standard", force_terminal=True)
    console.print(comparison_table(evaluations, metrics=["recall@5", "gini@5"], slice_name="warm"))
    text = console.file.getvalue()
    assert "warm: 20 cases" in text
    assert "blind" in text
    assert "<ours & more>" in text
    best = f"{evaluations[1].value('recall@5', slice_name='warm'):.4f}"
    assert f"\x1b[1m{best}\x1b[0m" in text
    most_even = min(e.value("gini@5", slice_name="warm") for e in evaluations)
    assert f"\x1b[1m{most_even:.4f}\x1b[0m" in text


def test_eighty_columns_hold_every_name_and_number(evaluations):
    console = Console(file=io.StringIO(), width=80)
    console.print(comparison_table(evaluations))
    text = console.file.getvalue()
    assert "<ours & more>" in text
    assert "coverage" in text
    assert "…" not in text


def test_json_is_plain_and_complete(evaluations):
    interval = paired_interval(evaluations[1], evaluations[0], metric="ndcg@5", seed=0)
    found = json.loads(
        json.dumps(to_json(evaluations, intervals={"ours over blind": interval}), allow_nan=False)
    )
    ours = found["rankers"]["<ours & more>"]
    assert ours["slices"]["cold"]["cases"] == 10
    assert ours["slices"]["all"]["recall@5"] == evaluations[1].value("recall@5")
    assert len(ours["popularity_deciles"]["recall"]) == 10
    assert found["intervals"]["ours over blind"]["difference"] == interval.difference


def test_the_page_stands_alone(evaluations, tmp_path):
    interval = paired_interval(evaluations[1], evaluations[0], metric="ndcg@5", seed=0)
    page = tmp_path / "report.html"
    write_html(
        page,
        evaluations,
        title="A <test>",
        intervals={"ours over blind": interval},
        notes={"split": "made up"},
    )
    text = page.read_text(encoding="utf-8")
    assert "<h1>A &lt;test&gt;</h1>" in text
    assert '<th scope="row">&lt;ours &amp; more&gt;</th>' in text
    assert "prefers-color-scheme: dark" in text
    assert f"{interval.difference:+.4f}" in text
    assert not re.search(r'(?:src|href)="(?!#)', text.replace("xlink:href", "href"))
    assert "<script" not in text


def test_the_plots_are_valid_follow_the_theme_and_share_no_id(evaluations, tmp_path):
    page = tmp_path / "report.html"
    write_html(page, evaluations, title="plots")
    plots = re.findall(r"<svg.*?</svg>", page.read_text(encoding="utf-8"), flags=re.DOTALL)
    assert len(plots) == 4
    for plot in plots:
        root = ElementTree.fromstring(plot)
        assert root.get("aria-label")
        assert "currentColor" in plot
        assert "&lt;ours &amp; more&gt;" in plot
    clips = [set(re.findall(r'<clipPath id="(\w+)"', plot)) for plot in plots]
    assert sum(map(len, clips)) == len(set.union(*clips))


def test_the_page_is_the_same_every_time(evaluations, tmp_path):
    pages = [tmp_path / name for name in ("a.html", "b.html")]
    for page in pages:
        write_html(page, evaluations, title="again")
    assert pages[0].read_bytes() == pages[1].read_bytes()


def test_nothing_to_compare_is_an_error(evaluations):
    with pytest.raises(ValueError, match="no evaluation"):
        comparison_table([])
    with pytest.raises(ValueError, match="same name"):
        to_json([evaluations[0], evaluations[0]])
