"""TensorBoard logs: what is written is read back, and no disk, however bad, stops or holds up a search."""

from __future__ import annotations

import io
import json
import math
import os
import resource
import struct
import subprocess
import sys
import threading
import warnings
from pathlib import Path

import numpy as np
import pytest

from policysearch import open_run, train
from policysearch.cli.main import main
from policysearch.report import tensorboard as module
from policysearch.report.tensorboard import TensorBoard

event_pb2 = pytest.importorskip("tensorboardX.proto.event_pb2")
record_writer = pytest.importorskip("tensorboardX.record_writer")
masked_crc32c = record_writer.masked_crc32c


def events(path: Path) -> list:
    """The events of a file, as TensorBoard reads them: it stops at a record that ends early."""
    found, stream = [], io.BytesIO(path.read_bytes())
    while len(head := stream.read(12)) == 12:
        length, mark = struct.unpack("<QI", head)
        assert mark == masked_crc32c(head[:8])
        content, end = stream.read(length), stream.read(4)
        if len(end) < 4:
            break
        assert struct.unpack("<I", end) == (masked_crc32c(content),)
        found.append(event_pb2.Event.FromString(content))
    return found


def scalars(folder: Path) -> dict[int, dict[str, float]]:
    """What TensorBoard shows of a folder: a session that starts at a step hides earlier records from there on."""
    shown: dict[int, dict[str, float]] = {}
    for path in sorted(folder.iterdir()):
        first, *rest = events(path)
        assert first.file_version == "brain.Event:2"
        for event in rest:
            if event.HasField("session_log"):
                assert event.session_log.status == event_pb2.SessionLog.START
                shown = {step: values for step, values in shown.items() if step < event.step}
            else:
                shown[event.step] = {value.tag: value.simple_value for value in event.summary.value}
    return shown


def record(update: int) -> dict[str, float]:
    more = {"kl": 0.01} if update % 3 == 0 else {}
    return {"update": float(update), "cost": math.pi / update, "snr": math.nan if update % 2 else 1.0, **more}


def give(log: TensorBoard, updates: range) -> None:
    for update in updates:
        log(record(update))


def same(shown: dict[str, float], record: dict[str, float]) -> bool:
    """Whether both are equal as float32, NaN included."""
    names = [f"search/{name}" for name in record]
    numbers = np.array(list(record.values()), np.float32)
    return list(shown) == names and np.array_equal(np.array(list(shown.values()), np.float32), numbers, equal_nan=True)


@pytest.mark.parametrize("count", [1, 1000])
def test_every_record_is_read_back_to_float32(count, tmp_path):
    with TensorBoard(tmp_path / "log") as log:
        give(log, range(1, count + 1))
    shown = scalars(tmp_path / "log")
    assert list(shown) == list(range(1, count + 1))
    assert all(same(shown[update], record(update)) for update in shown)
    assert (log.given, log.written, log.dropped) == (count, count, 0)


def test_records_are_there_while_the_search_goes_on(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "INTERVAL", 0.01)
    log = TensorBoard(tmp_path)
    log(record(1))
    wait_until(lambda: log.written == 1)
    assert list(scalars(tmp_path)) == [1]
    log.close()
    log.close()


def wait_until(condition) -> None:
    """Wait until it holds; the test fails if that takes too long."""
    for _ in range(6000):
        if condition():
            return
        threading.Event().wait(0.01)
    pytest.fail("timed out")


def test_a_log_that_goes_on_takes_back_updates_that_are_computed_again(tmp_path):
    with TensorBoard(tmp_path) as log:
        give(log, range(1, 9))
    with TensorBoard(tmp_path) as log:
        log({"update": 6.0, "cost": 42.0})
    shown = scalars(tmp_path)
    assert list(shown) == [1, 2, 3, 4, 5, 6]
    assert shown[6] == {"search/cost": 42.0, "search/update": 6.0}


def test_nothing_is_made_before_there_is_a_record(tmp_path):
    TensorBoard(tmp_path / "log").close()
    assert not list(tmp_path.iterdir())


# bad disks


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs a device that is always full")
def test_a_full_disk_costs_the_log_and_not_the_search(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "INTERVAL", 0.01)
    monkeypatch.setattr(record_writer, "open_file", lambda path: open("/dev/full", "wb", buffering=0))  # noqa: SIM115
    log = TensorBoard(tmp_path)

    def on_update(update):
        log(update)
        if update["update"] == 3:
            wait_until(lambda: log._failure)

    with pytest.warns(UserWarning, match=r"incomplete: .*No space left on device.*The search continues") as told:
        result = train("bowl", "weight_perturbation", budget="30updates", on_update=on_update)
    assert len(told) == 1
    assert len(result.records) == 30
    assert result.evaluation is not None
    with pytest.warns(UserWarning, match=r"lacks 30 of 30 updates: .*No space left") as told:
        log.close()
    assert len(told) == 1
    assert not log._thread.is_alive()
    assert not list(tmp_path.iterdir())


