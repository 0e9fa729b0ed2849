"""Ask `pfm serve` for a file's class: python ask_server.py http://localhost:8000 FILE [CLASS LEFT OUT…]"""

import json
import sys
from pathlib import Path
from urllib.parse import urlencode
from urllib.request import Request, urlopen

address, file, *without = sys.argv[1:]
query = urlencode({"without": without}, doseq=True)
with urlopen(Request(f"{address}/v1/predict?{query}", Path(file).read_bytes(), method="POST")) as answer:
    found = json.load(answer)
print(found["label"])
for name, share in found["probabilities"].items():
    print(f"{share:7.2%} {name}")
