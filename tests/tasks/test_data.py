"""Where data come from: the embedded suite, the mirror, the hub; what is nowhere is named with all three."""

import logging
from pathlib import Path

import datasets
import pytest

from kick.errors import KickError
from kick.tasks import data
from tests.support.local_mirror import mirror

SHARED = Path(__file__).parents[3] / "shared" / "data"
SPLITS = {
    "mmlu": ("dev", "validation", "test"),
    "wikitext2": ("validation", "test"),
    "wikitext2_raw": ("test",),
    "nq_open": ("validation",),
    "xquad_en": ("validation",),
    "cnn_dailymail": ("test",),
    "gsm8k": ("train", "test"),
    "triviaqa_subset": ("validation",),
    "mt_bench": ("train",),
    "mt_bench_reference": ("train",),
    "vicuna_bench": ("train",),
    "vicuna_bench_reference": ("train",),
}


@pytest.fixture(autouse=True)
def no_hub(monkeypatch):
    """The hub is out of reach at once, not after 20 seconds of retries; no mirror but the tests' own."""

    def unreachable(path, *_, **__):
        raise ConnectionError(f"Couldn't reach {path!r} on the Hub")

    monkeypatch.setattr(datasets, "load_dataset", unreachable)
    monkeypatch.delenv(data.ROOT_VARIABLE, raising=False)


def test_the_embedded_suite_needs_nothing(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    found = data.embedded("factoid")
    assert list(found) == ["test"]
    assert found["test"][0]["id"] == "factoid-001"
    assert (data.tasks_folder() / "kick_mini" / "kick_mini.yaml").is_file()


@pytest.mark.parametrize("file", ["gsm8k/test.jsonl", "gsm8k/test.parquet"])
def test_a_mirror_is_read_by_set_and_split(tmp_path, file):
    root = mirror(tmp_path, file, [{"question": "é", "answer": "2"}, {"question": "b", "answer": "3"}])
    found = data.load("openai/gsm8k", ["test"], "main", root)
    assert found["test"].to_list() == [{"question": "é", "answer": "2"}, {"question": "b", "answer": "3"}]


def test_the_environment_names_the_mirror(tmp_path, monkeypatch):
    monkeypatch.setenv(data.ROOT_VARIABLE, mirror(tmp_path, "gsm8k/test.jsonl", [{"question": "a"}]))
    assert len(data.load("openai/gsm8k", ["test"], "main")["test"]) == 1


def test_a_missing_split_is_an_error_and_never_a_wider_set(tmp_path):
    root = mirror(tmp_path, "gsm8k/train.jsonl", [{"question": "a"}])
    with pytest.raises(KickError, match="mirrors openai/gsm8k, but has no split 'test'; it has train"):
        data.load("openai/gsm8k", ["train", "test"], "main", root)
    assert data.has_split("openai/gsm8k", "main", "train", root)
    assert not data.has_split("openai/gsm8k", "main", "test", root)
    assert data.has_split("piqa", "", "test", root)  # no business of the mirror's


def test_a_configuration_that_the_table_lacks_is_an_error(tmp_path):
    root = mirror(tmp_path, "wikitext2/test.jsonl", [{"text": "a"}])
    with pytest.raises(KickError, match="only as wikitext-2-raw-v1, wikitext-2-v1; got 'wikitext-103-v1'"):
        data.load("Salesforce/wikitext", ["test"], "wikitext-103-v1", root)
    with pytest.raises(KickError, match="got 'no configuration'"):
        data.load("Salesforce/wikitext", ["test"], "", root)


def test_a_subject_is_filtered_out_of_all(tmp_path):
    rows = [{"question": f"q{i}", "subject": ("anatomy", "law")[i % 2]} for i in range(6)]
    root = mirror(tmp_path, "mmlu/test.parquet", rows)
    found = data.load("cais/mmlu", ["test"], "anatomy", root)["test"]
    assert [row["question"] for row in found] == ["q0", "q2", "q4"]
    assert len(data.load("cais/mmlu", ["test"], "all", root)["test"]) == 6
    with pytest.raises(KickError, match="no row with subject 'astrology'"):
        data.load("cais/mmlu", ["test"], "astrology", root)


def test_missing_everywhere_names_the_three_places(tmp_path):
    with pytest.raises(KickError) as caught:
        data.load("openai/gsm8k", ["test"], "main")
    for part in (
        "openai/gsm8k",
        "main",
        "test",
        "embedded suite",
        "no local mirror",
        "KICK_DATA_ROOT",
        "the hub",
    ):
        assert part in str(caught.value)
    root = mirror(tmp_path, "mmlu/test.jsonl", [{"question": "a", "subject": "law"}])
    with pytest.raises(KickError, match=f"the mirror {root}, the hub .ConnectionError: Couldn't reach"):
        data.load("openai/gsm8k", ["test"], "main", root)


def test_what_is_on_no_hub_is_not_looked_for_there(tmp_path):
    with pytest.raises(KickError, match="lm-sys/mt_bench is on no hub and must be in a local mirror"):
        data.load("lm-sys/mt_bench", ["train"])
    with pytest.raises(KickError, match=f"searched: the mirror {tmp_path}"):
        data.load("lm-sys/mt_bench", ["train"], root=str(tmp_path))


def test_a_data_root_that_is_no_folder_is_named(tmp_path):
    with pytest.raises(KickError, match="nowhere' is not a folder; KICK_DATA_ROOT or data_root names it"):
        data.load("openai/gsm8k", ["test"], "main", str(tmp_path / "nowhere"))


def test_the_hub_answers_what_no_mirror_has(tmp_path, monkeypatch):
    asked = []

    def hub(path, name, split):
        asked.append((path, name, split))
        return datasets.Dataset.from_list([{"x": 1}])

    monkeypatch.setattr(datasets, "load_dataset", hub)
    data.load("openai/gsm8k", ["test"], "main", str(tmp_path))
    data.load("someone/set", ["train"])
    assert asked == [("openai/gsm8k", "main", "test"), ("someone/set", None, "train")]


def test_pages_of_wikitext(tmp_path):
    lines = ["before any title", " = One = \n", " text \n", " = = Part = = \n", "", " = Two = \n", " end \n"]
    root = mirror(tmp_path, "wikitext2_raw/test.jsonl", [{"text": line} for line in lines])
    found = data.load("EleutherAI/wikitext_document_level", ["test"], "wikitext-2-raw-v1", root)["test"]
    assert found["page"][:] == [" = One = \n text \n = = Part = = \n \n", " = Two = \n end \n"]


def test_a_subset_says_so(tmp_path, caplog):
    root = mirror(tmp_path, "cnn_dailymail/test.jsonl", [{"article": "a"}])
    with caplog.at_level(logging.WARNING):
        data.load("abisee/cnn_dailymail", ["test"], "3.0.0", root)
    assert "a subset of it" in caplog.text


@pytest.mark.parametrize("name", sorted(SPLITS))
def test_every_set_of_the_table_is_in_the_shared_mirror(name):
    if not SHARED.is_dir():
        pytest.skip("LOUD: ../shared is absent, the real mirror was not read")
    places = [(path, config, source) for path, rows in data.MIRROR.items() for config, source in rows.items()]
    for path, config, source in places:
        for split in SPLITS[name] if source.set == name else ():
            asked = "anatomy" if config == "*" else config
            assert data.mirror_rows(path, asked, split, str(SHARED))
    assert name in {source.set for _, _, source in places}