def test_a_disk_that_has_room_again_has_a_whole_log_of_the_rest(tmp_path, monkeypatch):
    """A limit on the size of files acts like a full disk, and can be lifted."""
    monkeypatch.setattr(module, "INTERVAL", 0.01)
    log = TensorBoard(tmp_path)
    log(record(1))
    wait_until(lambda: log.written == 1)
    size = next(tmp_path.iterdir()).stat().st_size
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size + 10, before[1]))
    try:
        log(record(2))
        wait_until(lambda: log._failure)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    with pytest.warns(UserWarning, match="File too large"):
        log(record(3))
    with pytest.warns(UserWarning, match="lacks 1 of 3 updates"):
        log.close()
    assert list(scalars(tmp_path)) == [1, 3]


def test_a_file_that_was_closed_costs_the_log_only(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "INTERVAL", 0.01)
    log = TensorBoard(tmp_path)
    log(record(1))
    wait_until(lambda: log.written == 1)
    log._file.close()
    log(record(2))
    wait_until(lambda: log._failure)
    with pytest.warns(UserWarning, match="closed file"):
        log(record(3))
    with pytest.warns(UserWarning, match="lacks 1 of 3"):
        log.close()
    assert list(scalars(tmp_path)) == [1, 3]


def test_a_folder_that_cannot_be_made_costs_the_log_only(tmp_path):
    (tmp_path / "file").write_text("mine")
    log = TensorBoard(tmp_path / "file" / "log")
    log(record(1))
    with pytest.warns(UserWarning, match=r"lacks 1 of 1 updates: .*Not a directory"):
        log.close()


def test_a_disk_that_hangs_holds_nothing_up_and_memory_stays_bounded(tmp_path, monkeypatch):
    """A pipe without a reader blocks its writer, at the latest when it is full."""
    monkeypatch.setattr(module, "INTERVAL", 0.01)
    monkeypatch.setattr(module, "PATIENCE", 0.05)
    monkeypatch.setattr(module, "WAITING", 100)
    os.mkfifo(tmp_path / "pipe")
    pipes = iter([tmp_path / "pipe"])
    # what follows the pipe is a file again
    monkeypatch.setattr(record_writer, "open_file", lambda path: open(next(pipes, path), "wb", buffering=0))  # noqa: SIM115
    log = TensorBoard(tmp_path / "log")
    log(record(1))
    wait_until(lambda: not log._waiting)
    with pytest.warns(UserWarning, match="more than 100 updates wait") as told:
        give(log, range(2, 1001))
    assert len(told) == 1
    assert len(log._waiting) == 100
    with pytest.warns(UserWarning, match="lacks 1000 of 1000 updates: more than 100"):
        log.close()
    assert log._thread.is_alive()
    # let it end
    with (tmp_path / "pipe").open("rb") as reader:
        reader.read()
    log._thread.join()


def test_where_warnings_are_errors_a_bad_disk_still_stops_nothing(tmp_path, capsys):
    log = TensorBoard(tmp_path)
    log._failure = "it burns"
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        log(record(1))
    assert "it burns" in capsys.readouterr().err
    log.close()


