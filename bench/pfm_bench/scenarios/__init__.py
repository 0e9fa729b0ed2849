"""The measurements: scenarios of serving, one file each, declared by a line here; training, evaluation, erasure."""

from pfm_bench.scenarios.scenario import SCENARIOS, Scenario, Served

__all__ = ["SCENARIOS", "Scenario", "Served"]

SCENARIOS.declare("single_stream", "pfm_bench.scenarios.single_stream:scenario")
SCENARIOS.declare("offline", "pfm_bench.scenarios.offline:scenario")
SCENARIOS.declare("server", "pfm_bench.scenarios.server:scenario")
SCENARIOS.declare("time_to_forget", "pfm_bench.scenarios.time_to_forget:scenario")
