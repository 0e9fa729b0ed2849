"""Serve a bundle with KServe's own server, which speaks gRPC too: python serve_kserve.py --model_name cells BUNDLE

Requests are as for `pfm serve`: Open Inference Protocol, with `active`, `without` and `profile` among the parameters;
lists of classes are written as text, '["red", "blue"]', since KServe's parameters are plain. It has nothing else of
`pfm serve`: each request is a pass, no token is asked for, and classes are erased with `pfm forget --in_place`.
KServe listens on every address. `/v2/models/NAME/ready` is what to probe: `/v2/health/ready` always says yes.
"""

import argparse
import asyncio
import json
import uuid

import numpy as np
from kserve import InferOutput, InferRequest, InferResponse, Model, ModelServer, model_server
from kserve.errors import InvalidInput
from kserve.protocol.infer_type import to_http_parameters

from pfm.errors import BundleError, PfmError
from pfm_export import PromptSession


class Classifier(Model):
    def __init__(self, name: str, bundle: str, threads: int) -> None:
        super().__init__(name)
        self.session = PromptSession(bundle, device="cpu", threads=threads, spin=False, warm_up=[1])
        self.ready = True

    async def healthy(self) -> bool:
        """For `/v2/models/NAME/ready`: whether the files are whole."""
        try:
            return bool(self.session.bundle)
        except PfmError:
            return False

    async def predict(self, payload: InferRequest, headers=None, response_headers=None) -> InferResponse:
        asked = to_http_parameters(payload.parameters or {})  # of gRPC they are messages
        asked.pop("binary_data_output", None)
        if odd := asked.keys() - {"active", "without", "profile"}:
            raise InvalidInput(f"no parameter {min(odd)!r}; there are active, without, profile")
        sets = {name: names(asked[name]) for name in ("active", "without") if name in asked}
        try:
            answer = await asyncio.to_thread(
                self.session.predict, payload.inputs[0].as_numpy(), **sets, profile=asked.get("profile")
            )
        except BundleError:
            raise  # the files are damaged: not the caller's to put right
        except PfmError as error:
            raise InvalidInput(str(error)) from error
        texts = {"labels": answer.labels, "classes": answer.classes}
        outputs = [
            *(output(name, np.array(found, object), "BYTES") for name, found in texts.items()),
            output("probabilities", answer.probabilities, "FP32"),
        ]
        number = payload.id or str(uuid.uuid4())
        return InferResponse(number, self.name, outputs, use_binary_outputs=payload.use_binary_outputs)


def names(given: str | list[str]) -> str | list[str]:
    """One name, or a list of them, which may be written as text."""
    try:
        return json.loads(given) if isinstance(given, str) and given.startswith("[") else given
    except ValueError as error:
        raise InvalidInput(f"{given!r} is not a list of names") from error


def output(name: str, values: np.ndarray, datatype: str) -> InferOutput:
    made = InferOutput(name, list(values.shape), datatype)
    made.set_data_from_numpy(values, binary_data=False)
    return made


if __name__ == "__main__":
    parser = argparse.ArgumentParser(parents=[model_server.parser])
    parser.add_argument("bundle")
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    ModelServer().start([Classifier(options.model_name, options.bundle, options.threads)])
