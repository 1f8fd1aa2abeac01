import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from milmer.errors import UserError
from milmer.evaluation.protocols import PROTOCOLS, Split, make_splits
from milmer.evaluation.split_files import read_splits, split_hash, write_splits


def study(windows: int = 2, name: str = "x", subjects: int = 4, trials: int = 6) -> pd.DataFrame:
    rows = [
        (name, f"{s:02d}", "", t, w, f"e{t}") for s in range(subjects) for t in range(trials) for w in range(windows)
    ]
    return pd.DataFrame(rows, columns=["study", "subject", "session", "trial", "window", "stimulus"])


def labels(rows: pd.DataFrame) -> np.ndarray:
    return np.array((rows["trial"] + rows["subject"].astype(int)) % 2, dtype=np.int64)


def same(one: list[Split], other: list[Split]) -> bool:
    return len(one) == len(other) and all(
        (a.fold, a.name, a.notes) == (b.fold, b.name, b.notes)
        and all(np.array_equal(getattr(a, p), getattr(b, p)) for p in ("train", "validation", "test"))
        for a, b in zip(one, other, strict=True)
    )


def mapped(splits: list[Split], order: np.ndarray) -> list[tuple[set[int], ...]]:
    return [tuple(set(order[getattr(s, p)].tolist()) for p in ("train", "validation", "test")) for s in splits]


@pytest.mark.parametrize("ending", ["parquet", "csv"])
@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_what_is_written_is_read_back(protocol: str, ending: str, tmp_path: Path) -> None:
    rows = pd.concat([study(), study(name="z")], ignore_index=True) if protocol == "cross-study" else study()
    y = labels(rows)
    y[:3] = -1  # in no part
    splits = make_splits(rows, y, protocol, seed=4)
    file = tmp_path / f"splits.{ending}"
    write_splits(file, rows, splits)
    found = read_splits(file, rows)
    if ending == "csv":  # which has no place for notes
        splits = [Split(s.fold, s.train, s.validation, s.test, (), s.name) for s in splits]
    assert same(found, splits)
    order = np.random.default_rng(1).permutation(len(rows))
    again = read_splits(file, rows.iloc[order])
    assert mapped(again, order) == mapped(splits, np.arange(len(rows)))
    assert [p.name for p in tmp_path.iterdir()] == [file.name]


def test_notes_names_and_unused_rows_are_in_the_file(tmp_path: Path) -> None:
    rows = study()
    y = labels(rows)
    y[rows["subject"] == "01"] = np.where(rows["trial"][rows["subject"] == "01"] == 0, 0, 1)
    y[:2] = -1
    splits = make_splits(rows, y, "trial", 3, scope="subject")
    assert any(s.notes for s in splits)
    write_splits(tmp_path / "s.parquet", rows, splits)
    assert same(read_splits(tmp_path / "s.parquet", rows), splits)
    table = pd.read_parquet(tmp_path / "s.parquet")
    assert set(table["name"]) == {"", "00", "01", "02", "03"}
    unused = table[table["part"] == "unused"]
    assert unused["row"].tolist() == [0, 1] and set(unused["fold"]) == {-1}
    assert list(table) == ["fold", "name", "part", "row", "study", "subject", "session", "trial", "window", "stimulus"]


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 1000), st.sampled_from(["trial", "subject", "stimulus", "subject-and-stimulus"]))
def test_the_hash_is_of_identities_not_of_row_order(seed: int, protocol: str) -> None:
    rows = study()
    y = labels(rows)
    order = np.random.default_rng(seed).permutation(len(rows))
    mixed = rows.iloc[order].reset_index(drop=True)
    one = split_hash(rows, make_splits(rows, y, protocol, 3, seed))
    assert len(one) == 16 and int(one, 16) >= 0
    assert split_hash(mixed, make_splits(mixed, y[order], protocol, 3, seed)) == one
    renamed = rows.assign(subject=rows["subject"].str.replace("03", "07"))
    assert split_hash(renamed, make_splits(rows, y, protocol, 3, seed)) != one


