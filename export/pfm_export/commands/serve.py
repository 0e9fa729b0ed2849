"""`pfm serve`: bundles behind a port."""

import importlib.util
import os

import click

from pfm.commands.options import CONTEXT_SETTINGS, with_options
from pfm.errors import ConfigError
from pfm_export.service.config import ServeConfig

NEEDED = ("fastapi", "uvicorn", "prometheus_client")


@click.command("serve", context_settings=CONTEXT_SETTINGS)
@click.argument("bundles", nargs=-1, required=True, metavar="BUNDLE…")
@with_options(config=ServeConfig)
def serve(bundles: tuple[str, ...], config: ServeConfig) -> None:
    """Serve bundles over HTTP: the Open Inference Protocol (V2), uploaded files, and forgetting without a restart.

    A bundle is called like its folder, or as you say: NAME=FOLDER. Requests with different active sets share a pass.
    A class that was erased or suspended is refused in every request that starts after the answer, by all workers.
    """
    if os.name != "posix":
        raise ConfigError("pfm serve runs on Linux and macOS; elsewhere serve with PromptSession")
    missing = [name for name in NEEDED if importlib.util.find_spec(name) is None]
    if missing:
        raise ConfigError(f"pfm serve needs {missing[0]}, which is not installed: pip install 'pfm[serve]'")
    from pfm_export.service.orders import named_bundles
    from pfm_export.service.supervisor import Supervisor

    Supervisor(named_bundles(bundles), config, lambda address: click.echo(f"serving on {address}")).run()
