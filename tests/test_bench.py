"""`vitrail bench`: peers of the same weights, honest ratios, and what is said when one lacks."""

import json
import random
from dataclasses import replace
from xml.etree import ElementTree

import pytest
import torch

from vitrail import bench as benching
from vitrail.bench import __main__ as made
from vitrail.bench import contests, peers
from vitrail.bench import growth as growing
from vitrail.cli import main
from vitrail.errors import BenchError, ConfigError, extra
from vitrail.measure.latency import ratio, turns
from vitrail.measure.memory import peak_bytes
from vitrail.models import catalog, families
from vitrail.report import growth as growth_facts
from vitrail.report.speed import (
    HEAD,
    Entry,
    Ratio,
    Row,
    SpeedFacts,
    answer,
    cells,
    compiled_markdown,
    markdown,
    render_speed,
)

QUICK = {"seconds": 0.02, "batches": (1,)}


def fails(capsys, *arguments: str) -> str:
    """The one sentence of a command that exits with 2."""
    with pytest.raises(SystemExit) as stopped:
        main(list(arguments))
    assert stopped.value.code == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    return line


def test_a_small_model_against_two_libraries():
    (row,) = contests.contest("levit_128s", benching.Settings(**QUICK))
    assert [e.who for e in row.entries] == ["vitrail", "folded", "timm", "transformers"]
    assert not row.notes and row.macs > 3e8
    assert {r.who for r in row.ratios} == {"vitrail", "folded"}
    for found in row.ratios:
        assert found.low <= found.times <= found.high
    fastest = min(row.entries[2:], key=lambda e: e.p50_s)
    assert row.best.peer == fastest.who
    ours = row.entry("vitrail")
    assert ours.rate == pytest.approx(1 / ours.p50_s)
    assert ours.share == pytest.approx(2 * row.macs / ours.p50_s / row.product_flops)


def test_training_step():
    settings = benching.Settings(mode="training", seconds=0.02, batches=(2,), against=("timm",))
    (row,) = contests.contest("levit_128s", settings)
    assert [e.who for e in row.entries] == ["vitrail", "timm"]
    for entry in row.entries:  # the gradients alone are as large as the weights
        assert entry.memory_bytes > 4 * row.params


def test_a_model_of_no_peer_is_measured_alone():
    (row,) = contests.contest("cct_2_3x2_32", benching.Settings(**QUICK))
    assert row.best is None and row.memory is None
    assert row.notes == ("no peer has this model: measured alone",)
    assert "measured alone" in answer(SpeedFacts({}, {}, [row]))


def test_what_the_compiler_gains_is_said(monkeypatch):
    monkeypatch.setattr(torch, "compile", lambda model, dynamic: model)
    settings = benching.Settings(**QUICK, against=(), compiled=True)
    (row,) = contests.contest("levit_128s", settings)
    assert [e.who for e in row.entries] == ["vitrail", "folded", "folded compiled"]
    assert (row.compiled.who, row.compiled.peer) == ("folded compiled", "folded")
    facts = SpeedFacts(benching.said(settings), benching.described(), [row])
    low, high = row.compiled.low, row.compiled.high
    word = "worth it" if low > 1 else "slower" if high < 1 else "no difference"
    assert f"{low:.2f} to {high:.2f} | {word} |" in compiled_markdown(facts)
    assert "<h2>torch.compile</h2>" in render_speed(facts)


def test_a_model_that_cannot_be_compiled_is_said(monkeypatch):
    def compile_badly(model, dynamic):
        def call(x):
            raise RuntimeError("no compiler here\nand more")

        return call

    monkeypatch.setattr(torch, "compile", compile_badly)
    (row,) = contests.contest("levit_128s", benching.Settings(**QUICK, against=(), compiled=True))
    assert row.compiled is None
    assert row.notes == ("torch.compile fails on folded: RuntimeError: no compiler here",)
    assert "no compiler" in compiled_markdown(SpeedFacts({}, {}, [row]))