def test_the_hash_tells_parts_folds_and_seeds_apart() -> None:
    rows = study()
    y = labels(rows)
    splits = make_splits(rows, y, "trial", 3)
    swapped = [Split(s.fold, s.validation, s.train, s.test) for s in splits]
    turned = [Split((s.fold + 1) % 3, s.train, s.validation, s.test) for s in splits]
    named = {split_hash(rows, s) for s in (splits, swapped, turned, make_splits(rows, y, "trial", 3, 1))}
    assert len(named) == 4
    assert split_hash(rows, splits[::-1]) == split_hash(rows, splits)
    as_floats = rows.assign(trial=rows["trial"].astype(float))  # as a table from elsewhere may have them
    assert split_hash(as_floats, splits) == split_hash(rows, splits)


def test_a_file_of_trials_serves_all_their_windows(tmp_path: Path) -> None:
    rows = study(windows=3)
    trials = rows.drop_duplicates(["subject", "trial"]).reset_index(drop=True)
    lines = [
        {"fold": f"part{k}", "part": "Test" if t % 3 == k else "val" if t % 3 == (k + 1) % 3 else "train"}
        | {"subject": s, "trial": t}
        for k in range(3)
        for s, t in zip(trials["subject"], trials["trial"], strict=True)
    ]
    file = tmp_path / "mine.csv"
    pd.DataFrame(lines).to_csv(file, index=False, encoding="utf-8-sig")  # as spreadsheets do
    found = read_splits(file, rows)
    assert [(s.fold, s.name) for s in found] == [(0, "part0"), (1, "part1"), (2, "part2")]
    for split in found:
        assert len(split.test) == 4 * 2 * 3
        assert set(rows["trial"].iloc[split.test] % 3) == {split.fold}
    table = pd.DataFrame(lines).astype({"trial": float})
    table.to_parquet(tmp_path / "mine.parquet")
    assert mapped(read_splits(tmp_path / "mine.parquet", rows), np.arange(len(rows))) == mapped(
        found, np.arange(len(rows))
    )


def test_folds_without_validation_say_so_and_count_from_nought(tmp_path: Path) -> None:
    rows = study()
    lines = [
        {"fold": k, "part": "test" if s == k else "train", "subject": f"{s:02d}", "trial": t}
        for k in (2, 10)
        for s in range(4)
        for t in range(6)
    ]
    table = pd.DataFrame(lines)
    table["part"] = np.where((table["fold"] == 10) & (table["subject"] == "00"), "test", table["part"])
    table.to_csv(tmp_path / "s.csv", index=False)
    found = read_splits(tmp_path / "s.csv", rows)
    assert [(s.fold, s.name) for s in found] == [(0, "2"), (1, "10")]  # by number, not by letters
    assert all("no rows for validation" in s.notes[0] and not len(s.validation) for s in found)


def test_rows_without_a_label_need_not_be_in_the_file(tmp_path: Path) -> None:
    rows = study(windows=1)
    y = labels(rows)
    y[:4] = -1
    write_splits(tmp_path / "s.csv", rows, make_splits(rows, y, "trial", 3))
    table = pd.read_csv(tmp_path / "s.csv", dtype=str, keep_default_na=False)
    table = table[table["part"] != "unused"].drop(columns="row")
    table.to_csv(tmp_path / "s.csv", index=False)
    assert len(read_splits(tmp_path / "s.csv", rows, y)) == 3
    with pytest.raises(
        UserError, match="4 of the table's 24 rows are missing in it, and 0 of the 20 it names are extra"
    ):
        read_splits(tmp_path / "s.csv", rows)
    y[4] = -1  # in the file, but no longer labelled
    assert all(
        4 not in np.concatenate([s.train, s.validation, s.test]) for s in read_splits(tmp_path / "s.csv", rows, y)
    )


def test_rows_of_equal_identity_are_told_apart_by_number_only_in_their_order(tmp_path: Path) -> None:
    rows = study().drop(columns="window")
    y = labels(rows)
    splits = make_splits(rows, y, "window")
    write_splits(tmp_path / "s.parquet", rows, splits)
    assert same(read_splits(tmp_path / "s.parquet", rows), splits)
    with pytest.raises(UserError, match=r"two parts of fold 0.*differ by window, add that column"):
        read_splits(tmp_path / "s.parquet", rows.iloc[np.random.default_rng(0).permutation(len(rows))])


