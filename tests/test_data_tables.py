"""Tables as programs write them: headers, dialects, paths, parts, labels of every kind."""

import os
import unicodedata

import numpy as np
import pytest
from support.pictures import photo, write_classes

from vitrail.data.gate import inspect
from vitrail.data.opening import open_source
from vitrail.data.split import divide, unseal
from vitrail.errors import DataError

LABELS = ("ash", "oak", "fir")
ROWS = [(f"img/{i:03d}.png", LABELS[i % 3], i) for i in range(12)]


@pytest.fixture
def write(tmp_path):
    """Writes a table of twelve images by a head and a row as a function of path, label, number."""
    write_classes(tmp_path, {"img": 12})

    def made(head, row=None, *, tail="", name="t.csv", encoding="utf-8"):
        lines = [head] if head else []
        lines += [row(*values) for values in ROWS] if row else []
        (tmp_path / name).write_bytes(("\n".join(lines) + "\n" + tail).encode(encoding))
        return tmp_path / name

    return made


def classes_of(source) -> list[str]:
    """The class of each image, in the order of their names."""
    return [source.classes[item.label] for item in source.items]


def kinds(source) -> dict[str, str]:
    return {finding.kind: finding.message for finding in source.findings}


@pytest.mark.parametrize(
    ("head", "row", "tail"),
    [
        ("path,label", lambda p, c, i: f"{p},{c}", ",\n" * 30),
        ("path;label;;", lambda p, c, i: f"{p};{c};;", ";;;\n\n"),
        ("path, label", lambda p, c, i: f'"{p}", "{c}"', ""),
        ("sep=;\npath;label", lambda p, c, i: f"{p};{c}", ""),
        ("path\tlabel", lambda p, c, i: f"{p}\t{c}", ""),
        ("path|label", lambda p, c, i: f"{p}|{c}", ""),
        ("file_name,label", lambda p, c, i: f"{p},{c}", ""),
        ("Filename,Class", lambda p, c, i: f"{p},{c}", ""),
        (",image,target", lambda p, c, i: f"{i},{p},{c}", ""),
        ("Unnamed: 0,Image Path,Category", lambda p, c, i: f"{i},{p},{c}", ""),
        ("id,file,species", lambda p, c, i: f"{i},{p},{c}", ""),
        ("id,breed", lambda p, c, i: f"{i:03d},{c}", ""),
        ("# path,label", lambda p, c, i: f"./img//{i:03d}.png,{c}", ""),
        ("where,what", lambda p, c, i: f"{p},{c}", ""),
        ("", lambda p, c, i: f"{p},{c}", ""),
        ("path,label", lambda p, c, i: p.replace("/", "\\") + f",{c}", ""),
        ("path,label", lambda p, c, i: f"C:\\Users\\me\\img\\{i:03d}.png,{c}", ""),
        ("path,label", lambda p, c, i: f"/home/me/img/{i:03d}.png,{c}", ""),
        ("path,label", lambda p, c, i: f"{i:03d}.png,{c}", ""),
        ("path,label", lambda p, c, i: f"IMG/{i:03d}.PNG,{c.title() if i % 2 else c}", ""),
    ],
)  # fmt: skip
def test_dialects(write, head, row, tail):
    source = open_source(write(head, row, tail=tail))
    assert [item.key for item in source.items] == [path for path, *_ in ROWS]
    assert [name.casefold() for name in classes_of(source)] == [label for _, label, _ in ROWS]
    assert len(source.classes) == 3
    assert source.read(source.items[0])
    assert "unused column" not in kinds(source) or head.startswith("id,file")


