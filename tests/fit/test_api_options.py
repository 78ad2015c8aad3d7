"""Options of lmernn that concern how, not what, is computed."""

from __future__ import annotations

import pytest

import pylmernn


@pytest.fixture
def sleep():
    return pylmernn.datasets.load("sleepstudy")


def test_a_progress_bar_on_request(sleep, capsys):
    pylmernn.lmernn("Reaction ~ Days + (Days | Subject)", sleep)
    assert capsys.readouterr().err == ""
    pylmernn.lmernn("Reaction ~ Days + (Days | Subject)", sleep, progress=True)
    assert "objective 1743.6283" in capsys.readouterr().err


def test_cuda_is_refused_where_there_is_none(sleep):
    import torch

    if torch.cuda.is_available():
        assert pylmernn.lmernn("Reaction ~ Days + (1 | Subject)", sleep, device="cuda").nobs() == 180
    else:
        with pytest.raises(pylmernn.DesignError, match="no CUDA device"):
            pylmernn.lmernn("Reaction ~ Days + (1 | Subject)", sleep, device="cuda")
