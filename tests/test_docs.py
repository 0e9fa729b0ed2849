"""README, CONTRIBUTING and docs/: their links, commands, code and figures are those that the project has."""

import ast
import functools
import importlib
import json
import re
import shlex
from collections.abc import Iterable, Iterator
from pathlib import Path
from statistics import mean
from typing import Any

import click
import pytest

from pfm.cli import pfm
from pfm_bench.reports.packed import pack, runs_of

ROOT = Path(__file__).parent.parent
RESULTS = ROOT / "bench" / "pfm_bench" / "results"
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
HISTORY = "decisions.md"  # its entries keep the commands of their day
# What the pages show and the project does not have yet; the last test says when an entry is to go.
PENDING: set[str] = set()
PENDING_IMPORTS: set[str] = set()

FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
SPAN = re.compile(r"`([^`\n]+)`")
LINK = re.compile(r"\]\(([^()\s]+)\)")
HEADING = re.compile(r"^#{1,6} (.+)$", re.MULTILINE)
RESULT = re.compile(r"bench/pfm_bench/results/(\w+\.json)")
NAMED = re.compile(r"--\w+")
COMMAND = re.compile(r"\bpfm [a-z]+|\bpython bench/\w+\.py")


def every_page(pages: Iterable[Path] = PAGES) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("page", pages, ids=lambda page: page.name)


@functools.cache
def text_of(page: Path) -> str:
    return page.read_text(encoding="utf-8")


def blocks(page: Path, *languages: str) -> list[str]:
    return [code for language, code in FENCE.findall(text_of(page)) if language in languages]


def prose(page: Path) -> str:
    return FENCE.sub("", text_of(page))


@functools.cache
def anchors(page: Path) -> set[str]:
    """What a link may have behind its `#`, by GitHub's rules."""
    found: dict[str, int] = {}
    for heading in HEADING.findall(prose(page)):
        words = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading).strip().lower()
        slug = re.sub(r"[^\w\- ]", "", words).replace(" ", "-")
        found[slug] = found.get(slug, -1) + 1
    return {slug if again == 0 else f"{slug}-{again}" for slug, count in found.items() for again in range(count + 1)}


# --- links --------------------------------------------------------------------------------------


def test_the_readme_has_at_most_150_lines_and_shows_both_commands() -> None:
    readme = text_of(ROOT / "README.md")
    assert len(readme.splitlines()) <= 150
    assert "\npip install -q uv && uv run pfm demo\n" in readme
    assert "\npip install -q uv && uv run pytest\n" in readme


@every_page()
def test_every_link_and_anchor_resolves(page: Path) -> None:
    for link in LINK.findall(prose(page)):
        if link.startswith("https://"):
            continue
        name, _, anchor = link.partition("#")
        target = (page.parent / name).resolve() if name else page
        assert target.exists(), f"{page.name} links to {link}, which is not there"
        assert target.is_relative_to(ROOT), f"{page.name} links to {link}, outside the checkout"
        assert not anchor or anchor in anchors(target), f"{page.name} links to {link}, which has no such heading"


@every_page()
def test_no_page_names_a_path_of_one_machine(page: Path) -> None:
    assert not re.findall(r"(?<![\w.~])/(?:home|tmp|root|mnt|work|Users)/\S*", text_of(page))


def test_no_result_file_is_larger_than_300_kib() -> None:
    assert {path.name: path.stat().st_size for path in RESULTS.iterdir() if path.stat().st_size > 300 * 1024} == {}


def test_packed_runs_are_those_that_were_packed() -> None:
    first = {"a": {"x": 1, "low": [0.1, 0.2]}, "attacks": [{"n": 1}, {"n": 10}], "none": None, "empty": {}, "no": []}
    runs = {"one": first, "two": {"a": {"x": 2}, "b": "text"}}
    assert runs_of(json.loads(json.dumps({"runs": pack(runs)}))) == runs
    assert runs_of({"runs": runs}) == runs


