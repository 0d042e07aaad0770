"""The study that processes share, any of which may be killed at any moment."""

import fcntl
import multiprocessing
import random
import threading
import time
from types import SimpleNamespace

import pytest
from conftest import SPACE
from optuna.trial import TrialState

from digitsum.errors import InputError
from digitsum.tuning.report import state_of
from digitsum.tuning.search import Pruned, Report, Search
from digitsum.tuning.space import build_space


def states(search):
    return [state_of(trial) for trial in search.study.trials]


MODULE = SimpleNamespace(epoch_metrics={"val/mae": 2.0})


def fake_report(prunes, epochs=3, monitor="val/mae"):
    study = SimpleNamespace(direction=SimpleNamespace(name="MINIMIZE"))
    trial = SimpleNamespace(told=[], should_prune=lambda: prunes, study=study)
    trial.report = lambda value, step: trial.told.append((step, value))
    report = Report(trial, monitor)
    trainers = [SimpleNamespace(current_epoch=epoch, max_epochs=epochs) for epoch in range(epochs)]
    return trial, report, trainers


def test_each_epoch_is_reported():
    trial, report, trainers = fake_report(prunes=False)
    for trainer in trainers:
        report.on_train_epoch_end(trainer, MODULE)
    assert trial.told == [(1, 2.0), (2, 2.0), (3, 2.0)]


def test_a_hopeless_trial_is_stopped_unless_it_has_trained_all_its_epochs():
    _, report, trainers = fake_report(prunes=True)
    with pytest.raises(Pruned) as caught:
        report.on_train_epoch_end(trainers[0], MODULE)
    assert (caught.value.epoch, caught.value.best) == (1, 2.0)
    report.on_train_epoch_end(trainers[-1], MODULE)


def proposals(search, count, **more):
    found = []
    opened = search(**more)
    for number in range(count):
        with opened.next_trial(count) as trial:
            found.append(trial.params)
            opened.tell(trial, float(number))
    return found


def test_one_process_proposes_the_same_again_and_another_seed_does_not(search, tmp_path):
    first = proposals(search, 12)
    (tmp_path / "study").rename(tmp_path / "other")
    assert proposals(search, 12) == first
    (tmp_path / "study").rename(tmp_path / "another")
    assert proposals(search, 12, seed=1)[0] != first[0]


def test_processes_that_start_together_propose_different_settings(search):
    with search().next_trial(9) as one, search().next_trial(9) as two:
        assert one.params != two.params


def test_trials_that_failed_are_not_counted_as_finished(search):
    opened = search()
    with opened.next_trial(2) as trial:
        opened.tell(trial, reason="too hot")
    with opened.next_trial(2) as trial:
        opened.tell(trial, 1.0)
    with opened.next_trial(2) as trial:
        trial.report(3.0, 1)
        opened.tell(trial)
    with opened.next_trial(2) as trial:
        assert trial is None
    assert states(opened) == ["failed", "complete", "pruned"]
    assert opened.count("complete", "pruned") == 2


def test_two_processes_do_not_run_more_trials_than_asked_for(search):
    with search().next_trial(1) as one:
        assert one is not None
        with search().next_trial(1) as two:
            assert two is None


def test_the_trial_of_a_dead_process_is_failed_and_repeated_and_that_of_a_live_one_is_not(search):
    dead = search().study.ask(build_space(SPACE))  # nobody holds its folder
    opened = search()
    with opened.next_trial(9) as again, search().next_trial(9) as another:
        assert again.params == dead.params != another.params
        assert states(opened) == ["interrupted", "running", "running"]
        assert again.user_attrs == {"repeats": 0}
        opened.tell(again, 1.0)


def test_a_repetition_killed_while_it_drew_its_settings_is_repeated_with_all_of_them(search):
    study = search().study
    lost = study.ask(build_space(SPACE))
    study.tell(lost, state=TrialState.FAIL)
    study.enqueue_trial(lost.params, user_attrs={"repeats": lost.number})
    study.ask()  # and draws none
    with search().next_trial(9) as again:
        assert again.params == lost.params
        assert again.user_attrs == {"repeats": 1}


def test_a_process_killed_between_a_repetition_and_the_failure_of_what_it_repeats_repeats_it_once(search):
    study = search().study
    dead = study.ask(build_space(SPACE))
    study.enqueue_trial(dead.params, user_attrs={"repeats": dead.number})
    opened = search()
    with opened.next_trial(9) as again, opened.next_trial(9) as another:
        assert again.params == dead.params != another.params
        assert states(opened) == ["interrupted", "running", "running"]


