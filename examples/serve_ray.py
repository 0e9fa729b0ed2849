"""Serve a bundle of images with Ray Serve: serve run serve_ray:app bundle=/data/bundle replicas=2 threads=2

    curl 'http://localhost:8000/?without=red' --data-binary @cell.png

Every replica looks at the bundle's files before it answers: what `pfm forget --in_place` or a session erased from them
is refused by all that read one folder. Requests with different active sets share a pass. Whoever reaches the port is
answered: put what asks for a token in front.
"""

import asyncio
from pathlib import Path

import numpy as np
from ray import serve
from starlette.requests import Request
from starlette.responses import JSONResponse

from pfm.errors import BundleError, PfmError
from pfm_export.serving.session import ActiveSet, Prediction, PromptSession

ROWS = 32  # of one pass


# Ray hands a replica 5 requests at a time unless told otherwise, and a pass can have no more than that
@serve.deployment(max_ongoing_requests=4 * ROWS, max_queued_requests=16 * ROWS)
class Classifier:
    def __init__(self, bundle: str, threads: int) -> None:
        # without `threads` each replica takes every core of the host, whatever `num_cpus` says
        self.session = PromptSession(bundle, device="cpu", threads=threads, spin=False, warm_up=[1, ROWS])
        self.session.input.require_items("images")

    async def __call__(self, request: Request) -> JSONResponse:
        asked, body = request.query_params, await request.body()
        try:
            chosen = ActiveSet.of(asked.getlist("active") or None, asked.getlist("without"), asked.get("profile"))
            chosen.positions(self.session.bundle)  # a class that is not there is refused before anything is decoded
            answer = await self.answer((await asyncio.to_thread(self.decoded, body), chosen))
            if isinstance(answer, PfmError):
                raise answer
        except BundleError:
            raise  # the files are damaged: not the caller's to put right
        except PfmError as error:
            return JSONResponse({"error": str(error)}, status_code=400)
        shares = dict(zip(answer.classes, answer.probabilities[0].tolist(), strict=True))
        return JSONResponse({"label": answer.labels[0], "probabilities": shares})

    def decoded(self, body: bytes) -> np.ndarray:
        (batch,) = self.session.input.batches([body])
        return batch.inputs  # (1, 3, S, S)

    # The pass holds the replica's loop on purpose: what arrives meanwhile is the next batch. Were it in a thread, Ray
    # would go on closing a batch every `batch_wait_timeout_s`, and keep a queue of small ones.
    @serve.batch(max_batch_size=ROWS, batch_wait_timeout_s=0.001)
    async def answer(self, asked: list[tuple[np.ndarray, ActiveSet]]) -> list[Prediction | PfmError]:
        return self.answered(asked)

    def answered(self, asked: list[tuple[np.ndarray, ActiveSet]]) -> list[Prediction | PfmError]:
        inputs, sets = zip(*asked, strict=True)
        try:
            return list(self.session.predict_each(np.concatenate(inputs), sets))
        except PfmError as error:  # a class that one of them names was erased since it was looked at
            return [error] if len(asked) == 1 else [self.answered([one])[0] for one in asked]


def app(options: dict[str, str]) -> serve.Application:
    """From the words behind `serve run serve_ray:app`."""
    threads = int(options.get("threads", 1))
    deployment = Classifier.options(
        num_replicas=int(options.get("replicas", 1)), ray_actor_options={"num_cpus": threads}
    )
    return deployment.bind(str(Path(options["bundle"]).absolute()), threads)