def test_a_process_that_forgets_to_close_leaves_the_log_complete(tmp_path):
    code = (
        "import sys; from policysearch.report.tensorboard import TensorBoard\n"
        "log = TensorBoard(sys.argv[1])\n"
        "for i in range(1, 51): log({'update': float(i)})\n"
        "assert 'jax' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code, str(tmp_path)], check=True)
    assert list(scalars(tmp_path)) == list(range(1, 51))


def test_a_process_killed_while_it_writes_leaves_whole_updates_and_the_next_one_goes_on(tmp_path):
    code = (
        "import sys; from policysearch.report import tensorboard\n"
        "tensorboard.INTERVAL = 0.001\n"
        "log, i = tensorboard.TensorBoard(sys.argv[1]), 0\n"
        "while True:\n"
        "    if len(log._waiting) < 100: i += 1; log({'update': float(i), 'cost': i / 3})\n"
    )
    with subprocess.Popen([sys.executable, "-c", code, str(tmp_path)]) as process:
        wait_until(lambda: any(path.stat().st_size > 100_000 for path in tmp_path.iterdir()))
        process.kill()
    shown = scalars(tmp_path)
    assert list(shown) == list(range(1, len(shown) + 1))
    assert all(same(values, {"update": float(update), "cost": update / 3}) for update, values in shown.items())
    with TensorBoard(tmp_path) as log:
        give(log, range(len(shown) - 5, len(shown) + 5))
    shown_then = scalars(tmp_path)
    assert list(shown_then) == list(range(1, len(shown) + 5))
    assert same(shown_then[len(shown)], record(len(shown)))


# the command line


@pytest.fixture
def own_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", str(tmp_path / "unused"))
    return tmp_path


BOWL = ("train", "bowl", "--method", "weight_perturbation", "--budget", "12updates")


def test_a_run_keeps_scalars_in_its_folder_and_goes_on_writing_them(own_folder, capsys):
    assert main([*BOWL, "--out", "run", "--tensorboard"]) == 0
    assert "scalars: tensorboard --logdir run/tensorboard" in capsys.readouterr().out
    assert main(["resume", "run", "--budget", "15updates"]) == 0
    shown, records = scalars(Path("run/tensorboard")), open_run("run").records
    assert list(shown) == list(range(1, 16))
    assert all(same(shown[int(r["update"])], r) for r in records)


def test_scalars_of_several_runs_stand_side_by_side_and_can_begin_with_a_resumption(own_folder):
    assert main([*BOWL, "--out", "one", "--tensorboard", "logs", "--json"]) == 0
    assert main([*BOWL, "--out", "two"]) == 0
    assert main(["resume", "two", "--budget", "15updates", "--tensorboard", "logs"]) == 0
    assert main(["resume", "two", "--budget", "17updates"]) == 0
    assert list(scalars(Path("logs/one"))) == list(range(1, 13))
    assert list(scalars(Path("logs/two"))) == list(range(13, 18))
    assert not Path("two/tensorboard").exists()


def test_a_run_without_scalars_has_none(own_folder):
    assert main([*BOWL, "--out", "run"]) == 0
    assert not Path("run/tensorboard").exists()
    assert open_run("run").configuration["tensorboard"] is None


def test_without_the_extra_the_error_says_what_to_install_and_a_resumption_goes_on(own_folder, monkeypatch, capsys):
    assert main([*BOWL, "--out", "run", "--tensorboard"]) == 0
    monkeypatch.setitem(sys.modules, "tensorboardX", None)
    with pytest.raises(ImportError, match=r"pip install 'policysearch\[tensorboard\]'"):
        TensorBoard("log")
    monkeypatch.setattr("policysearch.cli.shared.find_spec", lambda name: None)
    capsys.readouterr()
    assert main([*BOWL, "--out", "other", "--tensorboard"]) == 2
    assert "pip install 'policysearch[tensorboard]'" in capsys.readouterr().err
    assert not Path("other").exists()
    assert main(["resume", "run", "--budget", "15updates"]) == 0
    assert "warning: A TensorBoard log needs tensorboardX: pip install" in capsys.readouterr().err
    assert len(open_run("run").records) == 15


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs a device that is always full")
def test_a_run_on_a_full_disk_for_scalars_ends_as_it_would_have(own_folder, monkeypatch, capsys):
    monkeypatch.setattr(record_writer, "open_file", lambda path: open("/dev/full", "wb", buffering=0))  # noqa: SIM115
    assert main([*BOWL, "--out", "whole", "--json"]) == 0
    assert main([*BOWL, "--out", "full", "--tensorboard", "--json"]) == 0
    log = own_folder / "full" / "tensorboard"
    assert f"warning: The TensorBoard log in {log} lacks 12 of 12 updates" in capsys.readouterr().err
    assert Path("full/policy.safetensors").read_bytes() == Path("whole/policy.safetensors").read_bytes()
    assert len(Path("full/metrics.jsonl").read_text().splitlines()) == 12


def test_the_updates_of_a_rig_are_scalars_too(own_folder, capsys):
    assert main(["new", "rig", "--parameters", "kp=1:0:5", "--rollouts", "4", "--budget", "8"]) == 0
    command = ["--", sys.executable, "-c", "print(({kp} - 2) ** 2)"]
    assert main(["run", "rig", "--tensorboard", *command]) == 0
    assert "scalars: tensorboard --logdir rig/tensorboard" in capsys.readouterr().out
    assert main(["run", "rig", "--budget", "12", "--tensorboard", "logs", "--json", *command]) == 0
    assert json.loads(capsys.readouterr().out)["updates"] == 3
    records = open_run("rig").records
    shown = scalars(Path("rig/tensorboard")) | scalars(Path("logs/rig"))
    assert list(scalars(Path("logs/rig"))) == [3]
    assert all(same(shown[int(record["update"])], record) for record in records)


@pytest.mark.parametrize(
    ("command", "instead"),
    [
        (["compare", "bowl", "--methods", "ars", "--tensorboard"], "policysearch train TASK --method M --tensorboard"),
        (["new", "rig", "--parameters", "kp=1", "--tensorboard=logs"], "policysearch run DIR --tensorboard"),
        (["tell", "rig", "0", "--cost", "1", "--tensorboard"], "policysearch run DIR --tensorboard"),
    ],
)
def test_commands_without_a_log_say_what_there_is_instead(own_folder, capsys, command, instead):
    assert main(command) == 2
    said = capsys.readouterr().err
    assert "--tensorboard is not for this command." in said
    assert instead in said
