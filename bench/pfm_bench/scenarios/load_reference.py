"""The right answers to the requests of a load test: those of a session on a copy of the bundle."""

from collections.abc import Sequence
from pathlib import Path

from pfm.errors import ClassNameError
from pfm_bench.scenarios.load_checks import Answer, Question
from pfm_export.serving.session import PromptSession


class SessionAnswers:
    """What `PromptSession` answers, one request at a time.

    Args:
        folder: a bundle that nobody changes.
        device: that the server has.
        threads: of one pass on the CPU; 0 leaves the choice to ONNX Runtime.

    Attributes:
        session, threads: that answers, and so many.
    """

    def __init__(self, folder: Path, *, device: str = "cpu", threads: int = 0) -> None:
        self.session = PromptSession(folder, device=device, threads=threads)
        self.threads = threads
        self._known: dict[tuple[Question, tuple[str, ...]], Answer | None] = {}

    def __call__(self, question: Question, classes: Sequence[str]) -> Answer | None:
        """The answer with exactly these classes; None where the copy does not have them."""
        key = (question, tuple(classes))
        if key not in self._known:
            self._known[key] = self._answer(question, tuple(classes))
        return self._known[key]

    def _answer(self, question: Question, classes: tuple[str, ...]) -> Answer | None:
        try:
            found = self.session.predict(question.inputs, classes)
        except ClassNameError:
            return None
        return Answer(found.labels[0], dict(zip(found.classes, found.probabilities[0].tolist(), strict=True)))
