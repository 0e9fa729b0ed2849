"""Longer prompts: resurrection with more new tokens, each attack started several times; the lowest loss is kept.

A prompt of one token is little room for a class. What an attacker can check without test samples is how well a prompt
explains the samples that were stolen, and so which start was the best.
"""

from pfm.audit.attacks.attack import Measurement
from pfm.audit.attacks.resurrection import Resurrected, in_words, trial
from pfm.audit.markup import table
from pfm.audit.models import Models
from pfm.audit.resurrection import Attacker
from pfm.audit.verdict import by_rule


class LongPrompts:
    """Every number of tokens is judged as one of the resurrections is."""

    name = "long_prompts"
    about = "the weights and n samples; learns longer prompts from several starts"

    def measure(self, models: Models) -> Measurement[list[Resurrected]]:
        config = models.config
        if not models.loaded["forgotten"].model.readout.sees_prompts:
            return Measurement([])
        attacker = Attacker(models.data, models.positions, config, models.device)
        found = [
            trial(attacker, models.loaded["forgotten"], models.loaded_oracles, size=config.long_size, tokens=tokens,
                  restarts=config.restarts)
            for tokens in config.long_tokens
        ]  # fmt: skip
        judgements = [
            by_rule("scrub", f"resurrection from {in_words(entry)}, {config.restarts} starts", compared,
                    "AUROC of the class brought back is")
            for entry, compared in found
        ]  # fmt: skip
        return Measurement([entry for entry, _ in found], tuple(judgements))

    def show(self, figures: list[Resurrected]) -> str:
        if not figures:
            return ""
        rows = [
            [in_words(entry), f"{entry['forgotten']['auroc']:.3f}",
             " ".join(f"{one['auroc']:.3f}" for one in entry["retrained"]), f"{entry['control']['auroc']:.3f}",
             f"{entry['forgotten']['selective']:.3f}"]
            for entry in figures
        ]  # fmt: skip
        head = ["attack", "AUROC", "retrained models", "control", "S@n"]
        return "<h2>Resurrection with longer prompts and restarts</h2>" + table(head, rows)
