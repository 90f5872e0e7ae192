"""Everything one training run consists of, and one iteration of it. Knows of its model what a family says."""

import functools
import math
from collections.abc import Callable, Generator, Iterator

import torch
from torch import Tensor

from smartfast.config.schema import Config
from smartfast.core.distributed import average_over_processes_
from smartfast.core.draws import batch_positions
from smartfast.data import RealBatch, iterate_batches
from smartfast.data.holdout import DatasetPart, TrainingImages
from smartfast.engine.averages import AveragedNetwork
from smartfast.engine.compiling import Compiler
from smartfast.engine.flat import MovingBuffers
from smartfast.engine.graphs import WARM_UP_RUNS, CapturedStep, CudaGraphs, Step
from smartfast.engine.phase import Phase, PhaseSpec, TrainedNetwork, accumulate, run_phase, update, with_gradients
from smartfast.engine.schedules import DeviceScalars
from smartfast.engine.statistics import Statistics
from smartfast.families import FAMILIES
from smartfast.families.base import Parts
from smartfast.families.rounds import Round
from smartfast.families.sampling import Sampler
from smartfast.run.status import PhaseTimer
from smartfast.scorers import Scorer, TimestepRange


class Training:
    """State of a run and what computes the next iteration.

    Args:
        config: Checked configuration.
        dataset: Training images.
        scorer: Frozen diffusion model, None where neither the score term nor the family needs one.
        timesteps: Interval of the score term, None when smart.frequency is 0.
        held_out: Images kept out of the training, None = none.
        device: Where everything lives.
        process_index, num_processes: This process among those that share a batch.
        is_eager_first: Nothing is compiled or captured before `hasten` is called.
        say: Receives a line before and after each compilation.
    """

    def __init__(
        self,
        config: Config,
        dataset: TrainingImages,
        *,
        scorer: Scorer | None = None,
        timesteps: TimestepRange | None = None,
        held_out: DatasetPart | None = None,
        device: torch.device,
        process_index: int = 0,
        num_processes: int = 1,
        is_eager_first: bool = False,
        say: Callable[[str], None] = print,
    ) -> None:
        self.config, self.device, self.num_processes, self._say = config, device, num_processes, say
        self.images, self.dataset, self.scorer = 0, dataset, scorer
        self.family = FAMILIES[config.gan.family](config, dataset, held_out)
        for module in self.family.modules.values():
            module.to(device).train()
        self.family.variables = {name: value.to(device) for name, value in self.family.variables.items()}
        self.scalars, self.statistics = DeviceScalars(device), Statistics()
        self.data_labels = None if dataset.labels is None else dataset.labels.to(device)
        score = self.family.score_term(scorer, timesteps, self.scalars)
        self.specs = list(self.family.phases(Parts(self.data_labels, self.scalars, score, num_processes, scorer)))
        self.images_per_iteration = config.optim.batch * max(spec.repeat for spec in self.specs)
        self.moving = MovingBuffers(self.family.modules, device)
        self.networks = {name: self._trained(name) for name in self.family.modules}
        self.ema = AveragedNetwork(self.networks[self.family.averaged], self.scalars.add(self._average_step))
        self.timer = PhaseTimer(device, compile_sec=lambda: self.compile_sec)
        self.batch, self.turns = self._static_batch(self._places(process_index))
        self.phases = {spec.name: self._phase(spec) for spec in self.specs}
        self.compiler = Compiler(False, say)
        self.graphs: CudaGraphs | None = None
        if is_eager_first:
            self._set_up_steps()
        else:
            self.hasten()
        self._taken_sec = 0.0
        self._phase_now = "the first iteration"

    def _trained(self, name: str) -> TrainedNetwork:
        carried = [sum(part.size for part in spec.carried) for spec in self.specs if spec.network == name]
        return TrainedNetwork(
            self.family.modules[name],
            self.family.adam(name),
            self.scalars,
            carried=1 + max(carried, default=0),
            moving=self.moving,
            channels_last=self.config.perf.channels_last or False,
        )

    def _average_step(self, images: int) -> float:
        return self.family.average_step(images, self.images_per_iteration)

    def _places(self, process_index: int) -> list[Tensor]:
        """Places in a global batch of this process's rounds of gradient accumulation."""
        optim, num_processes = self.config.optim, self.num_processes
        rounds = optim.batch // (num_processes * optim.images_at_a_time(optim.batch // num_processes))
        parts = batch_positions(optim.batch, num_processes * rounds, self.family.interacting)
        return [part.to(self.device) for part in parts[process_index * rounds : (process_index + 1) * rounds]]

    def _static_batch(self, places: list[Tensor]) -> tuple[Round, list[list[Round]]]:
        """Memory for the images of an iteration, and its rounds, a list for each step of a phase that repeats."""
        turns = self.images_per_iteration // self.config.optim.batch
        places = [place + turn * self.config.optim.batch for turn in range(turns) for place in places]
        self.offsets = torch.cat(places)
        images = torch.zeros(len(self.offsets), *self.family.image_shape, device=self.device)
        labels = self.data_labels
        if labels is not None:
            labels = labels.new_zeros(len(self.offsets), *labels.shape[1:])
        batch = Round(self.offsets.clone(), images, labels)
        pieces = [[None] * len(places) if value is None else value.chunk(len(places)) for value in batch]
        rounds = [Round(s, i.detach().requires_grad_(True), c) for s, i, c in zip(*pieces, strict=True)]
        per_turn = len(rounds) // turns
        return batch, [rounds[turn * per_turn : (turn + 1) * per_turn] for turn in range(turns)]

    @property
    def rounds(self) -> list[Round]:
        """The rounds of gradient accumulation of a phase's first step in an iteration."""
        return self.turns[0]

    def _phase(self, spec: PhaseSpec) -> Phase:
        network = self.networks[spec.network]
        return Phase(spec, network, with_gradients(spec, network.parameters.parameters))

    def hasten(self) -> None:
        """Have eager phases compiled and captured at their next runs, as perf.compile and perf.cuda_graphs say."""
        perf = self.config.perf
        self.compiler = Compiler(perf.compile or False, self._say)
        self.graphs = CudaGraphs(self.device) if perf.cuda_graphs else None
        for phase in self.phases.values():
            phase.compute = self.compiler(phase.name, phase.compute)
        self._set_up_steps()

    def _set_up_steps(self) -> None:
        self.captured: dict[str, list[CapturedStep]] = {name: [] for name in (*self.phases, "ema")}
        self.turn_steps = {name: self._turn_steps(phase) for name, phase in self.phases.items()}
        self.steps = {name: _in_turn(steps) for name, steps in self.turn_steps.items()}
        self.steps["ema"] = self._captured("ema", "ema", self.ema.move)

    def _turn_steps(self, phase: Phase) -> list[Step]:
        """What runs a phase on each part of the static batch that it takes a step for."""
        return [self._step(phase, rounds) for rounds in self.turns[: phase.spec.repeat]]

    def _step(self, phase: Phase, rounds: list[Round]) -> Step:
        if self.graphs is None or self.num_processes == 1:
            return self._captured(phase.name, phase.name, functools.partial(run_phase, phase, rounds, self.statistics))
        # Averages over processes stay between graphs: what NCCL can capture depends on its version and other threads.
        gradient: Step = functools.partial(accumulate, phase, rounds, self.statistics)
        if not phase.spec.averages_inside:
            gradient = self._captured(phase.name, f"{phase.name}, gradient", gradient)
        step = self._captured(phase.name, f"{phase.name}, optimizer", functools.partial(update, phase, self.statistics))

        def run() -> None:
            gradient()
            average_over_processes_(phase.network.buffer)
            step()

        return run

    def _captured(self, owner: str, name: str, step: Step) -> Step:
        """The step, captured where graphs are on; `owner` is the key of `steps` that it is a part of."""
        if self.graphs is None:
            return step
        captured = CapturedStep(name, step, self.graphs)
        self.captured[owner].append(captured)
        return captured

    @property
    def period(self) -> int:
        """Iterations after which the schedule of the phases repeats."""
        return math.lcm(*(spec.interval for spec in self.specs))

    @property
    def settling_iterations(self) -> int:
        """Iterations of this process after which nothing is compiled or captured any more."""
        runs = WARM_UP_RUNS + 1 if self.graphs else 1
        return 1 + runs * max(spec.interval for spec in self.specs)

    def due(self, iteration: int) -> Iterator[str]:
        """The names of the phases that an iteration runs, in order."""
        substitutes = {spec.replaces: spec.name for spec in self.specs if spec.replaces and spec.is_due(iteration)}
        for spec in self.specs:
            if spec.replaces is None and spec.is_due(iteration):
                yield substitutes.get(spec.name, spec.name)

    def run_iteration(self, reals: RealBatch) -> None:
        """One run of every phase that is due, then the averaged network; `reals` are the images at `offsets`."""
        self.load(reals)
        self.scalars.set(self.images)
        for name in self.due(self.images // self.images_per_iteration):
            self._phase_now = name
            with self.timer(name):
                self.steps[name]()
        self.steps["ema"]()
        self.images += self.images_per_iteration

    def whereabouts(self) -> str:
        """The phase that ran last, or is running, and how far the run is."""
        return f"{self._phase_now} at {self.images / 1000:.3f} kimg"

    def load(self, reals: RealBatch) -> None:
        """Make `reals` and the numbers of the images that come next the batch that every phase works on."""
        torch.add(self.offsets, self.images, out=self.batch.stream)
        self.batch.images.copy_(reals.images)
        if self.batch.labels is not None:
            assert reals.labels is not None, "a run with classes needs the labels of its reals"
            self.batch.labels.copy_(reals.labels)

    @property
    def compile_sec(self) -> float:
        """Seconds spent on compiling and capturing."""
        return self.compiler.total_sec + (self.graphs.total_sec if self.graphs else 0.0)

    def forget_compile_sec(self) -> None:
        """Count from here on."""
        self.compiler.total_sec = self._taken_sec = 0.0
        if self.graphs is not None:
            self.graphs.total_sec = 0.0

    def take_compile_sec(self) -> float:
        """Seconds spent on compiling and capturing since it was last asked."""
        sec = self.compile_sec - self._taken_sec
        self._taken_sec += sec
        return sec

    def state(self) -> dict[str, Tensor]:
        """Every tensor that the next iterations depend on, by name; aliases, not copies."""
        tensors = dict(self.family.variables)
        for prefix, network in self.networks.items():
            tensors |= {f"{prefix}/{name}": value for name, value in network.state().items()}
        tensors |= {f"ema/{name}": value for name, value in self.ema.state().items()}
        return tensors | self.skipped()

    def skipped(self) -> dict[str, Tensor]:
        """Counters of skipped steps by phase: of the run, and since the phase's last good step; aliases."""
        guards = {name: phase.guard for name, phase in self.phases.items()}
        total = {f"skipped/{name}": guard.total for name, guard in guards.items()}
        return total | {f"skipped_in_a_row/{name}": guard.consecutive for name, guard in guards.items()}

    def restore(self, tensors: dict[str, Tensor], *, images: int) -> None:
        """Continue after `images` images from tensors that `state` returned.

        Counters of skipped steps may be missing: of phases that the run did not have yet, they are 0.

        Raises:
            KeyError, ValueError: Another tensor is missing, has another shape or dtype, or numbers that are not finite;
                nothing is changed then.
        """
        state = self.state()
        found = {name: torch.zeros_like(value) for name, value in self.skipped().items()} | tensors
        for name, value in state.items():
            _check_like(name, found[name], value)
        for name, value in state.items():
            with torch.no_grad():
                value.copy_(found[name])
        self.moving.accept()
        self.images = images

    def sampler(self) -> Sampler:
        """What draws images from the averaged network as it is now."""
        return self.family.sampler(self.ema.module, data_labels=self.data_labels, seed=self.config.run.seed)

    def averaged_weights(self, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        """The averaged network's weights and buffers by their own names, from tensors that `state` returned."""
        names, trained = self.ema.module.state_dict(), self.family.averaged
        return {n: tensors[f"ema/{n}"] if f"ema/{n}" in tensors else tensors[f"{trained}/module/{n}"] for n in names}


def real_batches(training: Training) -> Generator[RealBatch, None, None]:
    """The batches that a run sees from where it is; to be closed when it ends."""
    config = training.config
    return iterate_batches(
        training.dataset,
        seed=config.run.seed,
        batch=training.images_per_iteration,
        offsets=training.offsets,
        start_images=training.images,
        device=training.device,
        mirror=config.data.mirror,
        cache=config.data.cache,
        workers=config.data.workers,
        class_group=training.family.class_group,
        # On a CPU the compiled function is slower than three operations, and takes seconds to compile.
        compiler=training.compiler if training.device.type == "cuda" else None,
    )


def _check_like(name: str, found: Tensor, expected: Tensor) -> None:
    if (found.shape, found.dtype) != (expected.shape, expected.dtype):
        raise ValueError(
            f"{name} is {found.dtype} {list(found.shape)}, expected {expected.dtype} {list(expected.shape)}"
        )
    if not found.isfinite().all():
        raise ValueError(f"{name} has numbers that are not finite, expected a state that training can go on from")


def _in_turn(steps: list[Step]) -> Step:
    if len(steps) == 1:
        return steps[0]

    def run() -> None:
        for step in steps:
            step()

    return run
