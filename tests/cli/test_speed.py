"""What must be quick: the help, and mistyped names. CPU seconds, since walls are the machine's business."""

import os
import resource
import subprocess
import sys

import pytest

SLOW = "torch transformers lm_eval datasets pandas scipy"
RUN = f"""
import sys
from kick import cli
try:
    cli.main(sys.argv[1:])
finally:
    print(*sorted(set(sys.modules) & set({SLOW!r}.split())))
"""
MATRIX = {"name": "m", "model": "smoke", "tasks": "[kick_mini_mcq]", "variants": "[dense]"}


def matrix(**changes):
    return "\n".join(f"{key}: {value}" for key, value in {**MATRIX, **changes}.items())


def seconds(arguments, cache):
    """(CPU seconds, what slow libraries were imported, standard error) of one command."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run(
        [sys.executable, "-c", RUN, *arguments],
        capture_output=True,
        text=True,
        env={**os.environ, "XDG_CACHE_HOME": str(cache), "HF_HOME": str(cache), "KICK_DATA_ROOT": ""},
    )
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    used = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return used, done.stdout.splitlines()[-1], done.stderr


@pytest.mark.parametrize(
    ("text", "words", "most"),
    [
        (None, [], 0.5),
        ("preset", ["unknown preset 'smok'", "'smoke'"], 1.5),
        ("run llm-kick", ["needs the data sets", "cais/mmlu"], 1.5),
        (matrix(taks="[x]"), ["unknown key 'taks'", "'tasks'"], 1.5),
        (
            matrix(variants="[{method: wnda, sparsity: 0.5}]"),
            ["unknown method 'wnda'", "'wanda'", "--plugins"],
            1.5,
        ),
        (matrix(tasks="[hellaswg]"), ["unknown task 'hellaswg'", "'hellaswag'"], 1.5),
    ],
)
def test_help_and_mistyped_names_take_no_seconds(tmp_path, text, words, most):
    arguments = ["--help"] if text is None else text.split()
    if text == "preset":
        arguments = ["plan", "smok"]
    elif text and "\n" in text:
        (tmp_path / "m.yaml").write_text(text)
        arguments = ["plan", str(tmp_path / "m.yaml")]
    for _ in range(3):  # the best of three: other tests run beside
        used, imported, said = seconds(arguments, tmp_path)
        assert imported == ""
        assert all(word in said for word in words), said
        if used < most:
            return
    pytest.fail(f"{used:.2f} CPU seconds, at most {most}")