def test_a_peer_that_is_not_installed_is_said(monkeypatch):
    monkeypatch.setattr(peers, "find_spec", lambda name: None if name == "timm" else object())
    (row,) = contests.contest("levit_128s", benching.Settings(**QUICK, against=("timm",)))
    assert row.notes == (f"timm is not installed: {extra('bench')}",)
    assert [e.who for e in row.entries] == ["vitrail", "folded"]


def test_a_peer_that_computes_something_else_is_not_timed(monkeypatch):
    right = peers.known("levit_128s")["timm"]

    def wrong():
        model = right()
        model.head.linear.forward = lambda x, forward=model.head.linear.forward: 2 * forward(x)
        return model

    monkeypatch.setattr(peers, "known", lambda name: {"timm": wrong})
    (row,) = contests.contest("levit_128s", benching.Settings(**QUICK))
    assert row.notes[0].startswith("timm computes something else")
    assert [e.who for e in row.entries] == ["vitrail", "folded"]


def test_a_peer_of_another_size_is_said(monkeypatch):
    monkeypatch.setattr(peers, "known", lambda name: {"timm": peers._timm(catalog()["levit_192"])})
    (row,) = contests.contest("levit_128s", benching.Settings(**QUICK))
    assert row.notes[0].startswith("timm has other tensors")


def test_every_name_of_a_peer_exists():
    timm, torchvision = pytest.importorskip("timm"), pytest.importorskip("torchvision")
    known = set(timm.list_models())
    for name, variant in catalog().items():
        if "timm" in variant.hub:
            found = variant.hub["timm"].rpartition("/")[2].partition(".")[0]
            assert found in known, (name, found)
    assert set(peers.TIMM.values()) <= known
    assert set(peers.TORCHVISION.values()) <= set(torchvision.models.list_models())
    named = {*peers.TIMM, *peers.TORCHVISION, *peers.TIMM_GATES}
    assert named <= set(catalog())


def test_each_family_has_a_smallest_variant():
    found = peers.smallest()
    assert set(found) == set(families())
    assert found["levit"] == "levit_128s"
    assert benching.chosen(["levit", "swin_base"]) == ["levit_128s", "swin_base"]
    assert benching.chosen(["levit", "levit_128s"]) == ["levit_128s"]
    assert len(benching.chosen([])) == len(found)


def test_ratio_and_its_interval():
    """The interval of the sign test holds the true ratio in at least 95 of 100 runs."""
    chance = random.Random(0)
    held = 0
    for _ in range(400):
        slow = [2 * chance.lognormvariate(0, 0.3) for _ in range(15)]
        fast = [chance.lognormvariate(0, 0.3) for _ in range(15)]
        times, low, high = ratio(slow, fast)
        assert low <= times <= high
        held += low <= 2 <= high
    assert held >= 380
    assert ratio([3.0], [1.5]) == (2.0, 2.0, 2.0)


def test_turns_alternate():
    order: list[str] = []
    calls = [lambda: order.append("a"), lambda: order.append("b")]
    times = turns(calls, seconds=0.001, least=7)
    assert len(times[0]) == len(times[1]) >= 7
    assert "".join(order).endswith("ab" * 7)


def test_peak_memory_counts_what_is_alive_at_once():
    x = torch.zeros(1000, 250)

    def call():
        y = x + 1  # 1 MB
        del y
        return torch.cat([x, x])  # 2 MB

    assert peak_bytes(call) == pytest.approx(2e6, rel=0.01)


