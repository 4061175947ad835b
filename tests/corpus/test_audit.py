"""What an audit finds, and that the healthy rest stays usable."""

from __future__ import annotations

import json

from cadmllm.cli import main
from cadmllm.corpus.audit import audit
from cadmllm.corpus.layout import open_dataset
from cadmllm.settings import DataSettings


def audited(root, longest: int = 2048):
    return audit(open_dataset(DataSettings(root=root)), longest)


def test_a_healthy_set_has_no_finding(root):
    report = audited(root)
    assert report.findings == []
    assert report.stages[1]["ready"]
    assert report.stages[1]["ids"] == report.counts["ids"] > 0


def test_each_kind_of_damage_has_its_code_and_spares_the_rest(root):
    before = audited(root)
    dataset = open_dataset(DataSettings(root=root))
    broken = dataset.ids[0]
    dataset.program_path(broken).write_text('{"entities": 7}')
    cloud = next(path for path in (root / "pcd").rglob("*.np*") if broken not in str(path))
    cloud.write_bytes(b"not points")
    report = audited(root)
    assert {finding.code for finding in report.findings} == {"E203", "E404"}
    assert all(finding.count == 1 and finding.paths and finding.remedy for finding in report.findings)
    assert report.stages[1]["ids"] == before.stages[1]["ids"] - 1
    assert report.stages[2]["ids"] < before.stages[2]["ids"]


def test_targets_that_do_not_fit_are_counted(root):
    report = audited(root, longest=3)
    (finding,) = report.findings
    assert (finding.code, finding.count) == ("E602", report.counts["ids"])
    assert not report.stages[1]["ready"]


def test_the_command_ends_as_the_asked_stage_deserves(root, capsys):
    for path in (root / "img").rglob("*.png"):
        path.unlink()
    assert main(["data", "check", str(root), "--stage", "1", "--json", "--quiet"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["ready"] is True
    assert found["stages"]["3"]["ids"] == 0
    assert main(["data", "check", str(root), "--stage", "3", "--quiet"]) == 1
    assert "not ready" in capsys.readouterr().out


def test_a_root_that_is_not_there(tmp_path, capsys):
    assert main(["data", "check", str(tmp_path / "none"), "--json"]) == 1
    assert json.loads(capsys.readouterr().out)["error"]["code"] == "E401"
