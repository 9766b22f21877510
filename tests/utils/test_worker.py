"""An object in a process of its own: answers, errors and deaths."""
import os
import signal
import subprocess
import sys
import time

import pytest

from mobileone_mm.utils.errors import ArgumentError, WorkerError
from mobileone_mm.utils.worker import Worker


class Counter:

    def __init__(self, count=0):
        if count < 0:
            raise ArgumentError('less than nothing')
        self.count = count

    def add(self, number):
        print('adding')
        self.count += number
        return self.count

    def divide(self, number):
        return self.count / number

    def sleeping_child(self):
        return subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(600)']).pid

    def abort(self):
        os.abort()


def is_alive(pid):
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    with open(f'/proc/{pid}/stat') as file:
        return file.read().rpartition(')')[2].split()[0] != 'Z'


def test_an_object_elsewhere(tmp_path, monkeypatch):
    monkeypatch.delenv('PYTHONUNBUFFERED', raising=False)  # with which nothing that it printed could be lost
    with Worker(tmp_path / 'log', Counter, 1) as worker:
        assert [worker.call('add', 2), worker.call('add', 4)] == [3, 7]
        with pytest.raises(WorkerError, match=r'^ZeroDivisionError: division by zero\. The traceback is in .*log'):
            worker.call('divide', 0)
        assert worker.call('divide', 7) == 1  # it goes on
        child = worker.call('sleeping_child')
    deadline = time.monotonic() + 10
    while is_alive(child) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not is_alive(child)
    log = (tmp_path / 'log').read_text()
    assert 'adding' in log and 'Traceback' in log


def test_our_errors_come_as_they_are(tmp_path):
    with pytest.raises(ArgumentError, match='^less than nothing$'):
        Worker(tmp_path / 'log', Counter, -1)


def test_an_abort_is_an_error(tmp_path):
    with Worker(tmp_path / 'log', Counter) as worker:
        for _ in range(2):
            with pytest.raises(WorkerError, match=f'ended by {signal.SIGABRT.name}.*log'):
                worker.call('abort')