def test_every_picture_is_shown() -> None:
    shown = {(page.parent / link).resolve() for page in PAGES for link in LINK.findall(prose(page))}
    assert {path.name for path in (ROOT / "docs" / "pictures").iterdir() if path not in shown} == set()


@every_page()
def test_every_picture_is_described_for_those_who_cannot_see_it(page: Path) -> None:
    assert [link for text, link in re.findall(r"!\[([^\]]*)\]\(([^)]+)\)", prose(page)) if len(text.split()) < 5] == []


def test_the_index_of_decisions_lists_each_once_and_the_newest_are_first() -> None:
    page = ROOT / "docs" / HISTORY
    index, *entries = re.split(r"^## (?=\d{4}-)", prose(page), flags=re.MULTILINE)
    titles = [entry.splitlines()[0] for entry in entries]
    listed = [
        f"{date}: {title}" for date, title in re.findall(r"^- (\d{4}-\d\d-\d\d) \[(.+)\]\(#", index, re.MULTILINE)
    ]
    assert sorted(listed) == sorted(titles)
    dates = [title[:10] for title in titles]
    assert dates == sorted(dates, reverse=True)


def test_the_workflow_calls_what_has_to_pass() -> None:
    assert "- run: bash .ci/run\n" in text_of(ROOT / ".github" / "workflows" / "ci.yml")


# --- commands -----------------------------------------------------------------------------------


def shell_commands(page: Path) -> Iterator[list[str]]:
    """The words of each command in the page's shell blocks."""
    for block in blocks(page, "", "sh"):
        for line in block.replace("\\\n", " ").splitlines():
            for command in " ".join(shlex.quote(word) for word in shlex.split(line, comments=True)).split(" '&&' "):
                words = shlex.split(command)
                yield words[2:] if words[:2] == ["uv", "run"] else words


def find_command(words: list[str]) -> tuple[str, click.Command | None, list[str]]:
    """The path of a command such as `pfm export onnx`, the command (None: not there), and the words behind it."""
    path, command, rest = "pfm", pfm, words[1:]
    while isinstance(command, click.Group) and rest:
        if path == "pfm bench" and rest[0].startswith("-"):
            rest = ["serve", *rest]
        path = f"{path} {rest[0]}"
        command, rest = command.get_command(click.Context(command), rest[0]), rest[1:]
    return path, command, rest


def option_names(command: click.Command) -> set[str]:
    return {name for parameter in command.params for name in (*parameter.opts, *parameter.secondary_opts)} | {"--help"}


def check_pfm(words: list[str], *, is_whole: bool = True) -> None:
    """Fail where a command line is none.

    Args:
        is_whole: a command line that could be run, and not one in a sentence, which may leave things out.
    """
    path, command, rest = find_command(words)
    if path in PENDING:
        return
    assert command is not None, f"there is no {path}"
    for word in [word for word in rest if f"{path} {word}" in PENDING]:
        place = rest.index(word)
        rest = rest[:place] + rest[place + 2 :]
    for word in rest:
        assert not word.startswith("--") or word in option_names(command), f"{path} has no {word}"
    if is_whole and not isinstance(command, click.Group):
        try:
            command.make_context(path, rest)
        except click.ClickException as error:
            pytest.fail(f"{shlex.join(words)}: {error.format_message()}")


def check_script(words: list[str]) -> None:
    """Fail where `python FILE …` names no file of ours, or an option that it does not have."""
    script = ROOT / words[1]
    assert script.is_file(), f"there is no {words[1]}"
    for word in words[2:]:
        assert not word.startswith("--") or f'"{word}"' in text_of(script), f"{words[1]} has no {word}"


