"""lm-eval's names: all that its index has, read once, kept where the cache can be written."""

import pytest

from kick import paths
from kick.errors import KickError
from kick.tasks import index, lm_eval_names


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def test_tasks_groups_and_tags_are_found():
    found = lm_eval_names.names()
    assert {"hellaswag", "mmlu", "mmlu_anatomy", "ai2_arc", "arc_easy", "afrobench", "flores"} <= found
    assert "AraDiCE_ArabicMMLU_high_stem_biology_egy" in found  # of a file with its keys in quotes


def test_the_list_is_made_once_and_says_so(caplog, monkeypatch):
    first = lm_eval_names.names()
    assert "reading the names of lm-eval's tasks" in caplog.text
    (file,) = paths.cache_root().glob("lm-eval-*-names.txt")
    monkeypatch.setattr(lm_eval_names, "_read", lambda: pytest.fail("read again"))
    assert lm_eval_names.names() == first
    file.write_text("only_this\n")
    assert "only_this" in lm_eval_names.names()


def test_a_cache_that_cannot_be_written_costs_nothing(tmp_path, monkeypatch, caplog):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    with pytest.raises(KickError, match=r"unknown task 'hellaswg'.*'hellaswag'"):
        index.check_names(["hellaswg"])
    assert "cannot be written" in caplog.text


def test_a_member_of_a_group_is_checked(tmp_path):
    (tmp_path / "g.yaml").write_text("group: mine\ntask: [kick_mini_mcq, hellaswg]\n")
    with pytest.raises(KickError, match="'hellaswg'"):
        index.check_names(["mine"], [tmp_path])
