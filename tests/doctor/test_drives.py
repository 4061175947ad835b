"""What lies on drives of Windows: measured, remembered, worth a copy or not."""

from __future__ import annotations

from pathlib import Path

from mounted import system

from cadmllm.corpus import drive
from cadmllm.doctor import drives
from cadmllm.doctor.cache import Cache
from cadmllm.doctor.check import Level, Situation
from cadmllm.places import bundled
from cadmllm.settings import Settings


def settings(root: Path) -> Settings:
    return Settings(data={"root": root}, run={"dir": "/home/me/run"}, model={"llm": "tiny", "points_encoder": "fourier"})


def test_a_folder_that_looks_like_a_drive_is_one_on_linux(tmp_path):
    plain = system(tmp_path, version="Linux version 6.1")
    assert drives.check_drives(Situation(settings(Path("/mnt/w/data")), machine=plain)).skipped == "not WSL"
    assert drives.check_drives(Situation(settings(Path("/mnt/data")), machine=system(tmp_path))).level is Level.OK


def test_data_on_a_fast_drive_is_measured_once(tmp_path, monkeypatch):
    data = tmp_path / "set"
    for number in range(3):
        (data / "json").mkdir(parents=True, exist_ok=True)
        (data / "json" / f"{number}.json").write_text("{}" * 500)
    machine = system(tmp_path / "system", f"/dev/sdc / ext4 rw 0 0\nW:\\134 {data} 9p rw,aname=drvfs;path=W:\\ 0 0\n")
    calls = []

    def measure(files, *, budget):
        calls.append((sorted(path.name for path in files), budget))
        return drive.Speed(3, 3000, 0.01, 0.009)

    monkeypatch.setattr(drive, "measure", measure)
    cache = Cache(tmp_path / "doctor.json")
    for _ in range(2):
        outcome = drives.check_drives(Situation(settings(data), machine=machine, cache=cache))
        assert outcome.level is Level.OK
        assert outcome.summary == "data.root on a drive of Windows, read fast enough"
        assert "300 files/s" in outcome.details[-1]
    assert calls == [(["0.json", "1.json", "2.json"], drives.BUDGET)]


def test_a_slow_base_model_is_worth_a_copy_where_loading_takes_long(tmp_path, monkeypatch):
    base = tmp_path / "base model"
    base.mkdir()
    (base / "model.safetensors").write_bytes(bytes(2**20))
    machine = system(
        tmp_path / "system", f"W:\\134 {base} 9p rw,aname=drvfs;path=W:\\ 0 0\n".replace("base model", "base\\040model")
    )
    chosen = Settings(data={"synthetic": 4}, run={"dir": "/home/me/run"}, model={"llm": str(base), "points_encoder": "fourier"})
    situation = Situation(chosen, machine=machine, cache=Cache(tmp_path / "doctor.json"))
    monkeypatch.setattr(drive, "measure", lambda files, *, budget: drive.Speed(1, 2**20, 1.0, 0.01))
    assert drives.check_drives(situation).level is Level.OK
    monkeypatch.setattr(drives, "folder_bytes", lambda path: 2**30)
    (finding,) = drives.check_drives(situation).findings
    assert (finding.code, finding.level) == ("E832", Level.WARN)
    assert "1.0 GiB take about 16.9 minutes longer" in finding.message
    assert f"cp -r '{base}' ~/'base model' (1.0 GiB), then --set model.llm=~/'base model'" in finding.remedy


def test_the_sample_is_small_however_large_the_folder(tmp_path):
    for kind in ("json", "img"):
        for number in range(40):
            folder = tmp_path / kind / f"{number % 4:04d}"
            folder.mkdir(parents=True, exist_ok=True)
            (folder / f"{number}.x").write_bytes(b"x")
    found = list(drives.sample(tmp_path))
    assert {path.parent.parent.name for path in found} == {"json", "img"}
    assert len(found) <= 2 * drives.FILES
    single = tmp_path / "one.pt"
    single.write_bytes(b"x")
    assert list(drives.sample(single)) == [single]
    assert list(drives.sample(tmp_path / "absent")) == []


def test_sizes_of_files_and_folders(tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "a/b").write_bytes(bytes(100))
    (tmp_path / "c").write_bytes(bytes(10))
    (tmp_path / "d").symlink_to("nowhere")
    assert drives.folder_bytes(tmp_path) == 110
    assert drives.folder_bytes(tmp_path / "c") == 10


def test_a_run_folder_on_a_drive_is_moved_home(tmp_path):
    chosen = Settings(data={"synthetic": 4}, run={"dir": "/mnt/c/runs/a"}, model={"llm": "tiny", "points_encoder": "fourier"})
    outcome = drives.check_drives(Situation(chosen, machine=system(tmp_path)))
    (finding,) = outcome.findings
    assert (finding.code, finding.level) == ("E832", Level.WARN)
    assert "lies on C:\\: saves are slow" in finding.message
    home = str(Path.home() / "cadmllm-runs" / "a")
    assert finding.remedy == f"--output_dir {home}"
    assert [(fix.kind, fix.name, fix.value) for fix in outcome.fixes] == [("setting", "run.dir", home)]


def test_packages_on_a_drive_slow_every_start(tmp_path, monkeypatch):
    prefix = tmp_path / "venv"
    (prefix / "lib").mkdir(parents=True)
    (prefix / "lib/a.py").write_text("")
    machine = system(tmp_path / "system", f"C:\\134 {prefix} 9p rw,aname=drvfs;path=C:\\ 0 0\n")
    monkeypatch.setattr(drives.sys, "prefix", str(prefix))
    situation = Situation(settings(tmp_path), machine=machine, cache=Cache(tmp_path / "doctor.json"))
    monkeypatch.setattr(drive, "measure", lambda files, *, budget: drive.Speed(10, 1000, 0.04, 0.001))
    (finding,) = drives.check_drives(situation).findings
    assert "each start takes about 16 s longer" in finding.message
    monkeypatch.setattr(drive, "measure", lambda files, *, budget: drive.Speed(10, 1000, 0.004, 0.001))
    assert drives.check_drives(situation).level is Level.OK


def test_data_that_is_slow_says_how_large_a_copy_is(tmp_path, monkeypatch):
    data = bundled("data")
    machine = system(tmp_path / "system", f"W:\\134 {data} 9p rw,aname=drvfs;path=W:\\ 0 0\n")
    monkeypatch.setattr(drive, "measure", lambda files, *, budget: drive.Speed(10, 1000, 1.0, 0.01))
    chosen = settings(data).model_copy(update={"data": Settings(data={"root": data, "index": tmp_path / "index"}).data})
    (finding,) = drives.check_drives(Situation(chosen, machine=machine, cache=Cache(tmp_path / "doctor.json"))).findings
    assert (finding.code, finding.level) == ("E832", Level.WARN)
    assert "10 files/s" in finding.message
    assert "an epoch (" in finding.message
    assert "copy it once (0.0 GiB or so; " in finding.remedy
    assert f"{data}/ ~/data/" in finding.remedy or f"cp -r {data}/. ~/data/" in finding.remedy
    assert finding.remedy.endswith("then --set data.root=~/data")
