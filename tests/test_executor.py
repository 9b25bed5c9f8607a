"""Tasks side by side: in their order, those that need others after them, and with the same bits as one after the other."""

import json
import runpy
import subprocess
import sys
import threading
import time

import pytest
import torch

from nrms import NrmsError, pipeline
from nrms.config import resolve
from nrms.runtime import Run, child_processes, executor, run_folder
from nrms.runtime.checkpoints import load_checkpoint
from nrms.runtime.executor import Local, Task, executor_for, stopped_by
from nrms.train import train


def run(slots, *tasks):
    """{name: outcome} of the tasks, in the order in which they ended."""
    outcomes = {}
    Local(slots).run(tasks, lambda outcome: outcomes.update({outcome.task.name: outcome}))
    return outcomes


def failing(text):
    def work():
        raise NrmsError(text)

    return work


@pytest.mark.parametrize("slots", [1, 2, 5])
def test_no_more_tasks_than_slots_at_a_time(slots):
    """As many tasks as there are slots run at once, never more, and all are done."""
    most, now, lock = [0], [0], threading.Lock()

    def work():
        with lock:
            now[0] += 1
            most[0] = max(most[0], now[0])
        time.sleep(0.05)
        with lock:
            now[0] -= 1

    assert len(run(slots, *(Task(str(i), work) for i in range(6)))) == 6
    assert most[0] == slots


def test_a_task_waits_for_what_it_needs():
    """It begins after all of its needs, and as soon as they are done; the others keep the order of the list."""
    began = []
    tasks = [Task("c", lambda: began.append("c"), ("b",)), Task("a", lambda: began.append("a")), Task("b", lambda: began.append("b"))]
    outcomes = run(1, *tasks)
    assert began == list(outcomes) == ["a", "b", "c"]


def test_a_failing_task_does_not_stop_the_others():
    """Those that need it, at any distance, fail with it and say for whose sake; the others are done."""
    tasks = [Task("bad", failing("no room")), Task("next", lambda: 1, ("bad",)), Task("last", lambda: 1, ("next", "good")), Task("good", lambda: 2)]
    outcomes = run(2, *tasks)
    assert outcomes["good"].value == 2 and str(outcomes["bad"].error) == "no room"
    assert "next needs bad, which failed: no room" in str(outcomes["next"].error)
    assert "last needs next, which failed" in str(outcomes["last"].error)


def test_what_nobody_does_is_not_waited_for():
    """A circle of needs, or one that is not among the tasks, is an error and no wait without an end."""
    with pytest.raises(RuntimeError, match="a needs b"):
        run(1, Task("a", lambda: 1, ("b",)), Task("b", lambda: 1, ("a",)))


def test_who_is_told_to_end_ends_all():
    """What is under way is told to stop and waited for; what has not begun does not begin."""
    stop, ended, begun = threading.Event(), [], threading.Event()

    def work():
        with stopped_by(stop.set):
            begun.set()
            stop.wait(60)
        ended.append(executor.is_stopping())

    def interrupted(outcome):
        begun.wait(60)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        Local(2).run([Task("long", work), Task("short", lambda: None), Task("never", lambda: ended.append("never"))], interrupted)
    assert ended == [True]


def test_an_executor_is_named():
    """`local:N` is taken at its word, `auto` asks how many; anything else is refused."""
    assert executor_for("local:3", lambda: 1).slots == 3 and str(executor_for("auto", lambda: 2)) == "local:2"
    for wrong in ("local:0", "local:x", "slurm"):
        with pytest.raises(NrmsError, match="local:N"):
            executor_for(wrong, lambda: 1)


def test_threads_are_those_of_the_experiment():
    """Small encoders, frozen ones and ids train with one thread; a large encoder that is tuned with as many as torch takes."""
    assert resolve(3, "newsroom").threads == resolve("idrec_sasrec", "movies").threads == resolve(2, "mind-small").threads == 1
    assert resolve(2, "mind-small").encoding_threads is resolve(3, "mind-small").threads is resolve(4, "newsroom", bert="/a/folder").threads is None
    assert resolve("missrec", "scientific").encoding_threads == 1