def test_other_rows_are_refused_with_their_number(tmp_path: Path) -> None:
    rows = study()
    file = tmp_path / "s.parquet"
    write_splits(file, rows, make_splits(rows, labels(rows), "trial", 3))
    with pytest.raises(
        UserError, match="0 of the table's 36 rows are missing in it, and 12 of the 48 it names are extra"
    ):
        read_splits(file, rows[rows["subject"] != "03"])
    more = pd.concat([rows, study(subjects=5)[-12:]], ignore_index=True)
    with pytest.raises(UserError, match="12 of the table's 60 rows are missing in it, and 0 of the 48"):
        read_splits(file, more)
    with pytest.raises(UserError, match=r"48 of the table's 48 .*48 of the 48 .*make it again"):
        read_splits(file, rows.assign(study="y"))


def test_two_parts_of_a_fold_are_refused_but_for_an_audit(tmp_path: Path) -> None:
    rows = study(windows=1)
    y = labels(rows)
    first = make_splits(rows, y, "trial", 3)[0]
    leaky = Split(0, np.sort(np.r_[first.train, first.test[:2]]), first.validation, first.test)
    write_splits(tmp_path / "s.parquet", rows, [leaky])
    with pytest.raises(UserError, match="found 2 rows in two parts of fold 0"):
        read_splits(tmp_path / "s.parquet", rows)
    assert same(read_splits(tmp_path / "s.parquet", rows, overlaps=True), [leaky])


def test_mistakes_are_named_in_one_line(tmp_path: Path) -> None:
    rows = study()
    y = labels(rows)
    splits = make_splits(rows, y, "trial", 3)
    good = tmp_path / "s.csv"
    write_splits(good, rows, splits)
    table = pd.read_csv(good, dtype=str, keep_default_na=False)

    def refused(
        content: pd.DataFrame | bytes | None, match: str, name: str = "bad.csv", of: pd.DataFrame = rows
    ) -> None:
        file = tmp_path / name
        if isinstance(content, bytes):
            file.write_bytes(content)
        elif content is not None:
            content.to_csv(file, index=False)
        with pytest.raises(UserError, match=match) as caught:
            read_splits(file, of)
        assert "\n" not in str(caught.value) and str(file) in str(caught.value)

    refused(None, "found no such file", "none.parquet")
    refused(b"PAR1 this is none", "cannot be read", "bad.parquet")
    refused(b"", "cannot be read")
    refused(b"\xff\xfe\x00fold", "cannot be read")
    refused(b'fold,part\n"0', "cannot be read")
    (tmp_path / "folder.parquet").mkdir()
    refused(None, "cannot be read", "folder.parquet")
    refused(
        table.drop(columns=["fold", "trial"]), "found no column fold, trial .*, expected fold, part and the identity"
    )
    refused(b"fold;part;subject;trial\n0;test;a;1\n", r"\(its columns: fold;part;subject;trial\), .* commas between")
    refused(table[:0], "found no rows")
    refused(table.assign(part="exam"), "found the part 'exam', expected train, validation, test or unused")
    refused(table.assign(part="unused"), "only the part unused")
    refused(table[table["part"] != "test"].drop(columns="row"), "found no labelled row to test on in fold 0")
    refused(
        table, "found the column window, which the table lacks", of=rows[rows["window"] == 0].drop(columns="window")
    )
    two = pd.concat([rows, rows.assign(session="b")], ignore_index=True)
    refused(table.drop(columns=["session", "row"]), "no column session in the file", of=two)
    write_splits(tmp_path / "two.csv", two, make_splits(two, labels(two), "trial", 3))
    refused(None, "no column session in the table", "two.csv", of=rows.drop(columns="session"))
    with pytest.raises(UserError, match="cannot be written"):
        write_splits(tmp_path / "nowhere" / "s.parquet", rows, splits)


def test_the_modules_import_without_torch_or_pandas() -> None:
    code = (
        "import sys\nfrom milmer.evaluation import protocols, splitters, split_files, dealing\n"
        "heavy = {'torch', 'pandas', 'sklearn', 'scipy', 'matplotlib'} & set(sys.modules)\n"
        "sys.exit(str(heavy) if heavy else 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
