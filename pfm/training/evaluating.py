"""When a run is evaluated, on what, and which of its epochs is the best."""

from collections.abc import Callable, Mapping

from pfm.data.feed import Feed
from pfm.evaluation.evaluator import Evaluator
from pfm.evaluation.outcome import Evaluation
from pfm.evaluation.samples import Samples
from pfm.model.sharding import is_sharded, whole
from pfm.model.trunk_cache import TrunkCache
from pfm.model.views import StoredInputs
from pfm.training.learner import Learner
from pfm.training.position import is_due
from pfm.training.setup import Setup


class Evaluations:
    """Evaluates the inference modes of a model in training.

    Args:
        caches: the trunk's tokens by split, where they are kept.
        check: called by every process equally often during an evaluation; may end it by raising.

    Attributes:
        last: what the newest evaluation on the test split found.
    """

    def __init__(
        self, setup: Setup, learner: Learner, caches: Mapping[str, TrunkCache], check: Callable[[], None]
    ) -> None:
        self.setup = setup
        self.learner = learner
        self.caches = caches
        self.check = check
        self.last: Evaluation | None = None

    def after_epoch(self, epoch: int) -> dict[str, float] | None:
        """Accuracies on the test split by inference mode; None where the epoch (from 0) is not one of those."""
        train = self.setup.config.train
        is_last = epoch + 1 == train.epochs
        if train.eval_every and (is_last or is_due(epoch, train.eval_every)):
            self.last = self._measure("test")
            return self.last.modes
        return None

    def note_best(self, modes: dict[str, float] | None) -> bool:
        """Whether this epoch is the best so far; notes when --patience has run out.

        Args:
            modes: what `after_epoch` returned; with a validation split that one decides.
        """
        train = self.setup.config.train
        if not train.best_metric or modes is None:
            return False
        decisive = modes if self.setup.data.val is None else self._measure("val").modes
        return self.learner.at.note(decisive[train.best_metric], train.patience)

    def _measure(self, name: str) -> Evaluation:
        setup, model = self.setup, self.learner.model
        split = dict(setup.data.splits())[name]
        device = setup.processes.device
        source = self.caches.get(name) or StoredInputs(Feed(split, device, setup.config.feed), setup.preprocess)
        evaluator = Evaluator(
            Samples(setup.positions[split.labels], source),
            setup.processes,
            batch_size=setup.config.evaluation.eval_batch_size,
            seed=setup.config.train.seed,
            check=self.check,
        )
        plugin = setup.accelerator.state.fsdp_plugin if is_sharded(model) else None
        with self.learner.averaged(), whole(model, reshard_after_forward=bool(plugin and plugin.reshard_after_forward)):
            return evaluator.evaluate(model)
