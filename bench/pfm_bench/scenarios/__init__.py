"""The measurements: scenarios of serving, one file each, registered by a line here; training, evaluation, erasure."""

from pfm_bench.scenarios import offline, server, single_stream, time_to_forget
from pfm_bench.scenarios.scenario import SCENARIOS, Scenario, Served

SCENARIOS.register(single_stream.NAME, single_stream.scenario)
SCENARIOS.register(offline.NAME, offline.scenario)
SCENARIOS.register(server.NAME, server.scenario)
SCENARIOS.register(time_to_forget.NAME, time_to_forget.scenario)

__all__ = ["SCENARIOS", "Scenario", "Served"]
