"""Ask `pfm serve` with tensors: python ask_server_tensors.py localhost:8000 MODEL [CLASS LEFT OUT…]"""

import sys

import numpy as np
import tritonclient.http as http

client = http.InferenceServerClient(sys.argv[1])
(about,) = client.get_model_metadata(sys.argv[2])["inputs"]
inputs = np.zeros([abs(size) for size in about["shape"]], np.float32)  # yours, normalised as the manifest says
tensor = http.InferInput(about["name"], inputs.shape, about["datatype"])
tensor.set_data_from_numpy(inputs)
answer = client.infer(sys.argv[2], [tensor], parameters={"without": sys.argv[3:]})
print(answer.as_numpy("labels")[0].decode(), answer.as_numpy("classes"), answer.as_numpy("probabilities")[0])
