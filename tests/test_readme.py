"""The README shows what the package prints."""

import re
from pathlib import Path

import pytest

import pylmernn

README = Path(__file__).parent.parent / "README.md"


def blocks(kind):
    """Fenced blocks of a language, or those without one."""
    found = re.findall(r"^```(\w*)\n(.*?)^```$", README.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
    return [body for language, body in found if language == kind]


def test_the_first_example_prints_the_first_text():
    sleepstudy = pylmernn.datasets.load("sleepstudy")
    fit = pylmernn.lmernn("Reaction ~ Days + (Days | Subject)", sleepstudy)
    assert str(fit.summary()) == blocks("")[0].rstrip("\n")
    assert 'pylmernn.lmernn("Reaction ~ Days + (Days | Subject)", sleepstudy)' in blocks("python")[0]


def test_every_line_of_the_list_of_verbs_runs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    first, verbs = blocks("python")[:2]
    space = {}
    exec(first, space)
    space["new"] = space["sleepstudy"].head(3)
    exec(verbs, space)
    assert (tmp_path / "sleep.safetensors").exists()


@pytest.fixture(scope="module")
def examples():
    """Names after all blocks but the list of verbs, and what needs R, have run one after the other."""
    space = {}
    for number, block in enumerate(blocks("python")):
        if number != 1 and "pylmernn.bridge" not in block:
            exec(block, space)
    return space


def test_networks_and_fields_run(examples):
    assert examples["net"].sigma() < 0.6
    assert examples["field"].sigma() < 0.6


def test_classes_run(examples):
    assert examples["binary"].isGLMM()
    assert list(examples["classes"].predict_proba().columns) == ["a", "b", "c"]
