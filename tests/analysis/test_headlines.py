"""The order of tasks on pages and in tables."""

from types import SimpleNamespace

from kick.analysis.headlines import place


def of(name):
    return SimpleNamespace(about=None, cell=SimpleNamespace(task=SimpleNamespace(name=name)))


def test_lengths_are_in_the_order_of_their_numbers():
    names = [f"kick_long_{kind}_{length}" for kind in ("needle", "qa") for length in (512, 1024, 2048, 8000)]
    assert sorted(names, key=lambda name: place(of(name))) == names
    assert place(of("kick_mini_mcq")) < place(of("somebodys_task_2")) < place(of("kick_mini_perplexity"))
