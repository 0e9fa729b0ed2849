"""Whether artifacts are what a certificate says: each is opened, and looked into for what was erased.

An artifact is bound to the certificate by its bytes, or, where another class was erased since, by an unbroken chain in
the ledger beside it that leads from the bytes signed to those that are there. The lines of that chain are not signed,
so the prompts of the classes that are left and everything that belongs to no class have to be, value for value, what
was signed. Copies and moves change none of this, and neither does a suspension.

A later erasure that centred the prompts (`pfm.forgetting.centring`) made others of them, and one that took groups or
samples out made others of the classes they were of. What they are now, its own certificate says, where it is given too;
without it the former cannot be told from any that sum to zero, nor the latter from classes that samples were put into.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeAlias

from pfm.classes import listed
from pfm.errors import PfmError, StorageError
from pfm.forgetting import ledger
from pfm.forgetting.certificate import Certificate, Entry, ledger_of
from pfm.forgetting.content import NOTHING, Content, SignedContent
from pfm.forgetting.ledger import Change, Erasure, Record

CENTRED_LATER = "its prompts were centred by a later erasure, so that this certificate cannot tell whose they are"
TAKEN_LATER = (
    "groups or samples were taken out of it later, so that this certificate cannot tell whose samples its classes are "
    "solved from"
)
SAYS_TOO_LITTLE = (
    "another class was erased later, and this certificate is of an older version that does not say what each class is "
    "solved from"
)
ROWS_MOVED = "classifier rows were moved by them, and are not compared"


@dataclass(frozen=True, kw_only=True)
class Check:
    """One link of the proof: what was checked, and what is wrong with it.

    Attributes:
        problem: "" where nothing speaks against it.
        remark: what a reader should know although it holds.
        is_unknown: nothing was found, and not everything was looked into.
        entry: of an artifact, what the certificate says of it; None of anything else.
    """

    name: str
    problem: str = ""
    remark: str = ""
    is_unknown: bool = False
    entry: Entry | None = None


def verify(
    certificate: Certificate,
    paths: Sequence[Path],
    look: Callable[[Path], Content],
    later: Sequence[Certificate] = (),
) -> list[Check]:
    """Check artifacts, and the ledgers beside them, against a certificate whose signature holds.

    Args:
        later: certificates of later erasures, by the same key, which vouch for prompts that those centred.
        look: opens an artifact; raises `PfmError` for what cannot be opened.

    Returns:
        the checks of each artifact, in the order given: itself, its ledger, what was not looked into.
    """
    checks: list[Check] = []
    vouched = [entry for other in later for entry in other.artifacts]
    for path in paths:
        try:
            content = look(path)
        except PfmError as error:
            checks.append(Check(name=str(path), problem=str(error)))
            continue
        entries = [entry for entry in certificate.artifacts if entry.artifact_kind == content.artifact_kind]
        if not entries:
            known = ", ".join(f"{entry.file} ({entry.artifact_kind})" for entry in certificate.artifacts)
            problem = f"the certificate says nothing of it (it names {known})"
            checks.append(Check(name=str(path), problem=problem))
            continue
        # a file may have been renamed, and two of one name may be in different folders: the one that fits best
        attempts = [(entry.file != path.resolve().name, _check(path, content, entry, vouched)) for entry in entries]
        checks += min(attempts, key=lambda pair: (sum(bool(check.problem) for check in pair[1]), pair[0]))[1]
        checks += [
            Check(
                name=str(file),
                problem="not looked into: it is not of the bundle's graphs and bank",
                is_unknown=True,
            )
            for file in content.unknown
        ]
    return checks


def _check(path: Path, content: Content, entry: Entry, vouched: Sequence[Entry]) -> list[Check]:
    found = [*_held(content, entry), *content.problems]
    if found:
        return [Check(name=str(path), problem=problem, entry=entry) for problem in found]
    beside = _read_beside(path)
    bound = replace(_bound(path, content, entry, beside, vouched), entry=entry)
    return [bound, *_check_ledger(path, entry, beside)]


def _held(content: Content, entry: Entry) -> list[str]:
    """Where a class that was erased is, or is not said to be gone."""
    found: list[str] = []
    for number, name in entry.classes:
        there = [c for c in content.classes if c.number == number or c.name == name]
        if there:
            found.append(f"it holds the class {there[0].name}, whose erasure is certified")
        elif (number, name) not in content.erased:
            found.append(f"it does not say that {name} was erased from it")
    return found


def _bound(path: Path, content: Content, entry: Entry, beside: "Beside", vouched: Sequence[Entry]) -> Check:
    """What separates an artifact from the certificate.

    Args:
        vouched: entries of other certificates by the same key.
    """
    is_same = content.sha256 == entry.sha256  # of a bundle, the bank is; its other files are compared on their own
    way = () if is_same else beside.way(entry.sha256, content.sha256)
    if not is_same and not way:
        missing = "" if beside.records else "; if a class was erased since, bring the ledger.jsonl that says so along"
        return Check(name=str(path), problem=f"the file was changed since the certificate was made{missing}")
    changed = _changed_exact(content, entry) or _changed(content, entry, way)
    untold, since = _untold(content, entry, way)
    known = [other for other in vouched if other.content is not None and other.sha256 in since]
    if not changed and untold and not known:
        remark = f"{beside.told(entry)}; {untold}; give the certificate of a later erasure too, with --later"
        return Check(name=str(path), remark=remark, is_unknown=True)
    changed = changed or next(filter(None, (_changed(content, other) for other in known)), "")
    if changed:
        return Check(name=str(path), problem=f"{changed} since the certificate was made")
    idle = _idle(content, entry, way)
    if idle is not None:
        problem = f"line {idle.line} of {beside.place} says that it was changed, and names no class that left it"
        return Check(name=str(path), problem=problem)
    has_other_rows = entry.content is not None and not entry.exact and _has_other_rows(content, entry.content)
    is_told = any(other.sha256 == content.sha256 for other in known)  # whose rows were compared
    moved = f"; {ROWS_MOVED}" if has_other_rows and not is_told else ""
    return Check(name=str(path), remark="" if is_same else f"{beside.told(entry)}{moved}")


def _idle(content: Content, entry: Entry, way: "Way") -> Erasure | None:
    """A line that took nothing from the artifact, and yet is said to have changed it; anybody can write one."""
    if entry.content is None:
        return None
    there = {(c.number, c.name) for c in content.classes}
    left = {(c.number, c.name) for c in entry.content.classes} - there
    return next(
        (
            erasure
            for erasure, change in way
            if not (change.centres_prompts or erasure.takes_samples or left & set(erasure.classes))
        ),
        None,
    )


def _untold(content: Content, entry: Entry, way: "Way") -> tuple[str, set[str]]:
    """What a certificate cannot say of an artifact that was erased from since; and the SHA-256 of states that it had
    since that happened, of which another certificate may speak."""
    replaced = [place for place, (erasure, change) in enumerate(way) if change.centres_prompts or erasure.takes_samples]
    first = replaced[-1] if replaced else 0
    since = {change.after for _, change in way[first:]}
    if replaced:
        return (TAKEN_LATER if way[replaced[-1]][0].takes_samples else CENTRED_LATER), since
    is_silent = bool(entry.exact) and entry.content is not None and not all(c.sums for c in entry.content.classes)
    return (SAYS_TOO_LITTLE if is_silent and way else ""), since


def _has_other_rows(content: Content, signed: SignedContent) -> bool:
    known = {(c.number, c.name): c.rows for c in signed.classes}
    return any(known.get((there.number, there.name), there.rows) != there.rows for there in content.classes)


def _changed(content: Content, entry: Entry, way: "Way" = ()) -> str:
    """What no erasure of another class changes, and is another; "" where there is none.

    Args:
        way: of erasures since. Where one centred the prompts, these are other values and sum to zero; where one took
            samples out, the classes' sums are others.
    """
    are_prompts_moved = any(change.centres_prompts for _, change in way)
    are_samples_taken = any(erasure.takes_samples for erasure, _ in way)
    signed = entry.content
    if signed is None:
        stated = dict(entry.files)
        return next((f"{name} was changed" for name, sha256 in content.files if stated.get(name) != sha256), "")
    if (signed.prompts_centred or are_prompts_moved) and not content.prompts_centred:
        return "its prompts were centred, and do not sum to zero any more: they were changed"
    known = {(c.number, c.name): c for c in signed.classes}
    for there in content.classes:
        before = known.get((there.number, there.name))
        if before is None:
            return f"the class {there.name} was put in"
        if before.prompt != there.prompt and not are_prompts_moved:
            return f"the prompt of {there.name} was changed"
        if before.sums and before.sums != there.sums and not are_samples_taken:
            return f"what {there.name} is solved from was changed"
        if before.rows != there.rows and content.sha256 == entry.sha256:
            return f"the classifier row of {there.name} was changed"
    if content.shared != signed.shared:
        return f"the {'graphs were' if content.artifact_kind == 'bundle' else 'shared weights were'} changed"
    if content.moments not in (signed.moments, NOTHING):
        return "the optimizer's moments were changed"
    return ""


def _changed_exact(content: Content, entry: Entry) -> str:
    """Whether an artifact that was certified as exact is not, or of other sums; "" where it is."""
    if entry.exact and not content.exact:
        return "its rows were changed: they are not those of what is left"
    if entry.exact != content.exact and content.sha256 == entry.sha256:
        return "its digest was changed"
    return ""


Way: TypeAlias = Sequence[tuple[Erasure, Change]]  # erasures, each from the bytes that the one before wrote


@dataclass(frozen=True)
class Beside:
    """The ledger beside an artifact: its records, and what is wrong with it."""

    place: Path
    records: Sequence[Record] = ()
    erasures: Sequence[Erasure] = ()
    problem: str = ""

    def way(self, start: str, end: str) -> Way:
        """What leads from one SHA-256 to another."""
        ways: dict[str, tuple[tuple[Erasure, Change], ...]] = {start: ()}
        for erasure, change in ((own, change) for own in self.erasures for change in own.changes):
            if change.before in ways:
                ways.setdefault(change.after, (*ways[change.before], (erasure, change)))
        return ways.get(end, ())

    def told(self, entry: Entry) -> str:
        """What the ledger says of the time after the certificate."""
        later = [erasure for erasure in self.erasures if erasure.line > entry.lines]
        names = listed(name for erasure in later for _, name in erasure.classes)
        if not names:
            is_centring = any(change.centres_prompts for erasure in later for change in erasure.changes)
            names = "of none more" if is_centring else "of groups or samples"
        return f"changed by later erasures ({names}), which the ledger beside it records and this certificate does not"


def _read_beside(path: Path) -> Beside:
    place = ledger_of(path)
    try:
        records = ledger.read(place)
        return Beside(place, records, ledger.erasures(records, place, with_samples=True))
    except StorageError as error:
        return Beside(place, problem=str(error))


def _check_ledger(path: Path, entry: Entry, beside: Beside) -> list[Check]:
    name = str(beside.place)
    if beside.problem:
        return [Check(name=name, problem=beside.problem)]
    records = beside.records
    if not records:
        needed = "the erasure's lines are quoted in the certificate" if entry.first else "none of its lines is known"
        return [Check(name=name, remark=f"there is no ledger beside the artifact; {needed}")]
    if entry.first and records[0]["hash"] != entry.first:
        return [Check(name=name, remark="it is the ledger of other files; the lines of the erasure are quoted")]
    if len(records) < entry.lines:
        told = f"{entry.lines} when the certificate was made, {len(records)} now"
        return [Check(name=name, problem=f"lines were removed at its end: {told}")]
    if records[entry.lines - 1]["hash"] != entry.head:
        problem = f"line {entry.lines} is not the one the certificate names; it is another ledger"
        return [Check(name=name, problem=problem)]
    for spoken in entry.spoken:
        if records[spoken.line - 1]["hash"] != spoken.hash:
            return [Check(name=name, problem=f"line {spoken.line} is not the erasure that the certificate names")]
    return [Check(name=name)]
