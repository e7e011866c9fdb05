"""Plans, measurements and predictions for one opened model."""

from __future__ import annotations

from collections.abc import Collection

from ltx_a2v.fitting import VideoShape
from ltx_a2v.hardware.host_memory import host_memory_available
from ltx_a2v.kernels import planned_for
from ltx_a2v.model.model import Model
from ltx_a2v.planning.needs import measure_needs
from ltx_a2v.planning.plan import Keep, PhaseNeed, Plan, make_plan
from ltx_a2v.planning.prediction import Prediction, predict
from ltx_a2v.planning.probe import Speeds, probe


def smaller_budget(failed: Plan, roomy: int | None) -> int:
    """After memory ran out: at most 90% of the failed plan if that can work, and `roomy`."""
    less = max(int(0.9 * (failed.budget or failed.peak)), failed.smallest)
    return less if roomy is None else min(less, roomy)


class Planner:
    """Caches the needs of each video shape, so that a second plan for it takes no time."""

    def __init__(self, model: Model) -> None:
        self._model = model
        self._needs: dict[VideoShape, list[PhaseNeed]] = {}

    def plan(self, shape: VideoShape, budget: int | None, keep: Keep, networks: Collection[str] | None = None) -> Plan:
        """For all phases, or for those that use only the given networks. Raises `BudgetTooSmall`."""
        if shape not in self._needs:
            with planned_for(self._model.device):
                self._needs[shape] = measure_needs(self._model, shape)
        needs, sizes = self._needs[shape], self._model.sizes
        if networks is not None:
            needs = [need for need in needs if set(need.networks) <= set(networks)]
            sizes = {name: sizes[name] for name in networks}
        return make_plan(
            sizes,
            needs,
            budget,
            host_memory_available() + self._model.host_bytes,
            keep,
            host_limit=self._model.options.host_memory,
        )

    def measure(self, shape: VideoShape) -> Speeds:
        """The speeds at which this machine reads, copies and computes; takes seconds, with one block on the device."""
        model = self._model
        if model.graphs is not None:
            model.graphs.only_for(None)  # the probe's replace those of the last request
        return probe(model.loaders, model.config, shape, model.device, model.dtype, model.graphs)

    def predict(self, plan: Plan, speeds: Speeds, steps: int, texts: int) -> Prediction:
        """For `steps` steps of stage 1 that run the transformer and `texts` prompts that are not in the cache."""
        return predict(plan, self._model.sizes, self._model.loaders, speeds, self._model.config.version, steps, texts)
