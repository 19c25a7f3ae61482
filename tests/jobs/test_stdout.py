"""A command that has done its work does not end in 1 because its last line cannot be printed."""

from __future__ import annotations

import ast
import importlib
import io
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from lavis_mafa.evaluation import compare
from tests.jobs.commands import ROOT

OURS_ALONE = {  # what they print is their own: nothing of a config, a path or a caption
    *("cli.py", "doctor.py", "common/gpus.py", "common/threads.py", "common/stdout.py"),
    "common/run_configs.py",  # read by scripts
}


def test_the_check_prints_in_any_encoding(tmp_path: Path) -> None:
    Image.new("RGB", (4, 4)).save(tmp_path / "a.png")
    rows = [{"image": "a.png", "caption": "x"}, *({"image": f"größe{n} 犬.png", "caption": "x"} for n in range(30))]
    (tmp_path / "a.json").write_text(json.dumps(rows))
    data = f"{{images: {tmp_path}, annotations: {{train: {tmp_path / 'a.json'}}}}}"
    (tmp_path / "run.yaml").write_text(f"run: {{batch_size_train: 1}}\ndatasets: {{image_text: {data}}}\n")
    words = ["check", "--cfg-path", str(tmp_path / "run.yaml"), "--output", str(tmp_path / "out")]
    found = subprocess.run(
        [sys.executable, "-m", "lavis_mafa.data", *words],
        env={**os.environ, "PYTHONIOENCODING": "ascii"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert "UnicodeEncodeError" not in found.stderr
    assert r"gr\xf6\xdfe0 \u72ac.png" in found.stdout and r"\u2026 and 10 more" in found.stdout


@pytest.mark.parametrize(
    ("command", "words"),
    [
        ("lavis_mafa.train", ["--help"]),
        ("lavis_mafa.mine", ["--help"]),
        ("lavis_mafa.doctor", ["--help"]),
        ("lavis_mafa.data.__main__", ["--help"]),
        ("lavis_mafa.evaluation.compare", ["--help"]),
    ],
)
def test_every_command_prints_what_its_encoding_lacks(
    command: str, words: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    stdout = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    monkeypatch.setattr(sys, "stdout", stdout)
    monkeypatch.setattr(sys, "argv", [command, *words])
    with pytest.raises(SystemExit):
        importlib.import_module(command).main()
    print("…")
    stdout.flush()
    assert stdout.buffer.getvalue().endswith(b"\\u2026" + os.linesep.encode())


def test_what_others_wrote_is_printed_by_show_alone() -> None:
    package = ROOT / "lavis_mafa"
    for file in package.rglob("*.py"):
        if file.relative_to(package).as_posix() not in OURS_ALONE:
            called = [node.func for node in ast.walk(ast.parse(file.read_text())) if isinstance(node, ast.Call)]
            assert not any(isinstance(one, ast.Name) and one.id == "print" for one in called), f"{file}: use show"


def test_a_comparison_of_somebody_elses_results_is_text(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    results = {"dataset": "=HYPERLINK(1)\x1b]0;x\x07", "answers": {"test": {"all": 0.5}}, "expected": {"@A1": 0.4}}
    (tmp_path / "results.json").write_text(json.dumps(results))
    monkeypatch.setattr(sys, "argv", ["compare", str(tmp_path), "--out", str(tmp_path / "out.csv")])
    compare.main()
    assert r"=HYPERLINK(1)\x1b]0;x\x07" in capsys.readouterr().out
    header, row = (tmp_path / "out.csv").read_text().splitlines()
    assert header == "evaluation,this checkpoint,'@A1" and row.startswith("\"'=HYPERLINK")