@every_page()
def test_every_command_in_a_block_can_be_run(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for block in blocks(page, "yaml"):  # its first line is its name
        (tmp_path / block.splitlines()[0].removeprefix("# ")).write_text(block)
    for words in shell_commands(page):
        if words[:1] == ["pfm"]:
            check_pfm(words)
        elif words[:1] == ["python"]:
            check_script(words)
        elif words[:2] == ["accelerate", "launch"]:
            assert (ROOT / words[words.index("--config_file") + 1]).is_file()
            check_pfm(["pfm", "train", *words[words.index("pfm/train.py") + 1 :]])


@every_page([page for page in PAGES if page.name != HISTORY])
def test_every_command_and_option_in_a_sentence_is_there(page: Path) -> None:
    known = {name for path in every_command() for name in option_names(path)}
    known |= {word.split()[-1] for word in PENDING if "--" in word}
    for span in SPAN.findall(prose(page)):
        words = span.replace("'", "").split()
        if words[0] == "pfm" and len(words) > 1 and words[1].islower():
            check_pfm(words, is_whole=False)
        elif words[0] == "python" and words[1].endswith(".py"):
            check_script(words)
        elif words[0].startswith("--"):
            assert words[0].replace("-", "_").replace("__", "--", 1) in known, f"no command has {words[0]}"


def test_every_option_of_every_command_is_on_some_page_with_its_default() -> None:
    pages = "".join(text_of(page) for page in PAGES if page.name != HISTORY)
    said = {*NAMED.findall(pages), "--version"}
    assert [names for command in every_command() for names in whole_names(command) if not names & said] == []
    defaults: dict[str, set[str]] = {}
    for command in every_command():
        for option in command.params:
            for name in option.opts:
                defaults.setdefault(name, set()).add(str(option.default))
    wrong = [(name, said) for name, said in re.findall(r"`(--\w+)` \(([\d.]+)\)", pages) if said not in defaults[name]]
    assert wrong == []


def whole_names(command: click.Command) -> Iterator[set[str]]:
    """The names of each option of a command, one of which has to be said."""
    for option in command.params:
        if isinstance(option, click.Option):
            yield {*option.opts, *option.secondary_opts}


@functools.cache
def every_command() -> tuple[click.Command, ...]:
    def walk(command: click.Command) -> Iterator[click.Command]:
        yield command
        if isinstance(command, click.Group):
            for name in command.list_commands(click.Context(command)):
                child = command.get_command(click.Context(command), name)
                assert child is not None
                yield from walk(child)

    return tuple(walk(pfm))


# --- code ---------------------------------------------------------------------------------------


@every_page()
def test_the_code_compiles_and_imports_what_is_there(page: Path) -> None:
    for code in blocks(page, "python"):
        tree = ast.parse(code, f"{page.name}: {code.splitlines()[0]}")
        for node in ast.walk(tree):
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("pfm"):
                for alias in node.names:
                    name = f"{node.module}.{alias.name}"
                    assert name in PENDING_IMPORTS or can_import(name), f"{page.name}: cannot import {name}"


def can_import(name: str) -> bool:
    module, _, attribute = name.rpartition(".")
    return hasattr(importlib.import_module(module), attribute)


# --- figures ------------------------------------------------------------------------------------


def sections(page: Path) -> list[str]:
    """The page cut at its headings; `#` inside a block is none."""
    hidden = FENCE.sub(lambda match: match.group().replace("#", " "), text_of(page))
    return re.split(r"^#{1,6} ", hidden, flags=re.MULTILINE)


def test_every_result_file_is_named_with_its_command_and_every_named_one_exists() -> None:
    committed = {path.name for path in RESULTS.glob("*.json")}
    parts = [part for page in PAGES for part in sections(page)]
    assert {name for part in parts for name in RESULT.findall(part)} <= committed
    assert {name for part in parts if COMMAND.search(part) for name in RESULT.findall(part)} == committed


def load(name: str) -> Any:
    return json.loads((RESULTS / name).read_text())


def percents(*shares: float) -> str:
    return " / ".join("0" if share == 0 else f"{100 * share:.1f}" for share in shares) + " %"


def over_seeds(file: str, prefix: str) -> str:
    """The cells of a row: all classes, kept, removed; each for `cls` and `prompt`, the mean over three seeds."""
    runs = load(file)["runs"]
    found = {
        readout: [runs[f"{prefix}_{readout}_seed{seed}"]["evaluation"] for seed in (42, 2, 3)]
        for readout in ("cls", "prompt")
    }
    full = percents(*(mean(run["modes"]["full_bank"] for run in found[readout]) for readout in found))
    retain = percents(*(mean(one_removed(run)["retain_mean"] for run in found[readout]) for readout in found))
    forget = percents(*(mean(one_removed(run)["forget_mean"] for run in found[readout]) for readout in found))
    return f"{full} | {retain} | {forget}"


def one_removed(evaluation: Any) -> Any:
    return next(entry for entry in evaluation["subsets"] if entry["k"] == 1)


def figures() -> Iterator[tuple[str, str]]:
    """What the README's tables have to say, with the file that says so."""
    demo = load("demo.json")["results"]
    cells = [percents(*(demo[r][key] for r in ("cls", "prompt"))) for key in ("full_bank", "retain_k1", "forget_k1")]
    yield " | ".join(cells), "demo.json"
    yield over_seeds("recipes.json", "mednist"), "recipes.json"
    yield over_seeds("recipes_fsdd.json", "fsdd_speaker"), "recipes_fsdd.json"
    exact = load("ridge.json")
    yield percents(*(exact[name]["mean"]["full_bank"] for name in ("digits", "mednist", "fsdd_speaker"))), "ridge.json"
    attacks = [run["resurrection"][0] for name, run in runs_of(load("audit_digits.json")).items() if "_cls_" in name]
    erased = mean(attack["forgotten"]["selective"] for attack in attacks)
    yield percents(erased, mean(attack["retrained"][0]["selective"] for attack in attacks)), "audit_digits.json"
    yield f"{load('forget.json')['erase_to_first_prediction']['bundle']['p50_ms']:.1f} ms", "forget.json"
    cases = load("bench_serve_vit_base.json")["cases"]
    by_target = {case["target"]: case for case in cases if (case["batch_size"], case["num_prompts"]) == (1, 10)}
    ratios = [by_target[name]["ratio_to_reference"]["wall"]["median"] for name in ("ort-cpu", "ort-cpu int8")]
    yield " / ".join(f"×{ratio:.2f}" for ratio in ratios), "bench_serve_vit_base.json"
    variants = load("bench_train_vit_small.json")["variants"]
    steps = {variant["name"]: variant["speed_to_reference"]["wall"]["median"] for variant in variants}
    yield f"{steps['ours']:.2f} / {steps['ours L=6 cached bf16']:.2f}", "bench_train_vit_small.json"


def test_the_readmes_figures_are_those_of_their_files() -> None:
    rows = [line for line in text_of(ROOT / "README.md").splitlines() if RESULT.search(line)]
    for figure, file in figures():
        row = next(row for row in rows if file in RESULT.findall(row))
        assert f"| {figure} |" in row, f"{file} says {figure}, the README: {row}"
    assert len(rows) == len(list(figures()))


# what a sentence states, and where the code has it
COUNTS = (
    ("training.md", r"within (\w+) seconds, the cache serves", "pfm.hub:_CONNECT_S"),
    ("training.md", r"or over (\d+) of them drawn", "pfm.evaluation.config:EvalConfig.max_subsets"),
    ("training.md", r"in (\d+) bins", "pfm.evaluation.measures:BINS"),
    ("training.md", r"a probability of (\d+) % or more", "pfm.evaluation.removal:SURE"),
    ("training.md", r"LoRA of rank (\d+) on", "pfm.model.config:LoraSettings.lora_r"),
    ("training.md", r"Adam\s+at (\S+), batch", "pfm.training.config:TrainConfig.lr"),
    ("training.md", r", batch (\d+), \d+ epochs\.", "pfm.training.config:TrainConfig.batch_size"),
    ("training.md", r", batch \d+, (\d+) epochs\.", "pfm.training.config:TrainConfig.epochs"),
    ("training.md", r"class's first\s+(\d+) training samples, `secret`", "pfm.model.starts.data:SAMPLES"),
    ("training.md", r"they have (\w+) times the learning rate", "pfm.model.starts.common:Common.prompt_lr"),
    ("training.md", r"`prompt` \((\w+) classes and more\)", "pfm.training.setup:FEWEST_NESTED"),
    ("forgetting.md", r"SHA-256 of each of its first (\d+) training samples", "pfm.model.starts.data:SAMPLES"),
    ("audit.md", r"models\*, (\w+) of them", "pfm.audit.config:QUICK.oracles"),
    ("audit.md", r"`--full` trains (\w+), and up", "pfm.audit.config:FULL.oracles"),
    ("audit.md", r"and up to (\w+) where these differ", "pfm.audit.config:FULL.most_oracles"),
    ("audit.md", r"(\d+) points above chance", "pfm.audit.rule:Tolerance.KNOWN"),
    ("audit.md", r"tolerance is ([\d.]+) for areas", "pfm.audit.rule:Tolerance.AREA"),
    ("audit.md", r"membership of the class ([\d.]+),", "pfm.audit.rule:Tolerance.MEMBERSHIP"),
    ("audit.md", r"of the retained ([\d.]+),", "pfm.audit.rule:Tolerance.MEMBERSHIP_RETAINED"),
    ("audit.md", r"entropy ([\d.]+),", "pfm.audit.rule:Tolerance.ENTROPY"),
    ("audit.md", r"cosine ([\d.]+), share", "pfm.audit.rule:Tolerance.COSINE"),
    ("audit.md", r"share `unknown`\s+([\d.]+),", "pfm.audit.rule:Tolerance.UNKNOWN"),
    ("audit.md", r"divergence and accuracy of neighbours ([\d.]+)\. ", "pfm.audit.rule:Tolerance.DIVERGENCE"),
    ("audit.md", r"accuracy of neighbours ([\d.]+)\. ", "pfm.audit.rule:Tolerance.RETAINED"),
    ("audit.md", r"a cosine of ([\d.]+), beyond", "pfm.audit.attacks.derivable:KEY"),
    ("audit.md", r"made again,\s+(\d+) times and more", "pfm.audit.config:QUICK.random_rounds"),
    ("serving.md", r"above `--max_pixels` \(([\d,]+),", "pfm.data.limits:MOST_PIXELS"),
    ("serving.md", r"`--max_expansion` \((\d+)\)", "pfm.data.limits:MOST_EXPANSION"),
    ("serving.md", r"has to be there within (\d+) seconds", "pfm_export.service.connection:HEAD_SECONDS"),
    ("serving.md", r"A token has (\d+) characters", "pfm_export.service.tenants:SHORTEST"),
    ("serving.md", r"JPEGs of more than (\d+) scans", "pfm.data.pixels:MOST_SCANS"),
    ("serving.md", r"\(DICOM: (\d+)\)", "pfm.data.packed_frames:MOST_EXPANSION"),
    ("serving.md", r"takes less than ([\d.]+) ms of the processor", "pfm_export.service.thread_choice:QUICK_MS"),
)
WORDS = {"three": 3, "four": 4, "five": 5, "ten": 10, "twenty": 20}


@pytest.mark.parametrize(("page", "sentence", "place"), COUNTS, ids=[place for _, _, place in COUNTS])
def test_a_number_in_a_sentence_is_that_of_the_code(page: str, sentence: str, place: str) -> None:
    module, _, names = place.partition(":")
    value: Any = functools.reduce(getattr, names.split("."), importlib.import_module(module))
    (stated,) = re.findall(sentence, text_of(ROOT / "docs" / page))
    number = WORDS.get(stated) or float(stated.replace(",", ""))
    is_share = re.search(r"% or more|points", sentence) is not None
    assert number == pytest.approx(100 * value if is_share else value)


# --- what is still missing ----------------------------------------------------------------------


def test_what_is_pending_is_not_there_yet() -> None:
    """Fails once it is: take it out of the list then."""
    for line in PENDING:
        *words, last = line.split()
        if last.startswith("--"):
            command = find_command(words)[1]
            assert command is not None
            assert last not in option_names(command), f"{line} is there: take it out of PENDING"
        else:
            assert find_command(line.split())[1] is None, f"{line} is there: take it out of PENDING"
    assert not [name for name in PENDING_IMPORTS if can_import(name)], "it is there: take it out of PENDING_IMPORTS"
