"""A model repository for Triton says what the exported file is."""

import re

import onnx
import pytest
from test_export import finished

from vitrail.cli import main
from vitrail.engines.triton import write_repository
from vitrail.errors import ConfigError
from vitrail.run.folder import RunFolder


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return finished(tmp_path_factory.mktemp("runs") / "run").path


def test_a_repository_tells_names_types_and_sizes_of_the_file(run, tmp_path, capsys):
    with pytest.raises(SystemExit) as caught:
        main(["export", str(run), "--triton", str(tmp_path / "models")])
    assert caught.value.code == 0
    model = tmp_path / "models" / "run"
    assert str(model) in capsys.readouterr().out
    copy, folder = model / "1" / "model.onnx", RunFolder.open(run)
    assert copy.read_bytes() == folder.onnx.read_bytes()
    text, graph = (model / "config.pbtxt").read_text(), onnx.load(copy).graph
    labels = folder.read_labels()
    said = re.findall(r'name: "(\w+)" data_type: (\w+) dims: \[ ([-\d, ]+) \]', text)
    shapes = {
        info.name: [d.dim_value or -1 for d in info.type.tensor_type.shape.dim][1:]
        for info in (*graph.input, *graph.output)
    }
    kinds = {"images": "TYPE_UINT8"}
    for name, kind, dims in said:
        assert kind == kinds.get(name, "TYPE_FP32")
        assert [int(d) for d in dims.split(",")] == shapes[name]
    assert {name for name, *_ in said} == set(shapes)
    assert (model / "labels.txt").read_text().splitlines() == list(labels.classes)
    assert text.count("{") == text.count("}") and text.count("[") == text.count("]")


def test_what_is_there_is_left_alone(run, tmp_path):
    folder = RunFolder.open(run)
    write_repository(folder.onnx, folder.read_labels(), tmp_path, "one")
    with pytest.raises(ConfigError, match="is there already"):
        write_repository(folder.onnx, folder.read_labels(), tmp_path, "one")
    with pytest.raises(ConfigError, match="cannot be the name"):
        write_repository(folder.onnx, folder.read_labels(), tmp_path, "a/b")
