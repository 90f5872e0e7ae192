"""Who trains which cell: a storage of Optuna's, so that several workers and machines share a study.

Each cell is a trial that waits, runs, and is complete or has failed. A worker renews the heartbeat of what it runs; one
that stops doing so is dead, and its trials wait again as new ones. Of several trials of a cell, as two workers may add
at once, the first one counts. So each cell has one owner at a time, whatever dies when.
"""

import functools
import warnings
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple, ParamSpec, TypeVar

import optuna
import sqlalchemy
from filelock import FileLock
from optuna.exceptions import ExperimentalWarning, StorageInternalError, UpdateFinishedTrialError
from optuna.storages import RDBStorage
from optuna.trial import FrozenTrial, TrialState, create_trial

from smartfast.errors import UserError
from smartfast.study.identity import name_in_storage

BEAT_SEC = 10
BEATS_UNTIL_DEAD = 6
_TIMEOUT_SEC = 60  # that SQLite waits for other workers
_LOST = (sqlalchemy.exc.SQLAlchemyError, StorageInternalError)
_CELL, _FAILED, _SURPLUS, _AFTER = "cell", "failed", "surplus", "after"

Arguments = ParamSpec("Arguments")
Returned = TypeVar("Returned")


class Claim(NamedTuple):
    """A cell that this worker runs."""

    trial_id: int
    cell: str


def _says_what_failed(method: Callable[Arguments, Returned]) -> Callable[Arguments, Returned]:
    """Raise UserError where the storage is not there any more, or its disk is full."""

    @functools.wraps(method)
    def reaching(*args: Arguments.args, **kwargs: Arguments.kwargs) -> Returned:
        try:
            return method(*args, **kwargs)
        except _LOST as error:
            hint = "expected a database that stays; the trainings have saved, and the same command goes on"
            raise UserError(f"storage: {_reason(error)}, {hint}") from error

    return reaching


class Claims:
    """The claims of one study; every method raises UserError where the storage is lost.

    Args:
        out: The study's folder.
        url: Of the storage, None = SQLite in that folder.
        name: Of the study; a storage knows it by its folder too.
        beat_sec: Seconds between two heartbeats; after BEATS_UNTIL_DEAD of them a worker counts as dead.

    Raises:
        UserError: The storage cannot be opened, or the folder is another study's.
    """

    def __init__(self, out: Path, url: str | None, name: str, *, beat_sec: int = BEAT_SEC) -> None:
        out.mkdir(parents=True, exist_ok=True)
        self.beat_sec = beat_sec
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        with FileLock(out / ".claims.lock"), _quietly():  # two workers would make the same tables
            unique = name_in_storage(out, name)
            self._storage, self._study = _open(url or f"sqlite:///{out.resolve() / 'study.db'}", beat_sec, unique)
        self._study_id = self._study._study_id

    @_says_what_failed
    def add(self, cells: Mapping[str, bool]) -> None:
        """Let cells wait that do not yet; of one that is finished only where its value is True, for another try."""
        newest = {cell: trials[-1] for cell, trials in self._trials().items()}
        for cell, again in cells.items():
            attributes: dict[str, object] = {_CELL: cell}
            if cell in newest:
                if not (again and newest[cell].state.is_finished()):
                    continue
                attributes[_AFTER] = newest[cell].number
            waiting = create_trial(state=TrialState.WAITING, user_attrs=attributes)
            self._storage.create_new_trial(self._study_id, waiting)

    @_says_what_failed
    def claim(self, cells: Collection[str]) -> Claim | None:
        """One of the cells that waited and is this worker's now, None where none of them waits."""
        with _quietly():
            optuna.storages.fail_stale_trials(self._study)
        for trial in self._storage.get_all_trials(self._study_id, deepcopy=False, states=(TrialState.WAITING,)):
            if trial.user_attrs[_CELL] not in cells:
                continue
            self._storage.record_heartbeat(trial._trial_id)  # before it runs, lest it be taken for a dead worker's
            try:
                is_mine = self._storage.set_trial_state_values(trial._trial_id, TrialState.RUNNING)
            except UpdateFinishedTrialError:
                continue
            if is_mine and self._is_first(trial):
                return Claim(trial._trial_id, trial.user_attrs[_CELL])
            if is_mine:
                self._storage.set_trial_user_attr(trial._trial_id, _SURPLUS, True)
                self._storage.set_trial_state_values(trial._trial_id, TrialState.FAIL)
        return None

    @_says_what_failed
    def beat(self, claim: Claim) -> bool:
        """Show that the worker lives; False where another one has the cell now, as after this machine slept."""
        self._storage.record_heartbeat(claim.trial_id)
        return not self._storage.get_trial(claim.trial_id).state.is_finished()

    @_says_what_failed
    def complete(self, claim: Claim) -> None:
        """The cell is done."""
        self._finish(claim, TrialState.COMPLETE)

    @_says_what_failed
    def fail(self, claim: Claim, error: str) -> None:
        """The cell has failed, and does not wait again until it is added so."""
        self._finish(claim, TrialState.FAIL, error)

    @_says_what_failed
    def give_back(self, claim: Claim) -> None:
        """The cell waits again, for whoever comes."""
        self._finish(claim, TrialState.WAITING)

    @_says_what_failed
    def is_open(self, cells: Collection[str]) -> bool:
        """Whether any of the cells waits or is run by some worker, be it a dead one until that shows."""
        trials = self._trials()
        return any(cell not in trials or not trials[cell][-1].state.is_finished() for cell in cells)

    def _finish(self, claim: Claim, state: TrialState, error: str | None = None) -> None:
        try:
            if error is not None:
                self._storage.set_trial_user_attr(claim.trial_id, _FAILED, error)
            self._storage.set_trial_state_values(claim.trial_id, state)
        except UpdateFinishedTrialError:
            return  # it was taken for dead; the next owner finds what it left in the run folder

    def _trials(self) -> dict[str, list[FrozenTrial]]:
        """The trials of each cell that count, in their order."""
        found: dict[str, list[FrozenTrial]] = {}
        for trial in self._storage.get_all_trials(self._study_id, deepcopy=False):
            is_dead = trial.state == TrialState.FAIL and _FAILED not in trial.user_attrs
            if not is_dead and _SURPLUS not in trial.user_attrs:
                found.setdefault(trial.user_attrs[_CELL], []).append(trial)
        return found

    def _is_first(self, trial: FrozenTrial) -> bool:
        """Whether no other trial of the cell is older, but for those that it was added after."""
        others = self._trials().get(trial.user_attrs[_CELL], [])
        return not any(trial.user_attrs.get(_AFTER, -1) < other.number < trial.number for other in others)