def test_threads_are_not_those_of_whoever_starts_it(place, threads):
    """Where torch would compute with two threads, the run still has the one of its experiment, and says so; afterwards torch has two again."""
    run = train(resolve(4, "newsroom-tiny", epochs=1, device="cpu"))
    assert run.record["threads"] == 1 and torch.get_num_threads() == 2


PLAIN = """
from nrms.runtime.child_processes import call_in_process
print("begun", flush=True)
for threads in (1, 2):
    call_in_process("nrms.runtime.progress:say_waiting", {"text": "heard by nobody"}, "a call", threads)
try:
    call_in_process("nrms.config.params_files:load_dataset", {"dataset": "no-such"}, "a failing call", 1)
except Exception as error:
    print(error)
"""


def test_a_plain_script_starts_processes(tmp_path):
    """One that does not say what to do only when it is run itself is not run again by them; what fails in one says why here."""
    (tmp_path / "plain.py").write_text(PLAIN)
    done = subprocess.run([sys.executable, tmp_path / "plain.py"], capture_output=True, text=True, timeout=300)
    assert done.stdout.count("begun") == 1 and "a failing call: There is no data set `no-such`" in done.stdout and not done.stderr


LOADED = """
import json, os, sys
from pathlib import Path
loaded = ["torch" in sys.modules, [name for name in sys.modules if name.startswith("nrms.") and "runtime" not in name and "config" not in name]]
Path(os.environ["LOADED"]).write_text(json.dumps(loaded))
"""


def test_libraries_are_there_and_the_package_is_read_anew(tmp_path):
    """A forked process has torch, and nothing of this package that computes: it may have been changed since."""
    (tmp_path / "loaded.py").write_text(LOADED)
    child_processes.import_ahead()
    variables = {"LOADED": str(tmp_path / "loaded.json")}
    assert child_processes.Child(runpy.run_path, str(tmp_path / "loaded.py"), threads=1, variables=variables).wait() == 0
    assert json.loads((tmp_path / "loaded.json").read_text()) == [True, []]


def test_side_by_side_is_one_after_the_other(finished, place, monkeypatch):
    """Two experiments whose notebooks run at once end with the weights and the rows of two that were trained one after the other, bit for bit."""
    real, said = pipeline.execute, []
    monkeypatch.setattr(pipeline, "execute", lambda name, *rest: real(name, *rest) if name in ("train", "eval") else None)
    assert pipeline.run(list(finished), "newsroom-tiny", [0], on="local:2", say=said.append, epochs=1, device="cpu") == 0, said
    assert said[0].startswith("local:2: 2 of ")
    for serial in finished.values():
        beside = Run(run_folder("newsroom-tiny", serial.folder.parent.name, 0))
        weights, same = (load_checkpoint(r.folder / "checkpoint" / "best.safetensors")[0] for r in (serial, beside))
        assert weights.keys() == same.keys() and all(torch.equal(value, same[name]) for name, value in weights.items())
        assert (serial.folder / "rows.parquet").read_bytes() == (beside.folder / "rows.parquet").read_bytes()


def test_an_experiment_without_its_encoder_says_so(place, monkeypatch):
    """Where an encoder cannot be made, experiments that need it fail in their record too, and the others go on."""
    monkeypatch.setattr(pipeline, "execute", lambda *_: None)
    monkeypatch.setattr(pipeline, "data_folder", lambda dataset: place / "elsewhere")  # no encoder seems to be there
    monkeypatch.setattr(pipeline, "call_in_process", lambda *words: failing("no room")() if words[1].get("role") == "vit" else None)
    said = []
    assert pipeline.run([2, 4], "newsroom-tiny", [0], say=said.append, epochs=1) > 0
    error = Run(run_folder("newsroom-tiny", "exp2-epochs1", 0)).record["error"]
    assert "newsroom-tiny/exp2-epochs1/seed0 needs newsroom-tiny: vit, which failed: no room" in error
    assert any(line.startswith("done    newsroom-tiny/exp4-epochs1/seed0") for line in said)
