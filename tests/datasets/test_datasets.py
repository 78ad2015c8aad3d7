import gzip

import pandas as pd
import pytest

from pylmernn import datasets


def test_sizes_are_those_of_the_sources():
    sizes = {name: datasets.load(name).shape for name in datasets.names()}
    assert sizes == {
        "Contraception": (1934, 6),
        "Dyestuff": (30, 2),
        "Dyestuff2": (30, 2),
        "InstEval": (73421, 7),
        "Pastes": (60, 4),
        "Penicillin": (144, 3),
        "VerbAgg": (7584, 9),
        "cake": (270, 5),
        "cbpp": (56, 4),
        "egsingle": (7230, 12),
        "guImmun": (2159, 13),
        "sleepstudy": (180, 3),
        "spotify_songs": (28351, 15),
    }


def test_a_track_is_one_row_with_a_known_artist():
    songs = datasets.load("spotify_songs")
    assert songs["artist"].nunique() == 10691
    assert songs["album"].nunique() == 22542
    assert not songs.isna().any().any()


def test_factors_keep_their_order():
    cake = datasets.load("cake")
    assert cake["temperature"].cat.ordered
    assert list(cake["temperature"].cat.categories) == ["175", "185", "195", "205", "215", "225"]
    assert list(datasets.load("InstEval")["dept"].cat.categories)[:3] == ["15", "5", "10"]
    assert not cake["temperature"].isna().any()


def test_each_call_gives_a_new_copy():
    first = datasets.load("sleepstudy")
    first["Reaction"] = 0.0
    assert datasets.load("sleepstudy")["Reaction"].mean() == pytest.approx(298.5079, abs=1e-4)


def test_unknown_name_lists_the_known_ones():
    with pytest.raises(ValueError, match=r"no data set 'sleep'.*sleepstudy"):
        datasets.load("sleep")


def test_missing_values_are_read_as_missing(tmp_path):
    (tmp_path / "t.csv.gz").write_bytes(gzip.compress(b'"x","f"\n1.5,"a"\nNA,NA\n'))
    (tmp_path / "columns.json").write_text(
        '{"t": {"x": {"type": "float"}, "f": {"type": "factor", "ordered": false, "levels": ["b", "a"]}}}'
    )
    frame = datasets.read(tmp_path, "t")
    pd.testing.assert_frame_equal(
        frame, pd.DataFrame({"x": [1.5, None], "f": pd.Categorical(["a", None], categories=["b", "a"])})
    )