def test_resumed_and_kept(tmp_path, monkeypatch):
    asked = []

    def fake(name, settings):
        asked.append(name)
        return [row(name, 1.5)]

    monkeypatch.setattr(benching, "contest", fake)
    settings = benching.Settings()
    benching.bench(["swin_tiny"], settings, out=tmp_path)
    facts = benching.bench(["swin_tiny", "cvt_13"], settings, out=tmp_path, resume=True)
    assert asked == ["swin_tiny", "cvt_13"]
    assert benching.read(tmp_path) == facts
    page = (tmp_path / "bench.html").read_text()
    assert "cvt_13" in page and "1.50" in page and "http" not in page.replace("http://www.w3", "")
    with pytest.raises(BenchError, match="continue it with --resume, or choose another --out"):
        benching.bench(["swin_tiny"], settings, out=tmp_path)
    with pytest.raises(BenchError, match="other settings"):
        benching.bench([], benching.Settings(batches=(2,)), out=tmp_path, resume=True)
    (tmp_path / "bench.json").write_text("[]")
    with pytest.raises(BenchError, match="is damaged"):
        benching.read(tmp_path)


def row(name: str, times: float, batch: int = 1) -> Row:
    entries = (
        Entry("vitrail", 0.02, 0.03, 9, 50, 0.4, 100),
        Entry("folded", 0.01, 0.02, 9, 100, 0.8, 100),
        Entry("timm", 0.01 * times, 0.02, 9, 50, 0.4, 200),
    )
    ratios = (
        Ratio("vitrail", "timm", times / 2, times / 2, times / 2),
        Ratio("folded", "timm", times, 0.9 * times, 1.1 * times),
    )
    return Row(
        name, "swin", "inference", batch, (224, 224), 10, 20, 81.0, 2e11, entries, ratios
    )  # fmt: skip


def test_answer_and_table():
    facts = SpeedFacts({}, {}, [row("a", 2.0), row("b", 0.5), row("a", 8.0, batch=8)])
    assert facts.mean(1) == pytest.approx(1.0) and facts.mean() == pytest.approx(2.0)
    assert answer(facts) == (
        "vitrail is this many times as fast as the fastest peer, as a geometric mean of 2 models: "
        "1.00 at batch 1, 8.00 at batch 8; slower than a peer: b."
    )
    shown = dict(zip(HEAD, cells(facts.rows[0]), strict=True))
    assert shown["eager x"] == "1.00" and shown["folded x"] == "2.00"
    assert shown["memory x"] == "0.50" and shown["of product"] == "80%"
    assert "| a | 1 | 20 ms | 10 ms | 20 ms timm |" in markdown(facts)


def test_command(capsys):
    with pytest.raises(SystemExit) as stopped:
        main(
            [
                *["bench", "levit_128s", "--batch", "1", "--seconds", "0.02"],
                "--against",
                "timm",
                "--json",
            ]
        )
    assert stopped.value.code == 0
    told = json.loads(capsys.readouterr().out)
    assert told["rows"][0]["variant"] == "levit_128s"
    assert told["settings"]["against"] == "timm"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["swin_tinny"], "did you mean swin_tiny"),
        (["swin", "--against", "keras"], "peer 'keras' is unknown: known are timm"),
        (["swin", "--batch", "1,x"], "--batch is '1,x': expected whole numbers"),
        (["swin", "--batch", "0"], "give sizes of 1 or more"),
        (["swin", "--threads", "4096"], "--threads is 4096, but this process may use"),
        (["swin", "--dtype", "fp8"], "--dtype is 'fp8': expected fp32 or bf16"),
        (["swin", "--device", "tpu"], "device 'tpu' is unknown"),
    ],
)
def test_wrong_input(arguments, said, capsys):
    assert said in fails(capsys, "bench", *arguments)


