"""Tables are read under any of their names, and each mistake in them is one clear line."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from milmer.errors import UserError
from milmer.evaluation.audit.tables import read_features, read_metadata, read_predictions, read_splits

from .tables_made import deal, study, write


@pytest.fixture
def info() -> pd.DataFrame:
    return study()[0]


@pytest.fixture
def rows(info: pd.DataFrame, tmp_path: Path) -> pd.DataFrame:
    return read_metadata(write(tmp_path / "info.csv", info))


def refused(call: object, *words: str) -> None:
    with pytest.raises(UserError) as error:
        call()  # type: ignore[operator]  # a function without arguments
    assert "\n" not in str(error.value)
    for word in words:
        assert word in str(error.value), str(error.value)


@pytest.mark.parametrize("ending", [".csv", ".parquet"])
def test_torcheegs_names_become_ours(info: pd.DataFrame, tmp_path: Path, ending: str) -> None:
    rows = read_metadata(write(tmp_path / f"info{ending}", info.assign(valence=7.5, _record_id="_record_0")))
    assert list(rows["sample"][:1]) == ["_record_0 0_0_0"]
    assert {"subject", "trial", "stimulus", "start", "stop", "label", "rating_valence"} <= set(rows.columns)
    assert rows["start"].iloc[1] == 512


def test_metadata_mistakes(info: pd.DataFrame, tmp_path: Path) -> None:
    file = tmp_path / "info.csv"
    refused(lambda: read_metadata(tmp_path / "no.csv"), "no such file")
    refused(lambda: read_metadata(write(tmp_path / "a.csv", info[:0])), "no row")
    (tmp_path / "x.xlsx").write_text("a")
    refused(lambda: read_metadata(tmp_path / "x.xlsx"), ".parquet", "convert")
    refused(lambda: read_metadata(write(file, info.drop(columns="subject_id"))), "'subject'", "add it")
    refused(lambda: read_metadata(write(file, info.drop(columns="trial_id"))), "'trial'")
    gaps = info.astype({"subject_id": object})
    gaps.loc[3, "subject_id"] = None
    refused(lambda: read_metadata(write(file, gaps)), "1 rows without 'subject'")
    refused(lambda: read_metadata(write(file, pd.concat([info, info[:2]]))), "2 samples are named twice", "0_0_0")
    refused(lambda: read_metadata(write(file, info.assign(start_at="soon"))), "no numbers")
    refused(lambda: read_metadata(write(file, info.assign(end_at=0))), "stop after start")
    (tmp_path / "bad.parquet").write_bytes(b"nothing")
    refused(lambda: read_metadata(tmp_path / "bad.parquet"), "not readable")


def test_one_table_of_splits(info: pd.DataFrame, rows: pd.DataFrame, tmp_path: Path) -> None:
    fold = info["trial_id"] % 4
    parts = [
        info[["clip_id"]].assign(
            fold=k, part=np.where(fold == k, "test", np.where(fold == (k + 1) % 4, "val", "train"))
        )
        for k in range(4)
    ]
    folds = read_splits(write(tmp_path / "s.parquet", pd.concat(parts)), rows)
    assert [f.name for f in folds] == ["fold 0", "fold 1", "fold 2", "fold 3"]
    for f in folds:
        assert (np.asarray(fold)[f.test] == f.fold).all()
        assert f.train.size + f.validation.size + f.test.size == len(rows)


def test_a_folder_of_folds_in_number_order(info: pd.DataFrame, rows: pd.DataFrame, tmp_path: Path) -> None:
    of_row = np.arange(len(info)) % 11
    folds = read_splits(deal(tmp_path / "split", info, of_row, validation=True), rows)
    assert [f.name for f in folds] == [f"fold {k}" for k in range(11)]
    assert all((of_row[f.test] == f.fold).all() and f.validation.size for f in folds)


def test_per_subject_and_leave_one_out_names(info: pd.DataFrame, rows: pd.DataFrame, tmp_path: Path) -> None:
    a, b, c = tmp_path / "a", tmp_path / "b", tmp_path / "c"
    for folder in (a, b, c):
        folder.mkdir()
    for s in ("s0", "s1"):
        mine = info["subject_id"] == s
        for k in (0, 1):
            (a / "").mkdir(exist_ok=True)
            info[mine & (info["trial_id"] % 2 != k)].to_csv(a / f"train_subject_{s}.dat_fold_{k}.csv", index=False)
            info[mine & (info["trial_id"] % 2 == k)].to_csv(a / f"test_subject_{s}.dat_fold_{k}.csv", index=False)
        info[~mine].to_csv(b / f"train_subject_{s}.csv", index=False)
        info[mine].to_csv(b / f"test_subject_{s}.csv", index=False)
        (c / s).mkdir()
        info[mine & (info["trial_id"] > 1)].to_csv(c / s / "train.csv", index=False)
        info[mine & (info["trial_id"] <= 1)].to_csv(c / s / "test.csv", index=False)
    assert [f.name for f in read_splits(a, rows)][:2] == ["subject s0.dat fold 0", "subject s0.dat fold 1"]
    assert [f.name for f in read_splits(b, rows)] == ["subject s0", "subject s1"]
    assert [f.name for f in read_splits(c, rows)] == ["s0", "s1"]
    assert [f.fold for f in read_splits(a, rows)] == [0, 1, 2, 3]


def test_rows_without_names_are_found_by_trial_and_start(info: pd.DataFrame, tmp_path: Path) -> None:
    bare = info.drop(columns="clip_id")
    rows = read_metadata(write(tmp_path / "i.csv", bare.assign(start_at=bare["start_at"] / 256)))
    part = bare.assign(start_at=bare["start_at"] / 256, part=np.where(bare["trial_id"] < 2, "test", "train"))
    part.loc[:, "trial_id"] = part["trial_id"].astype(float)
    fold = read_splits(write(tmp_path / "s.csv", part), rows)[0]
    assert (np.asarray(info["trial_id"])[fold.test] < 2).all()
    no_times = read_metadata(write(tmp_path / "i.csv", bare.drop(columns=["start_at", "end_at"])))
    refused(lambda: read_splits(tmp_path / "s.csv", no_times), "do not tell its rows apart", "sample")


def test_clips_are_told_apart_by_record_where_they_must(info: pd.DataFrame, tmp_path: Path) -> None:
    part = info[["clip_id"]].assign(part=np.where(info["trial_id"] < 2, "test", "train"))
    whole = info.assign(_record_id="_record_" + info["subject_id"])
    rows = read_metadata(write(tmp_path / "i.csv", whole))
    bare = read_splits(write(tmp_path / "s.csv", part), rows)[0]
    named = read_splits(write(tmp_path / "s.csv", part.assign(_record_id=whole["_record_id"])), rows)[0]
    assert (bare.test == named.test).all() and (named.test == np.flatnonzero(info["trial_id"] < 2)).all()
    again = whole.assign(clip_id=whole["clip_id"].str[2:])  # numbered anew in each record
    rows = read_metadata(write(tmp_path / "i.csv", again))
    part = again[["clip_id", "_record_id"]].assign(part=part["part"])
    assert (read_splits(write(tmp_path / "s.csv", part), rows)[0].test == named.test).all()
    short = part.drop(columns="_record_id")
    refused(lambda: read_splits(write(tmp_path / "s.csv", short), rows), "_record_id", "add it")


def test_split_mistakes(info: pd.DataFrame, rows: pd.DataFrame, tmp_path: Path) -> None:
    file = tmp_path / "s.csv"
    part = info[["clip_id"]].assign(part=np.where(info["trial_id"] < 2, "test", "train"))
    refused(lambda: read_splits(tmp_path / "none", rows), "neither file nor folder")
    (tmp_path / "empty").mkdir()
    refused(lambda: read_splits(tmp_path / "empty", rows), "train_fold_0.csv")
    refused(lambda: read_splits(write(file, part.drop(columns="part")), rows), "'part'")
    refused(lambda: read_splits(write(file, part.drop(columns="clip_id")), rows), "sample")
    refused(lambda: read_splits(write(file, part.replace("test", "tset")), rows), "'tset'", "did you mean 'test'")
    refused(lambda: read_splits(write(file, part[part["part"] == "train"]), rows), "no test rows")
    refused(lambda: read_splits(write(file, part.assign(clip_id="x" + part["clip_id"])), rows), "not in the metadata")
    refused(lambda: read_splits(write(file, pd.concat([part, part[:3]])), rows), "3 samples come twice")
    both = pd.concat([part, part[part["part"] == "test"].assign(part="train")])
    refused(lambda: read_splits(write(file, both), rows), "names 48 samples twice", "plainest leak")


def test_predictions_by_name_class_or_probability(info: pd.DataFrame, rows: pd.DataFrame, tmp_path: Path) -> None:
    folds = read_splits(deal(tmp_path / "f", info, np.asarray(info["trial_id"] % 4)), rows)
    said = info[["clip_id"]].assign(y_true=info["label"], y_pred="low")
    found = read_predictions(write(tmp_path / "p.csv", said), rows, folds)
    assert (found.fold == info["trial_id"] % 4).all() and set(found.answer) == {"low"}
    chances = info[["clip_id"]].assign(p_low=0.3, p_high=0.7)
    found = read_predictions(write(tmp_path / "p.csv", chances), rows, folds)
    assert set(found.answer) == {"high"} and found.truth is None
    numbers = info[["clip_id"]].assign(y_true=1.0, y_pred=1)  # 1.0 and 1 are one name
    found = read_predictions(write(tmp_path / "p.csv", numbers), rows, folds)
    assert found.truth is not None and found.truth[0] == found.answer[0] == "1"


def test_prediction_mistakes(info: pd.DataFrame, rows: pd.DataFrame, tmp_path: Path) -> None:
    file = tmp_path / "p.csv"
    folds = read_splits(deal(tmp_path / "f", info, np.asarray(info["trial_id"] % 4)), rows)
    said = info[["clip_id"]].assign(y_true=info["label"], y_pred="low", fold=info["trial_id"] % 4)

    def read(table: pd.DataFrame) -> object:
        return lambda: read_predictions(write(file, table), rows, folds)

    refused(read(said.drop(columns="y_pred")), "y_pred")
    refused(read(said.assign(fold=9)), "fold '9'", "0, 1, 2, 3")
    refused(read(said.assign(fold=0)), "does not test")
    refused(read(pd.concat([said, said[:1]])), "1 samples are answered twice")
    refused(read(said.assign(clip_id="?")), "not in the metadata")
    twice = read_splits(
        write(
            tmp_path / "two.csv",
            pd.concat(
                info[["clip_id"]].assign(part=np.where(info["trial_id"] < 2, "test", "train"), fold=k) for k in (0, 1)
            ),
        ),
        rows,
    )
    refused(
        lambda: read_predictions(write(file, said[info["trial_id"] < 2].drop(columns="fold")), rows, twice),
        "several folds",
        "'fold'",
    )


def test_features_by_name_or_in_order(info: pd.DataFrame, rows: pd.DataFrame, tmp_path: Path) -> None:
    x = np.random.default_rng(0).normal(size=(len(info), 3))
    table = info[["clip_id", "trial_id"]].join(pd.DataFrame(x, columns=["a", "b", "c"])).sample(frac=1, random_state=0)
    assert np.allclose(read_features(write(tmp_path / "x.parquet", table), rows), x)
    np.save(tmp_path / "x.npy", x)
    assert np.allclose(read_features(tmp_path / "x.npy", rows), x)
    np.save(tmp_path / "x.npy", x[1:])
    refused(lambda: read_features(tmp_path / "x.npy", rows), "metadata's order")
    refused(lambda: read_features(write(tmp_path / "y.csv", table[1:]), rows), "1 samples of the metadata have none")
    refused(lambda: read_features(write(tmp_path / "y.csv", table[["clip_id"]]), rows), "no numeric column")
    table.iloc[0, 2] = np.nan
    refused(lambda: read_features(write(tmp_path / "y.csv", table), rows), "missing or infinite")


def test_other_separators_are_named(info: pd.DataFrame, tmp_path: Path) -> None:
    for ending, sign, said in (("csv", ";", "semicolons"), ("csv", "\t", "tabs"), ("tsv", ",", "commas")):
        file = tmp_path / f"bad.{ending}"
        info.to_csv(file, index=False, sep=sign)
        with pytest.raises(UserError, match=f"seem separated by {said}.*save it with"):
            read_metadata(file)
        with pytest.raises(UserError, match=f"seem separated by {said}"):
            read_splits(file, info)


def test_probabilities_that_are_none(info: pd.DataFrame, rows: pd.DataFrame, tmp_path: Path) -> None:
    folds = read_splits(deal(tmp_path / "f", info, np.arange(len(info)) % 2), rows)
    chances = info[["clip_id"]].assign(p_low=0.3, p_high=1.0)
    found = read_predictions(write(tmp_path / "p.csv", chances), rows, folds)
    assert set(found.answer) == {"high"} and "1.3" in found.remarks[0] and "do not sum to 1" in found.remarks[0]
    good = read_predictions(write(tmp_path / "p.csv", chances.assign(p_low=0.0)), rows, folds)
    assert good.remarks == ()
    chances.loc[3, "p_low"] = np.nan
    with pytest.raises(UserError, match=r"1 of .* rows have no number"):
        read_predictions(write(tmp_path / "p.csv", chances), rows, folds)
