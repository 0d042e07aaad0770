"""`scripts/benchmark.py` as people call it."""

import json

import benchmark
import pytest


@pytest.fixture
def run(monkeypatch, tmp_path, capfd):
    def run_(*words):
        monkeypatch.setattr("sys.argv", ["benchmark.py", *words, "--outputs-dir", str(tmp_path)])
        benchmark.main()
        return capfd.readouterr().out

    return run_


def test_it_prints_and_writes_the_losss_share_of_a_step(run, tmp_path):
    text = run("--rounds", "2")
    (file,) = tmp_path.glob("benchmarks/*/benchmark.json")
    result = json.loads(file.read_text())
    assert result["rounds"] == 2
    assert 0 < result["loss_ms"] < result["step_ms"]
    assert f"{result['loss_share']:.1%}" in text
    assert str(file.parent) in text


def test_no_rounds_are_refused(run, capfd):
    with pytest.raises(SystemExit) as stop:
        run("--rounds", "0")
    assert stop.value.code == 2
    assert "expected 1 or more, got 0" in capfd.readouterr().err