def _open(url: str, beat_sec: int, name: str) -> tuple[RDBStorage, optuna.Study]:
    try:
        parsed = sqlalchemy.make_url(url)
        shown = parsed.render_as_string(hide_password=True)
        is_sqlite = parsed.get_backend_name() == "sqlite"
        if parsed.drivername == "postgresql":
            url = parsed.set(drivername="postgresql+psycopg").render_as_string(hide_password=False)
        # Python's driver would begin a transaction only where it writes.
        options = {"timeout": _TIMEOUT_SEC, "isolation_level": None} if is_sqlite else {}
        storage = RDBStorage(
            url,
            {"connect_args": options, "pool_pre_ping": True},  # a server may restart between two heartbeats
            heartbeat_interval=beat_sec,
            grace_period=BEATS_UNTIL_DEAD * beat_sec,
        )
        study = optuna.create_study(storage=storage, study_name=name, load_if_exists=True)
    except ImportError as error:
        raise UserError(f"storage: {shown} needs a driver, expected `pip install 'psycopg[binary]'`") from error
    except sqlalchemy.exc.ArgumentError as error:
        raise UserError("storage is no URL, expected such as postgresql://user@host/database") from error
    except (*_LOST, optuna.exceptions.OptunaError) as error:
        raise UserError(f"storage: {shown}: {_reason(error)}, expected a database that can be opened") from error
    if is_sqlite:
        # It has no locks of rows: what reads first and then writes, as a claim does, needs the file for itself.
        sqlalchemy.event.listen(
            storage.engine, "begin", lambda connection: connection.exec_driver_sql("BEGIN IMMEDIATE")
        )
    return storage, study


def _reason(error: BaseException) -> str:
    """What the database said, which Optuna and SQLAlchemy wrap."""
    cause = error.__cause__ if isinstance(error, StorageInternalError) and error.__cause__ else error
    return str(getattr(cause, "orig", None) or cause).strip().split("\n")[0]


@contextmanager
def _quietly() -> Iterator[None]:
    """Without Optuna's notice that heartbeats are experimental."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ExperimentalWarning)
        yield