def test_a_trial_that_was_finished_when_the_signal_came_is_not_repeated(search):
    opened = search()
    with opened.next_trial(9) as trial:
        opened.tell(trial, 1.0)
        opened.repeat(trial.number)
    assert states(opened) == ["complete"]


def test_a_process_between_two_trials_is_waited_for(search, tmp_path):
    opened = search()
    with (tmp_path / "study" / ".lock").open("a") as file:  # as another process holds it
        fcntl.flock(file, fcntl.LOCK_EX)
        threading.Timer(0.5, fcntl.flock, [file, fcntl.LOCK_UN]).start()
        begin = time.monotonic()
        with opened.next_trial(1) as trial:
            assert trial is not None
        assert time.monotonic() - begin > 0.4


def test_what_a_process_that_was_killed_while_it_wrote_leaves_holds_up_nobody(search, tmp_path):
    search()
    begin = time.monotonic()
    for path in ("journal.log.lock", ".lock"):
        (tmp_path / "study" / path).touch()
    with search().next_trial(1) as trial:
        assert trial is not None
    assert time.monotonic() - begin < 10


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"settings": {"seed": 1}}, "seed=0, got 1"),
        ({"settings": {"seed": 0, "model.lr": 1}}, "model.lr=nothing, got 1"),
        ({"space": {key: SPACE[key] for key in list(SPACE)[:3]}}, "search.model.pooling="),
        ({"space": {**SPACE, "model.hidden_units": {"type": "int", "low": 8, "high": 65}}}, "high=65"),
    ],
)
def test_a_study_with_another_space_or_other_settings_is_refused_in_one_line(search, change, message):
    search()
    search()
    with pytest.raises(InputError, match="this study was begun with") as caught:
        search(**change)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_study_survives_a_line_that_was_cut_short(search, tmp_path):
    opened = search()
    with opened.next_trial(9) as trial:
        opened.tell(trial, 1.0)
    with (tmp_path / "study" / "journal.log").open("ab") as file:
        file.write(b'{"op_code": 4, "wor')
    for _ in range(2):
        opened = search()
        with opened.next_trial(9) as trial:
            opened.tell(trial, 2.0)
    assert states(search()) == ["complete"] * 3


def test_a_damaged_study_is_one_line(search, tmp_path):
    search()
    path = tmp_path / "study" / "journal.log"
    path.write_bytes(b"?" + path.read_bytes())
    with pytest.raises(InputError, match="expected a study's journal"):
        search()


def test_the_best_trial_alone_keeps_its_checkpoints(search):
    opened = search()
    for value in (3.0, 1.0, 2.0):
        with opened.next_trial(3) as trial:
            (opened.folder_of(trial.number) / "checkpoints").mkdir()
            opened.tell(trial, value)
    assert [opened.folder_of(number).joinpath("checkpoints").exists() for number in range(3)] == [False, True, False]


def work(folder, num_trials):
    """Search until enough trials are finished; in a process of its own."""
    found = Search(folder, build_space(SPACE), {"seed": 0})
    while True:
        with found.next_trial(num_trials) as trial:
            if trial is None:
                return
            for epoch in range(3):
                trial.report(1.0, epoch)
                time.sleep(0.02)
            found.tell(trial, 1.0)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_two_processes_killed_at_any_moment_finish_as_many_trials_as_asked_for_and_repeat_what_was_lost(
    search, tmp_path
):
    context, draw = multiprocessing.get_context("fork"), random.Random(0)
    search()
    running = []
    for _ in range(30):
        while len(running) < 2:
            running.append(context.Process(target=work, args=(tmp_path / "study", 200)))
            running[-1].start()
        time.sleep(draw.uniform(0.01, 0.3))
        process = running.pop(draw.randrange(2))
        process.kill()
        process.join()
    running[0].join(timeout=120)
    trials = search().study.trials
    found = [state_of(trial) for trial in trials]
    assert found.count("complete") == 200
    assert found.count("interrupted") == len(trials) - 200 > 10
    repeats = {trial.user_attrs["repeats"]: trial for trial in trials if "repeats" in trial.user_attrs}
    lost = [trial for trial in trials if state_of(trial) == "interrupted"]
    assert repeats.keys() == {trial.number for trial in lost if trial.params or "repeats" in trial.user_attrs}
    for trial in lost:
        last = trial
        while last.number in repeats:  # a repetition may be killed, too, before it has all of its settings
            last = repeats[last.number]
        assert last.params.items() >= trial.params.items()
