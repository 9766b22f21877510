"""An object in a process of its own: an abort there, of a library in C++, is an error here."""
import os
import pickle
import signal
import subprocess
import sys
import traceback
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from .errors import MobileOneError, WorkerError
from .files import disk_errors, make_folder

_SECONDS_TO_END = 10


class Worker:
    """Makes an object in a new process, and calls its methods there. A context manager, whose end ends the process.

    The process is in a session of its own (on POSIX): Ctrl-C reaches this process only, which ends the worker with all
    processes that the worker started. If this process is killed, the worker ends with its current call.

    Args:
        log: File to which the process prints, and writes the tracebacks of its errors.
        make: A class, or another function at the top of a module.
        *args: Its arguments; all must be picklable.

    Raises:
        MobileOneError: One of ours, as ``make`` raised it.
        WorkerError: Any other error there; or the process ended.
        DiskError: ``log`` cannot be written.
    """

    def __init__(self, log: Path, make: Callable, *args):
        self._log = log
        make_folder(log.parent)
        with disk_errors(log), open(log, 'ab') as file:
            self._process = subprocess.Popen([sys.executable, '-m', __name__], stdin=subprocess.PIPE,
                                             stdout=subprocess.PIPE, stderr=file, start_new_session=True)
        try:
            self._ask(make, *args)
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> 'Worker':
        return self

    def __exit__(self, *_) -> None:
        self.close()

    def call(self, method: str, *args):
        """What a method of the object returns; raises as the constructor does."""
        return self._ask(method, *args)

    def close(self) -> None:
        """End the process, and those that it started."""
        with suppress(ProcessLookupError):
            if hasattr(os, 'killpg'):
                os.killpg(self._process.pid, signal.SIGKILL)
            else:
                self._process.kill()
        self._process.wait()
        self._process.stdout.close()
        with suppress(BrokenPipeError):  # of what was not read any more
            self._process.stdin.close()

    def _ask(self, *request):
        try:
            pickle.dump(request, self._process.stdin)
            self._process.stdin.flush()
            is_well, answer = pickle.load(self._process.stdout)
        except (EOFError, BrokenPipeError, pickle.UnpicklingError) as error:
            raise WorkerError(f'The process for it {self._end()}. What it printed is in {str(self._log)!r}.') from error
        if not is_well:
            if isinstance(answer, MobileOneError):
                raise answer
            raise WorkerError(f'{answer}. The traceback is in {str(self._log)!r}.')
        return answer

    def _end(self) -> str:
        try:
            code = self._process.wait(_SECONDS_TO_END)
        except subprocess.TimeoutExpired:
            return 'does not answer any more'
        return f'ended by {signal.Signals(-code).name}' if code < 0 else f'ended with exit status {code}'


def _serve() -> None:
    """The other side: answer requests until there are no more."""
    requests, answers = os.fdopen(os.dup(0), 'rb'), os.fdopen(os.dup(1), 'wb')
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    os.dup2(2, 1)  # what libraries print goes to the log
    sys.stdout.reconfigure(line_buffering=True)  # at once: the process may abort, and is killed in the end
    made = None
    while True:
        try:
            what, *args = pickle.load(requests)
        except EOFError:
            return
        try:
            if made is None:
                made, answer = what(*args), (True, None)
            else:
                answer = True, getattr(made, what)(*args)
        except MobileOneError as error:
            traceback.print_exc()
            answer = False, error
        except Exception as error:  # whatever a library has against its input
            traceback.print_exc()
            answer = False, f'{type(error).__name__}: {" ".join(str(error).split())[:300]}'
        pickle.dump(answer, answers)
        answers.flush()


if __name__ == '__main__':
    _serve()
