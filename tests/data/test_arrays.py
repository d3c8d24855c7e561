"""What data may be given as: each kind trains to the same bits as the array it stands for."""

import subprocess
import sys
import tracemalloc

import numpy as np
import pandas as pd
import pytest
import scipy.sparse

from thriftgrad import nn, optim, train
from thriftgrad.data import batches
from thriftgrad.data.arrays import as_rows
from thriftgrad.errors import DataError

RNG = np.random.default_rng(0)
X = RNG.normal(size=(50, 4)) * (RNG.random((50, 4)) < 0.5)
Y = RNG.integers(0, 3, 50)

SAME = {
    "lists": (X.tolist(), Y.tolist()),
    "frame and series": (pd.DataFrame(X), pd.Series(Y, index=range(100, 150))),
    "nullable": (pd.DataFrame(X).convert_dtypes(), pd.Series(Y, dtype="Int64")),
    "CSR": (scipy.sparse.csr_array(X), Y),
    "COO": (scipy.sparse.coo_matrix(X), pd.Series(Y)),
    "CSC": (scipy.sparse.csc_array(X), tuple(Y)),
}


def trained(x, y):
    model = nn.Sequential(nn.Linear(4, 3, rng=0, dtype=np.float64))
    history = train.fit(
        model,
        (x, y),
        validation=(x, y),
        loss=nn.cross_entropy,
        optimizer=optim.SGD(model.parameters(), lr=0.1),
        epochs=2,
        batch_size=16,
    )
    scores = train.evaluate(model, (x, y), loss=nn.cross_entropy, batch_size=16)
    return history.train_loss, history.validation_accuracy, scores, train.predict(model, x)


@pytest.mark.parametrize("kind", SAME)
def test_all_kinds_train_alike(kind):
    for one, other in zip(trained(*SAME[kind]), trained(X, Y), strict=True):
        np.testing.assert_array_equal(one, other)


def test_arrays_of_numpys_kind_are_left_as_they_are(tmp_path):
    X.tofile(tmp_path / "x")
    for array in (X, np.memmap(tmp_path / "x", X.dtype, "r", shape=X.shape), X[:0]):
        assert as_rows(array, "x") is array
    frame = pd.DataFrame(X)
    assert np.shares_memory(as_rows(frame, "x"), frame.to_numpy())


def test_a_frame_takes_the_type_that_its_columns_promote_to():
    columns = {"a": np.ones(2, np.float32), "b": np.ones(2, np.int8), "c": np.array([True, False])}
    rows = as_rows(pd.DataFrame(columns), "x")
    assert rows.dtype == np.float32
    np.testing.assert_array_equal(rows, [[1, 1, 1], [1, 1, 0]])
    # Columns may have any names, those of an array's attributes too.
    assert as_rows(pd.DataFrame({"dtype": [1.0], "shape": [2.0]}), "x").tolist() == [[1.0, 2.0]]


@pytest.mark.parametrize(
    ("column", "said"),
    [
        (["a", "b"], r"'bad' \((object|<U1|str)\)"),
        (pd.to_datetime(["2020-01-01", "2020-01-02"]), r"'bad' \(datetime64"),
        (pd.Categorical(["u", "v"]), r"'bad' \(object\)"),
    ],
)
def test_a_column_that_is_no_numbers_is_named(column, said):
    frame = pd.DataFrame({"good": [1.0, 2.0], "bad": column, "flag": [True, False]})
    with pytest.raises(DataError, match=said) as error:
        as_rows(frame, "train: x")
    assert str(error.value).startswith("train: x is a DataFrame")
    assert "good" not in str(error.value)
    assert "flag" not in str(error.value)
    with pytest.raises(DataError, match="'bad'"):
        as_rows(frame[["bad"]], "x")


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (pd.Series(["a"]), "x is a Series of "),
        (np.array([{}, 1], object), "x is a ndarray of object; expected numbers"),
        (np.ma.zeros(3), "x is a masked array, whose mask would be ignored"),
        ([[1], [1, 2]], "x is a list that makes no array"),
        ({"a": 1}, "x is a dict of object"),
        (3.5, "x is a float; expected an array"),
    ],
)
def test_what_is_refused(data, said):
    with pytest.raises(DataError, match=said):
        as_rows(data, "x")
    model = nn.Sequential(nn.Linear(4, 3, rng=0))
    with pytest.raises(DataError, match=said):
        train.predict(model, data)


def test_pictures_of_bytes_are_refused_in_a_frame_too():
    model = nn.Sequential(nn.Linear(2, 3, rng=0))
    frame = pd.DataFrame(np.zeros((4, 2), np.uint8))
    with pytest.raises(DataError, match=r"x has dtype uint8.*/ 255"):
        train.fit(
            model,
            (frame, np.zeros(4, int)),
            loss=nn.cross_entropy,
            optimizer=optim.SGD(model.parameters(), lr=0.1),
            epochs=1,
        )


def peak(work):
    tracemalloc.start()
    try:
        work()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def test_a_memory_map_stays_on_disk(tmp_path):
    shape = (20_000, 100)  # 8 MB
    x = np.memmap(tmp_path / "x", np.float32, "w+", shape=shape)
    x[::7] = 1
    x = np.memmap(tmp_path / "x", np.float32, "r", shape=shape)
    y = np.zeros(len(x), int)
    model = nn.Sequential(nn.Linear(100, 2, rng=0))

    def work():
        train.fit(
            model,
            (x, y),
            validation=(x, y),
            loss=nn.cross_entropy,
            optimizer=optim.SGD(model.parameters(), lr=0.1),
            epochs=1,
            batch_size=200,
        )
        assert train.predict(model, x, 200).shape == (20_000, 2)

    assert peak(work) < x.nbytes / 8


def test_a_sparse_matrix_is_dense_one_batch_at_a_time():
    x = scipy.sparse.random_array((20_000, 100), density=0.01, rng=0, format="csr")
    assert peak(lambda: [b for b in batches(x, size=100, rng=0) if not b.any()]) < 2_000_000
    np.testing.assert_array_equal(np.concatenate(list(batches(x, size=999))), x.toarray())


def test_pandas_is_not_imported():
    code = "import sys, thriftgrad.train, thriftgrad.data; print({'pandas', 'scipy'} & set(sys.modules))"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "set()"