def test_encodings(write):
    for encoding in ("utf-8-sig", "utf-16"):
        source = open_source(write("path,label", lambda p, c, i: f"{p},{c}é", encoding=encoding))
        assert source.classes == ("ashé", "firé", "oaké")


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("split", lambda i: ("train", "val", "Test")[i % 3]),
        ("set", lambda i: ("train", "valid", "test")[i % 3]),
        ("Subset", lambda i: ("training", "validation", "testing")[i % 3]),
        ("partition", lambda i: ("train", "dev", "eval")[i % 3]),
        ("fold", lambda i: ("Train", "Val", "Test")[i % 3]),
        ("Usage", lambda i: ("Training", "PublicTest", "PrivateTest")[i % 3]),
        ("is_val,is_test", lambda i: ("0,0", "1,0", "0,1")[i % 3]),
        ("is_val,is_test", lambda i: ("False,False", "True,False", "False,True")[i % 3]),
    ],
)  # fmt: skip
def test_columns_of_parts(write, name, value):
    source = open_source(write(f"path,label,{name}", lambda p, c, i: f"{p},{c},{value(i)}"))
    assert [item.part for item in source.items] == ["train", "val", "test"] * 4
    assert not source.findings


def test_own_test_rows_are_never_trained_on(write):
    path = write("path,label,set", lambda p, c, i: f"{p},{c},{'test' if i < 3 else 'train'}")
    split = divide(inspect(open_source(path), progress=False))
    assert sorted(unseal(split.test).keys) == [path for path, *_ in ROWS[:3]]


@pytest.mark.parametrize("name", ["fold", "set", "camera"])
def test_unused_columns_are_named(write, name):
    source = open_source(write(f"path,label,{name}", lambda p, c, i: f"{p},{c},{i % 5}"))
    (finding,) = source.findings
    assert finding.keys == (name,)
    assert finding.message.startswith(f"1 column of the table not used ('{name}')")
    assert ("write train, val or test there" in finding.message) == (name != "camera")


@pytest.mark.parametrize("value", ["hold", "trian"])
def test_parts_that_are_half_understood_are_refused(write, value):
    path = write("path,label,set", lambda p, c, i: f"{p},{c},{value if i == 4 else 'train'}")
    with pytest.raises(
        DataError, match=rf"set is '{value}' in 1 row \(first row 6\), expected train"
    ):
        open_source(path)


@pytest.mark.parametrize(
    ("label", "classes"),
    [
        (lambda i: f"{i % 3}{'.0' * (i % 2)}", ("0", "1", "2")),
        (lambda i: ("Cat", "cat", "dog", "dog ")[i % 4], ("Cat", "dog")),
        (lambda i: unicodedata.normalize(("NFC", "NFD")[i % 2], f"é{i % 3}"), ("é0", "é1", "é2")),
        (lambda i: ("0.5", "1.5")[i % 2], ("0.5", "1.5")),
        (lambda i: ("007", "7")[i % 2], ("007", "7")),
        (lambda i: f'"{LABELS[i % 3]}, tall"', ("ash, tall", "fir, tall", "oak, tall")),
        (lambda i: ("red apple", "green apple", "red pear", "green pear")[i % 4],
         ("green apple", "green pear", "red apple", "red pear")),
        (lambda i: f"level {i % 6 // 2 + 1} {'ab'[i % 2]}",
         ("level 1 a", "level 1 b", "level 2 a", "level 2 b", "level 3 a", "level 3 b")),
        (lambda i: f"class {i % 4}", ("class 0", "class 1", "class 2", "class 3")),
    ],
)  # fmt: skip
def test_labels_that_are_one_each(write, label, classes):
    source = open_source(write("path,label", lambda p, c, i: f"{p},{label(i)}"))
    assert source.classes == classes
    assert not source.several


