"""From the figures of an audit to one judgement a level and measure."""

from typing import Any

from pfm.audit.groups import AuditConfig
from pfm.audit.verdict import ANSWERED, FAIL, PASS, UNIFORM, Judgement, at_least, at_most, within


def judge(result: dict[str, Any], config: AuditConfig) -> list[Judgement]:
    judgements = []
    guess = 1 / result["num_classes"]
    hidden = result["utility"]["suspended"]
    low, high = hidden["forget_accuracy_interval"]
    limit = guess + ANSWERED
    judgements.append(
        Judgement(
            "suspend",
            "not answered",
            at_most(low, high, limit),
            f"without its prompt the class is answered for {hidden['forget_accuracy']:.1%} of its samples "
            f"({low:.1%} to {high:.1%}); a guess and {ANSWERED:.0%} is {limit:.1%}",
        )
    )
    shape = result["shape"]["suspended"]
    key = "unknown" if "unknown" in shape else "entropy"
    low, high = shape[f"{key}_interval"]
    what = "are answered `unknown`" if key == "unknown" else "is the mean entropy over ln C"
    limit, of_what = UNIFORM, ""
    if result["wrong_target"] == "others":  # not made to be uniform, but to answer as one that never saw the class
        certain = result["shape"]["retrained"]["entropy"]
        limit, of_what = UNIFORM * certain, f", {UNIFORM:.0%} of the retrained model's {certain:.3f}"
    judgements.append(
        Judgement(
            "suspend",
            "output shape",
            at_least(low, high, limit),
            f"{shape[key]:.3f} {what} on its samples without its prompt ({low:.3f} to {high:.3f}); at least "
            f"{limit:.3g}{of_what}",
        )
    )
    held = result["stored"]["classes"]
    again = result["stored"]["forget_accuracy"]
    judgements.append(
        Judgement(
            "erase",
            "nothing stored",
            FAIL if held else PASS,
            f"the file holds the prompt of {len(held)} of the classes (suspended, not erased); put back, they are "
            f"answered for {again:.1%} of their samples"
            if held
            else "the file holds no prompt, classifier row or moment of the classes",
        )
    )
    for name, gap in result["membership"]["gap"].items():
        judgements.append(
            Judgement(
                "scrub",
                f"membership by {name}",
                within(gap["low"], gap["high"], max(config.epsilon, 0.05)),
                f"AUC differs from that of the retrained model by {gap['gap']:+.3f} ({gap['low']:+.3f} to "
                f"{gap['high']:+.3f})",
            )
        )
    for entry in result["resurrection"]:
        judgements.append(
            Judgement(
                "scrub",
                f"resurrection from {_count(entry['n'], 'sample')}, {_count(entry['tokens'], 'token')}",
                at_most(entry["gap_low"], entry["gap_high"], config.epsilon),
                f"S@n is {entry['forgotten']['selective']:.3f}, of the retrained model "
                f"{entry['retrained'][0]['selective']:.3f}: a gap of {entry['gap']:+.3f} ({entry['gap_low']:+.3f} to "
                f"{entry['gap_high']:+.3f}), at most {config.epsilon}",
            )
        )
    gap = result["probe"]
    judgements.append(
        Judgement(
            "scrub",
            "linear probe, last layer",
            at_most(gap["gap_low"], gap["gap_high"], config.epsilon),
            f"balanced accuracy differs from the retrained model's by {gap['gap']:+.3f} ({gap['gap_low']:+.3f} to "
            f"{gap['gap_high']:+.3f})",
        )
    )
    return judgements


def _count(number: int, what: str) -> str:
    return f"{number} {what}" + "s" * (number != 1)
