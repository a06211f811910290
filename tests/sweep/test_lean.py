"""What a worker process imports, and that a work arrives there as it was sent."""

from __future__ import annotations

import importlib.util
import json
import pickle
import pickletools
import sys

from kick.records import ModelSpec, Variant
from kick.sweep import lean
from kick.sweep.worker import Worker


def test_a_package_is_absent_only_within(tmp_path, monkeypatch):
    (tmp_path / "left_out.py").write_text("HERE = True\n")
    monkeypatch.syspath_prepend(tmp_path)
    with lean.absent("left_out", "json"):
        assert importlib.util.find_spec("left_out") is None
        assert sys.modules["json"] is json, "what was imported before stays"
    assert importlib.import_module("left_out").HERE
    del sys.modules["left_out"]


def test_transformers_is_prepared_before_the_works_own_modules_are_imported():
    work = Worker("root", "m", Variant("dense", ModelSpec("smoke", None)), ("mcq",))
    work._tasks["mcq"] = object()  # what was loaded stays here
    sent = pickle.dumps(work)
    texts = [str(argument) for _, argument, _ in pickletools.genops(sent)]
    assert texts.index("prepare") < texts.index("kick.sweep.worker")
    arrived = pickle.loads(sent)
    assert arrived._tasks == {}
    work._tasks.clear()
    assert arrived == work