SEVERAL = {
    "words": ("path,label", lambda p, c, i: f"{p},{c} {('dry', 'wet')[i % 2]}"),
    "semicolons": ("path,label", lambda p, c, i: f"{p},{c};{('dry', 'wet')[i % 2]}"),
    "bars": ("path,label", lambda p, c, i: f"{p},{c}|{('dry', 'wet')[i % 2]}|"),
    "slashes": ("path,label", lambda p, c, i: f"{p},{c}/{('dry', 'wet')[i % 2]}"),
    "signs": ("path,label", lambda p, c, i: f"{p},{c} & {('dry', 'wet')[i % 2]}"),
    "commas": ("path,labels", lambda p, c, i: f'{p},"{c}, {("dry", "wet")[i % 2]}"'),
    "lists": ("path,label", lambda p, c, i: f"{p},\"['{c}', '{('dry', 'wet')[i % 2]}']\""),
    "json": ("path,label", lambda p, c, i: f'{p},"[""{c}"", ""{("dry", "wet")[i % 2]}""]"'),
    "bare": ("path,label", lambda p, c, i: f'{p},"[{c}, {("dry", "wet")[i % 2]}]"'),
    "rows": ("path,label", lambda p, c, i: f"{p},{c}\n{p},{('dry', 'wet')[i % 2]}"),
    "columns": (
        "path,ash,oak,fir,dry,wet",
        lambda p, c, i: f"{p},{','.join(str(int(c == n)) for n in LABELS)},{1 - i % 2},{i % 2}",
    ),
}


@pytest.mark.parametrize("kind", SEVERAL)
def test_several_labels(write, kind):
    path = write(*SEVERAL[kind])
    with pytest.raises(
        DataError, match=r"gives 12 images several labels \(first 'img/000.png': 'ash"
    ):
        open_source(path)
    with pytest.raises(DataError, match=r"'dry'\).*--task multilabel .task=multilabel"):
        open_source(path)
    source = open_source(path, several=True)
    assert source.several
    assert sorted(source.classes) == ["ash", "dry", "fir", "oak", "wet"]
    found = [{source.classes[at] for at in item.labels} for item in source.items]
    assert found == [{label, ("dry", "wet")[i % 2]} for _, label, i in ROWS]


def test_a_rare_word_does_not_hide_that_labels_are_several(write):
    words = ("clear", "haze", "road", "farm", "river")
    label = lambda i: " ".join(w for at, w in enumerate(words) if i >> at & 1) or "clear"  # noqa: E731
    path = write("path,label", lambda p, c, i: f"{p},{label(i + 1)}{' slash' if i == 6 else ''}")
    with pytest.raises(DataError, match="several labels"):
        open_source(path)


def test_one_column_per_label_with_one_each_is_classification(write):
    row = SEVERAL["columns"][1]
    path = write("path,ash,oak,fir", lambda p, c, i: ",".join(row(p, c, i).split(",")[:4]))
    assert classes_of(open_source(path)) == [label for _, label, _ in ROWS]


def test_images_without_a_label_where_there_may_be_any_number(write):
    path = write("path,a,b", lambda p, c, i: f"{p},{i % 2},{int(i % 3 == 0)}")
    source = open_source(path, several=True)
    assert source.items[2].labels == ()
    assert source.items[2].label == -1
    assert source.items[3].labels == (0, 1)
    inspection = inspect(source, progress=False)
    assert inspection.counts == (6, 4)
    assert inspection.labels[3].tolist() == [1, 1]
    path = write("path,a,b", lambda p, c, i: f"{p},{i % 2},0")
    with pytest.raises(DataError, match=r"row 2; then row 4, .* label is '', .*\(6 rows\)"):
        open_source(path)


def test_lists_in_parquet(write, tmp_path):
    pyarrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    write("")
    labels = [[label, ("dry", "wet")[i % 2]] for _, label, i in ROWS]
    table = pyarrow.table({"image": [p for p, *_ in ROWS], "tags": labels})
    parquet.write_table(table, tmp_path / "t.parquet")
    with pytest.raises(DataError, match="gives 12 images several labels"):
        open_source(tmp_path / "t.parquet")
    assert len(open_source(tmp_path / "t.parquet", several=True).classes) == 5
    numbers = pyarrow.table(
        {"image": [p for p, *_ in ROWS], "target": [i % 2 * 1.0 for i in range(12)]}
    )
    parquet.write_table(numbers, tmp_path / "n.parquet")
    assert open_source(tmp_path / "n.parquet").classes == ("0", "1")


