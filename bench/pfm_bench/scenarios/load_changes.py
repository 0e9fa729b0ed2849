"""Classes that are erased, suspended and restored while a server is under load, and when."""

import asyncio
import json
import time
from collections.abc import Sequence

from pfm.errors import ConfigError
from pfm_bench.scenarios.load_checks import Change, Question
from pfm_bench.scenarios.load_client import Connections
from pfm_bench.scenarios.load_plan import LoadPlan


class Changer:
    """Changes a model, and keeps when each change was asked for and answered.

    Args:
        changes: gets an entry for each class.
    """

    def __init__(self, connections: Connections, model: str, tokens: Sequence[str], changes: list[Change]) -> None:
        self._connections = connections
        self._model = model
        self._tokens = tokens
        self._changes = changes

    async def run(self, plan: LoadPlan, questions: Sequence[Question], seconds: float) -> None:
        """Everything that a plan has, evenly over a phase: erasures, and a suspension of each tenant in turn.

        Raises:
            ConfigError: a change was refused.
        """
        visible = {question.tenant: question.classes for question in questions}
        todo = [((place + 1) / (len(plan.erased) + 1), "erase", name, 0) for place, name in enumerate(plan.erased)]
        for number in range(plan.suspensions):
            tenant = number % len(self._tokens)
            there = [name for name in visible[tenant] if name not in plan.erased]
            name, when = there[number // len(self._tokens) % len(there)], number / plan.suspensions
            todo.append((when, "suspend", name, tenant))
            todo.append((when + 0.5 / plan.suspensions, "restore", name, tenant))
        begun = time.perf_counter()
        for when, what, name, tenant in sorted(todo):
            await asyncio.sleep(max(0.0, begun + when * seconds - time.perf_counter()))
            await self.change(what, name, tenant)

    async def change(self, what: str, name: str, tenant: int) -> None:
        """Erase, suspend or restore a class with a tenant's token.

        Raises:
            ConfigError: it was refused.
        """
        change = Change(
            name=name, tenant=None if what == "erase" else tenant, is_there=what == "restore", asked=time.perf_counter()
        )
        self._changes.append(change)
        body = json.dumps({"classes": [name], "reason": "pfm bench load"}).encode()
        reply = await self._connections.ask(
            self._connections.request(
                "POST", f"/v1/models/{self._model}/{what}", body, token=self._tokens[tenant],
                more=("Content-Type: application/json",),
            )
        )  # fmt: skip
        if reply.status != 200:
            said = reply.body[:200].decode("utf-8", "replace")
            raise ConfigError(f"could not {what} {name} ({reply.status}): {said}; the tokens need the right to {what}")
        change.answered = time.perf_counter()
