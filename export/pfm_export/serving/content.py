"""What is really in a bundle, for `pfm verify` and certificates; no torch."""

import json
from pathlib import Path

import numpy as np

from pfm.classes import listed
from pfm.errors import BundleError
from pfm.exact.solve import TOLERANCE
from pfm.forgetting.artifacts.text import may_hold_numbers
from pfm.forgetting.content import WRITTEN_OUT, ClassContent, Content, digest_of, sums_digest
from pfm.forgetting.ledger import LEDGER
from pfm_export.serving.bank import BANK, Floats
from pfm_export.serving.bundle import Bundle
from pfm_export.serving.damage import damaged_files
from pfm_export.serving.manifest import MANIFEST

_OWN = {MANIFEST, LEDGER, BANK}


def bundle_content(folder: Path, *, solves: bool = False) -> Content:
    """Open a bundle and look into every file that its manifest names.

    Args:
        solves: solve an exact readout again, where the bundle has its sums.

    Raises:
        BundleError: its manifest, ledger and bank are not whole, or do not belong together.
    """
    bundle = Bundle.open(folder)
    hashes = {name: stated.sha256 for name, stated in bundle.stated.files.items() if name != BANK}
    again = bundle.held_again
    problems = list(damaged_files(bundle))
    if bundle.pending:
        names = listed(name for _, name in bundle.pending)
        problems.append(f"the erasure of {names} was begun and not finished; run the same `pfm forget` again")
    if again:
        problems.append(again)
    if may_hold_numbers(json.dumps(bundle.manifest)):
        problems.append(f"{MANIFEST}: {WRITTEN_OUT}")
    if solves:
        problems += _misfits_of_solution(bundle)
    # without sums the manifest's word is all there is: nobody can solve again
    exact = bundle.exact if bundle.is_exact and bundle.exact is not None and bundle.exact.has_sums else None
    sums = {} if exact is None else {own.id: sums_digest(own.count, own.sha256) for own in exact.classes}
    classes = tuple(
        _class(number, name, bundle.tensors_of(number), sums.get(number, ""))
        for number, name in zip(bundle.classes.ids, bundle.classes.names, strict=True)
    )
    own = {*bundle.stated.signatures.files, *_OWN, *(() if bundle.exact is None else bundle.exact.files)}
    return Content(
        artifact_kind="bundle",
        sha256=bundle.bank_sha256,
        classes=classes,
        erased=bundle.stated.erased,
        shared=digest_of((name, "file", (), sha256.encode()) for name, sha256 in hashes.items()),
        files=tuple(hashes.items()),
        problems=tuple(problems),
        exact="" if exact is None else exact.digest,
        prompts_centred=bool(bundle.prompts_centred),
        unknown=tuple(path for path in _files(folder) if path.relative_to(folder).as_posix() not in own),
    )


def _misfits_of_solution(bundle: Bundle) -> list[str]:
    """Where the rows of an exact readout are not those of the bundle's own sums; nothing where it has none."""
    if bundle.exact is None or not bundle.exact.has_sums or not bundle.is_exact:
        return []
    try:
        solved = bundle.exact.solve(bundle.folder)
    except BundleError as error:
        return [str(error)]
    found = bundle.rows(range(len(bundle.classes)))
    pairs = {"weight": found.weight, "bias": found.bias}
    wanted = {kind: np.stack([solved[f"{kind}.{number}"] for number in bundle.classes.ids]) for kind in pairs}
    return [
        f"the {kind} of its classes is not what is solved from its sums"
        for kind, own in pairs.items()
        if own is None or not np.allclose(own, wanted[kind], rtol=0, atol=TOLERANCE * float(np.abs(wanted[kind]).max()))
    ]


def _class(number: int, name: str, tensors: dict[str, Floats], sums: str) -> ClassContent:
    parts = {kind: (kind, str(array.dtype), array.shape, array.tobytes()) for kind, array in tensors.items()}
    prompt = parts.pop("prompt")
    return ClassContent(number=number, name=name, prompt=digest_of([prompt]), rows=digest_of(parts.values()), sums=sums)


def _files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if not path.is_dir() or path.is_symlink())
