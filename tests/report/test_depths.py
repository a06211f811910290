"""The figure of long contexts: which rows it shows, and that it needs such tasks."""

import pandas as pd
import pytest

from kick.report import select
from kick.report.figures import depths


def frame():
    rows = []
    for label, dense in (("dense", True), ("twilight p 0.5", False)):
        for task, tokens in (("kick_long_needle_512", 512), ("kick_long_qa_2048", 2048), ("other", 0)):
            for group in ("", "depth 0 %", "depth 100 %"):
                for metric in ("exact_match", "f1"):
                    rows.append(
                        {
                            "label": label,
                            "method": label.split()[0],
                            "dense": dense,
                            "place": 0 if dense else 1,
                            "task": task,
                            "group": group,
                            "metric": metric,
                            "primary": metric == "exact_match" and not group,
                            "value": tokens / 4096,
                            "low": tokens / 4096 - 0.1,
                            "high": tokens / 4096 + 0.15,
                            "n": 8,
                        }
                    )
    columns = {"replica": "", "pattern": "", "sparsity": 0.0, "bits": float("nan"), "seed": float("nan")}
    return pd.DataFrame(rows).assign(**columns)


def test_headlines_by_depth_are_shown_with_kind_and_length():
    rows = depths._rows(frame())
    assert set(rows["metric"]) == {"exact_match"}
    assert set(zip(rows["kind"], rows["tokens"], strict=True)) == {("needle", 512), ("qa", 2048)}
    assert sorted(set(rows["depth"])) == [0, 100]
    assert len(rows) == 2 * 2 * 2
    drawn = depths.depth_by_length(rows)
    assert drawn.get_supxlabel().endswith("8 items per cell; a 95 % interval is up to 25 points wide")
    few = rows.assign(n=range(4, 4 + len(rows)))
    assert "\n4 to 11 items per cell;" in depths.depth_by_length(few).get_supxlabel()
    panels = drawn.axes
    assert len(panels) == 4
    assert [text.get_text() for text in panels[0].texts] == ["12", "12"]
    assert [text.get_text() for text in panels[1].texts] == ["50", "50"]


def test_a_variant_that_was_asked_fewer_lengths_has_them_under_those_of_the_others():
    rows = depths._rows(frame().replace({"task": {"kick_long_qa_2048": "kick_long_needle_2048"}}))
    fewer = rows[rows["dense"] | (rows["tokens"] == 2048)]
    first, second = depths.depth_by_length(fewer).axes
    assert [text.get_text() for text in first.texts] == ["12", "50", "12", "50"]
    assert [text.get_text() for text in second.texts] == ["–", "50", "–", "50"]
    assert [text.get_text() for text in second.get_xticklabels()] == ["512", "2048"]


def test_variants_are_in_the_order_of_the_numbers_in_their_names():
    labels = ["budget 128", "budget 64", "p 0.85", "p 0.9"]
    rows = frame().iloc[:1].assign(dense=False).loc[[0] * 4].reset_index(drop=True).assign(label=labels)
    assert list(select.variant_order(rows)["label"]) == ["budget 64", "budget 128", "p 0.85", "p 0.9"]


def test_without_long_contexts_there_is_no_figure():
    with pytest.raises(select.Nothing, match="kick_long"):
        depths._rows(frame()[lambda rows: rows["task"] == "other"])
