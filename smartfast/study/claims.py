"""Who trains which cell: a storage of Optuna's, so that several workers and machines share a study.

Each cell is a trial that waits, runs, and is complete or has failed. A worker renews the heartbeat of what it runs; one
that stops doing so is dead, and its trials wait again as new ones. Of several trials of a cell, as two workers may add
at once, the first one counts. So each cell has one owner at a time, whatever dies when.
"""

import warnings
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import optuna
import sqlalchemy
from filelock import FileLock
from optuna.exceptions import ExperimentalWarning, UpdateFinishedTrialError
from optuna.storages import RDBStorage
from optuna.trial import FrozenTrial, TrialState, create_trial

from smartfast.errors import UserError

BEAT_SEC = 10
BEATS_UNTIL_DEAD = 6
_TIMEOUT_SEC = 60  # that SQLite waits for other workers
_CELL, _FAILED, _SURPLUS, _AFTER = "cell", "failed", "surplus", "after"


class Claim(NamedTuple):
    """A cell that this worker runs."""

    trial_id: int
    cell: str


class Claims:
    """The claims of one study.

    Args:
        out: The study's folder.
        url: Of the storage, None = SQLite in that folder.
        name: Of the study in the storage.
        beat_sec: Seconds between two heartbeats; after BEATS_UNTIL_DEAD of them a worker counts as dead.

    Raises:
        UserError: The storage cannot be opened.
    """

    def __init__(self, out: Path, url: str | None, name: str, *, beat_sec: int = BEAT_SEC) -> None:
        out.mkdir(parents=True, exist_ok=True)
        self.beat_sec = beat_sec
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        with FileLock(out / ".claims.lock"), _quietly():  # two workers would make the same tables
            self._storage = _open(url or f"sqlite:///{out.resolve() / 'study.db'}", beat_sec)
            self._study = optuna.create_study(storage=self._storage, study_name=name, load_if_exists=True)
        self._study_id = self._storage.get_study_id_from_name(name)

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

    def claim(self, *, but: Collection[str] = ()) -> Claim | None:
        """A cell that waited and is this worker's now, None where none waits but those of `but`."""
        with _quietly():
            optuna.storages.fail_stale_trials(self._study)
        for trial in self._storage.get_all_trials(self._study_id, deepcopy=False, states=(TrialState.WAITING,)):
            if trial.user_attrs[_CELL] in but:
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

    def beat(self, claim: Claim) -> bool:
        """Show that the worker lives; False where another one has the cell now, as after this machine slept."""
        self._storage.record_heartbeat(claim.trial_id)
        return not self._storage.get_trial(claim.trial_id).state.is_finished()

    def complete(self, claim: Claim) -> None:
        """The cell is done."""
        self._finish(claim, TrialState.COMPLETE)

    def fail(self, claim: Claim, error: str) -> None:
        """The cell has failed, and does not wait again until it is added so."""
        self._finish(claim, TrialState.FAIL, error)

    def give_back(self, claim: Claim) -> None:
        """The cell waits again, for whoever comes."""
        self._finish(claim, TrialState.WAITING)

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


def _open(url: str, beat_sec: int) -> RDBStorage:
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
            {"connect_args": options},
            heartbeat_interval=beat_sec,
            grace_period=BEATS_UNTIL_DEAD * beat_sec,
        )
    except ImportError as error:
        raise UserError(f"storage: {shown} needs a driver, expected `pip install 'smartfast[postgresql]'`") from error
    except sqlalchemy.exc.ArgumentError as error:
        raise UserError("storage is no URL, expected such as postgresql://user@host/database") from error
    except (sqlalchemy.exc.SQLAlchemyError, optuna.exceptions.OptunaError) as error:
        reason = str(getattr(error, "orig", None) or error).strip().split("\n")[0]
        raise UserError(f"storage: {shown}: {reason}, expected a database that can be opened") from error
    if is_sqlite:
        # It has no locks of rows: what reads first and then writes, as a claim does, needs the file for itself.
        sqlalchemy.event.listen(
            storage.engine, "begin", lambda connection: connection.exec_driver_sql("BEGIN IMMEDIATE")
        )
    return storage


@contextmanager
def _quietly() -> Iterator[None]:
    """Without Optuna's notice that heartbeats are experimental."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ExperimentalWarning)
        yield