def test_absent_device(capsys, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert "device 'cuda' is not available" in fails(capsys, "bench", "swin", "--device", "cuda")


def test_unknown_variant():
    with pytest.raises(ConfigError, match="no variant is called"):
        contests.contest("nothing", benching.Settings())


# ---- growth ------------------------------------------------------------------------------


def grow(name: str, power: float, macs: float = 1.0) -> growth_facts.Growth:
    """A family whose time grows by a power of the area, and its operations by another."""
    points = [
        growth_facts.Point(s, 1e-6 * s ** (2 * power), s * s, int(s ** (2 * macs)))
        for s in (64, 128, 256, 512)
    ]
    return growth_facts.Growth(name, name, points, points[:2], [])


def test_exponents():
    assert growth_facts.exponent([(x, 3 * x**1.7) for x in (1, 2, 4, 8)]) == pytest.approx(1.7)
    assert growth_facts.exponent([(1, 1)]) is None
    # what every call costs does not count: only the three largest points do
    assert growth_facts.exponent([(1, 99), (2, 2), (4, 4), (8, 8)]) == pytest.approx(1)
    local, full, slow = grow("local", 1.0), grow("full", 1.9, 1.8), grow("slow", 1.4)
    assert local.why == "linear"
    assert "exponent of multiply-adds is 1.80" in full.why
    assert "no longer fit the caches" in slow.why
    facts = growth_facts.GrowthFacts({"versions": {}}, 2, [local, full, slow])
    assert growth_facts.answer(facts) == (
        "2 of 3 families are linear in the area; the steepest of the others by time: full (1.90)."
    )
    logits = [replace(p, memory_bytes=p.x**3) for p in local.sides]
    assert "memory is 1.50, that of multiply-adds only 1.00" in replace(local, sides=logits).why
    page = growth_facts.render_growth(facts)
    assert "no longer fit the caches" in page and page.count("<svg") == 4
    assert "| full | full | 1.90 |" in growth_facts.markdown(facts)


def test_growth_of_a_small_model(tmp_path, capsys):
    facts = growing.growth(["cct_2_3x2_32"], sides=(32, 64), out=tmp_path)
    (row,) = facts.rows
    assert [p.x for p in row.sides] == [32, 64] and [p.x for p in row.batches] == [1, 2, 4, 8]
    assert row.depths[2].macs > 1.5 * row.depths[0].macs
    assert row.sides[1].memory_bytes > row.sides[0].memory_bytes > 0
    assert growing.read(tmp_path).rows == facts.rows
    again = growing.growth(["cct_2_3x2_32"], sides=(32, 64), out=tmp_path, resume=True)
    assert again.rows == facts.rows
    assert "continue with --resume" in fails(capsys, "growth", "cct", "--out", str(tmp_path))


def test_growth_says_what_it_leaves_out(monkeypatch):
    row = growing.grown("levit_128s", sides=(16, 64))
    assert row.note.startswith("refuses 16: image is 16x16") and not row.sides[1:]
    monkeypatch.setattr(growing, "LONGEST_S", 0.0)
    row = growing.grown("cct_2_3x2_32", sides=(32, 64))
    assert [p.x for p in row.sides] == [32]
    assert row.note.startswith("64 left out, it would take")
    assert row.time is None and row.why == "too few points"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["swin", "--sides", "64"], "give two or more"),
        (["swin", "--sides", "big"], "--sides is 'big': expected whole numbers"),
        (["mvit_b_16x4"], "takes clips"),
        (["swinn_tiny"], "did you mean swin_tiny"),
    ],
)
def test_growth_of_wrong_input(arguments, said, capsys):
    assert said in fails(capsys, "growth", *arguments)


def test_page_of_all_figures(tmp_path, monkeypatch):
    """The Markdown page, its picture as a file that any viewer reads, and the baseline."""
    facts = SpeedFacts(
        benching.said(benching.Settings()), {"versions": {}}, [row("a", 2.0), row("b", 0.5)]
    )
    benching.keep(facts, tmp_path / "one")
    growing.keep(growth_facts.GrowthFacts({"versions": {}}, 2, [grow("c", 1)]), tmp_path / "two")
    page, baseline = tmp_path / "speed.md", tmp_path / "baseline.json"
    arguments = [page, tmp_path / "one", tmp_path / "two", "--baseline", baseline]
    monkeypatch.setattr("sys.argv", ["bench", *map(str, arguments)])
    made.main()
    text = page.read_text()
    assert "## Inference" in text and "## Growth" in text and "](speed.svg)" in text
    ElementTree.parse(tmp_path / "speed.svg")
    assert json.loads(baseline.read_text())["ratios"] == {"a": {"1": 2.0}, "b": {"1": 0.5}}