def test_all_rows_that_are_not_filled_are_told_at_once(write):
    path = write("path,label", lambda p, c, i: f"{p},{'' if i % 2 else c}")
    with pytest.raises(DataError) as caught:
        open_source(path)
    text = str(caught.value)
    assert "row 3; then row 5, 7, 9, 11, 13: path is 'img/001.png' and label is ''" in text
    assert text.endswith("fill both or remove the row (6 rows)")


def test_rows_longer_than_the_head_are_refused(write):
    path = write("path,label", lambda p, c, i: f"{p},{c}, tall")
    with pytest.raises(
        DataError, match=r"12 rows with more cells than its head \(first row 2\): put"
    ):
        open_source(path)


def test_images_outside_of_the_folder_are_told(write, tmp_path):
    (tmp_path / "other").mkdir()
    photo(90).save(tmp_path / "out.png")
    photo(91).save(tmp_path / "far.png")
    write_classes(tmp_path / "other", {"img": 3})
    rows = [
        ("img/000.png", "a"),
        ("img/001.png", "b"),
        ("../out.png", "a"),
        (tmp_path / "far.png", "b"),
    ]
    rows.append((tmp_path / "other" / "img" / "002.png", "a"))
    path = tmp_path / "other" / "t.csv"
    path.write_text("path,label\n" + "".join(f"{key},{label}\n" for key, label in rows))
    source = open_source(path)
    (finding,) = [f for f in source.findings if f.kind == "outside of the folder"]
    assert finding.severity == "warning"
    assert finding.message.startswith(
        "2 images outside of the folder of the table, first '../out.png'"
    )
    assert {item.key for item in source.items} == {
        "img/000.png", "img/001.png", "img/002.png", "../out.png", str(tmp_path / "far.png"),
    }  # fmt: skip
    assert all(source.read(item) for item in source.items)


def test_a_file_of_the_same_name_elsewhere_is_not_taken(write, tmp_path):
    write_classes(tmp_path, {"img": 3, "other": 1})
    path = tmp_path / "t.csv"
    for named in ("gone/001.png", "new/img/001.png", "000.png", "../img/001.png"):
        path.write_text(f"path,label\nimg/000.png,a\nimg/002.png,b\n{named},b\n")
        with pytest.raises(DataError, match=r"1 of 3 paths in .* name no file, first"):
            open_source(path)


def test_one_file_in_two_parts_is_held_back(write):
    path = write(
        "path,label,split",
        lambda p, c, i: f"{p},{c},train" + (f"\n./{p},{c},test" if i < 2 else ""),
    )
    source = open_source(path)
    assert [item.part for item in source.items] == ["test"] * 2 + ["train"] * 10
    assert [(f.kind, f.severity, f.keys) for f in source.findings if f.kind != "path"] == [
        ("two parts", "error", ("img/000.png", "img/001.png"))
    ]


def test_nothing_is_written_into_the_data(write, tmp_path):
    path = write("path,label", lambda p, c, i: f"{i:03d},{c}")
    before = sorted((file, os.stat(file).st_mtime_ns) for file in tmp_path.rglob("*"))
    inspect(open_source(path), progress=False)
    assert sorted((file, os.stat(file).st_mtime_ns) for file in tmp_path.rglob("*")) == before


def test_a_parquet_file_whose_texts_are_none_is_told(tmp_path):
    pa = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    buffers = [None, pa.py_buffer(np.array([0, 3], np.int32)), pa.py_buffer(b"a\xff.")]
    paths = pa.Array.from_buffers(pa.string(), 1, buffers)
    parquet.write_table(pa.table({"path": paths, "label": ["x"]}), tmp_path / "t.parquet")
    with pytest.raises(DataError, match=r"t\.parquet is not a readable Parquet file"):
        open_source(tmp_path / "t.parquet")
