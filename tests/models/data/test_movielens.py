"""MovieLens and Epinions: the original files and the joined CSV give the same log."""

import numpy as np
import pytest
from support.data import write

from ondevice.errors import DataError
from ondevice.models.data import epinions_log, ml1m_log, ml_latest_small_log

USERS = "1::F::1::10::48067\n2::M::56::16::70072\n"
MOVIES = "10::Café: A (Story) (1990) (1995)::Drama|War\n20::Untitled::Comedy\n"
RATINGS = "1::10::5::978300760\n2::20::3::978300761\n2::10::4::978300762\n"
ML1M_HEADER = "label,user,movie,rating,time_rank,gender,age,occupation,zip,genres,genre1,year\n"


def folder_1m(folder, users=USERS, movies=MOVIES, ratings=RATINGS):
    write(folder / "users.dat", users, "latin-1")
    write(folder / "movies.dat", movies, "latin-1")
    write(folder / "ratings.dat", ratings, "latin-1")
    return folder


def assert_equal(log, other):
    assert log.features == other.features
    assert log.labels.tolist() == other.labels.tolist()
    for name, hashes in log.hashes.items():
        assert hashes.tolist() == other.hashes[name].tolist(), name


def test_ml1m_original_files_equal_the_csv(tmp_path):
    rows = (
        "1,1,10,5,0,F,1,10,48067,Drama|War,Drama,1995\n"
        "0,2,20,3,0,M,56,16,70072,Comedy,Comedy,\n"
        "1,2,10,4,1,M,56,16,70072,Drama|War,Drama,1995\n"
    )
    path = write(tmp_path / "joined.csv.xz", ML1M_HEADER + rows)
    log = ml1m_log(folder_1m(tmp_path))
    assert_equal(log, ml1m_log(path))
    assert list(log.hashes) == [
        *("user", "movie", "gender", "age", "occupation", "zip", "genres", "genre1", "year")
    ]
    year = log.features["year"]
    assert log.hashes["year"].tolist() == year.encode([1995, None, 1995]).tolist()
    assert (
        log.hashes["zip"].tolist()
        == log.features["zip"].encode(["48067", "70072", "70072"]).tolist()
    )
    assert len(ml1m_log(tmp_path, max_rows=2)) == 2


def test_a_csv_in_the_folder_comes_first(tmp_path):
    folder_1m(tmp_path)
    row = "1,1,10,5,0,F,1,10,48067,Drama|War,Drama,1995\n"
    write(tmp_path / "data.csv.gz", ML1M_HEADER + row)
    assert len(ml1m_log(tmp_path)) == 1


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"ratings": "1::10::5::1\n3::10::5::1\n"},
            "ratings.dat, line 2, column 'user': expected a",
        ),
        ({"ratings": "1::11::5::1\n"}, "column 'movie': expected a value that movies.dat lists"),
        ({"ratings": "1::10::x::1\n"}, "column 'rating': expected a number, got 'x'"),
        ({"ratings": "1::10::5\n"}, "expected 4 columns, got 3: nothing for column 'timestamp'"),
        ({"users": USERS + "1::F::1::10::48067\n"}, "users.dat, column 'user': expected each"),
        ({"users": "1::F::old::10::48067\n"}, "users.dat, line 1, column 'age'"),
    ],
)
def test_bad_rows_of_the_original_files(tmp_path, changes, message):
    with pytest.raises(DataError, match=message):
        ml1m_log(folder_1m(tmp_path, **changes))


def test_missing_files_are_listed(tmp_path):
    with pytest.raises(DataError) as caught:
        ml1m_log(tmp_path)
    for name in ("data.csv", "data.csv.xz", "ratings.dat", "ratings.dat.gz"):
        assert name in str(caught.value)
    write(tmp_path / "ratings.dat", RATINGS)
    with pytest.raises(DataError, match=r"looked for users.dat, users.dat.gz"):
        ml1m_log(tmp_path)
    with pytest.raises(DataError, match="no such file"):
        ml1m_log(tmp_path / "absent")


def test_ml_latest_small_original_files_equal_the_csv(tmp_path):
    write(tmp_path / "movies.csv", 'movieId,title,genres\n22,"A, B (1995)",Crime|War\n23,C,Drama\n')
    write(
        tmp_path / "ratings.csv",
        "userId,movieId,rating,timestamp\n429,22,4.0,828124615\n1,23,3.5,828124615\n",
    )
    joined = write(
        tmp_path / "joined.csv",
        "label,rating,ts,user,movie,genres,genre1,year,hour,weekday\n"
        "1,4.0,828124615,429,22,Crime|War,Crime,1995,18,4\n"
        "0,3.5,828124615,1,23,Drama,Drama,none,18,4\n",  # Friday, 29 March 1996, 18:36 UTC
    )
    log = ml_latest_small_log(tmp_path)
    assert_equal(log, ml_latest_small_log(joined))
    assert log.hashes["year"][1] == 0
    write(tmp_path / "ratings.csv", "userId,movieId,rating,timestamp\n1,22,4,828124615000\n")
    with pytest.raises(DataError, match="column 'timestamp': expected seconds since 1970"):
        ml_latest_small_log(tmp_path)
    write(tmp_path / "ratings.csv", "user,movie,rating,timestamp\n1,22,4,8\n")
    with pytest.raises(DataError, match="expected the header userId,movieId"):
        ml_latest_small_log(tmp_path)


def test_epinions(tmp_path):
    write(tmp_path / "data.csv", "label,rating,ts,user,item,category\n1,5,1,7,8,9\n")
    log = epinions_log(tmp_path)
    assert {name: hashes.tolist() for name, hashes in log.hashes.items()} == {
        name: log.features[name].encode(np.array([value])).tolist()
        for name, value in (("user", 7), ("item", 8), ("category", 9))
    }
