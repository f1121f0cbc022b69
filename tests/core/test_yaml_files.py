"""YAML files that people edit: one that YAML would misread is refused with its file, line and fix."""

from collections.abc import Callable
from pathlib import Path

import pytest

from core.errors import ContractError
from crm_sync.destinations.factory import load_options
from crm_sync.field_mapping import load_fields
from jobs.transform.funnel import load_funnel
from scoring.features_file import load_contract
from scoring.policy import load_policy
from training.config import TrainingRules, load_training

QUOTE = "Put it in quotes."
DIGITS = "Write digits, without quotes."
NUMBER = "not a plain number. Write digits and a decimal point, or quote it if it is text."
DEEP = "line 1: nested more than 20 deep. Check for an open bracket."
BOMB = "a: &a [x, x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"{name}: &{name} [{', '.join([f'*{before}'] * 10)}]\n" for before, name in zip("abcde", "bcdef", strict=True)
)
LOADERS: dict[str, Callable[[Path], object]] = {
    "funnel.yml": load_funnel,
    "vouchers.yml": load_policy,
    "crm_fields.yml": load_fields,
    "features.yml": load_contract,
    "crm.yml": load_options,
    "training.yml": load_training,
}

every_file = pytest.mark.parametrize("name", LOADERS)


def refusal(folder: Path, name: str, content: str | bytes) -> str:
    path = folder / name
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    with pytest.raises(ContractError) as caught:
        LOADERS[name](path)
    assert caught.value.exit_code == 2
    assert caught.value.__suppress_context__
    return str(caught.value)


@every_file
@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        ("", "it is empty, or has nothing but comments. Restore its contents."),
        ("# all\n# gone\n", "it is empty, or has nothing but comments. Restore its contents."),
        ("a: 1\nb: \xe4".encode("latin-1"), "line 2: it is not UTF-8. Save it as UTF-8."),
        ("a: 1".encode("utf-16"), "line 1: it is UTF-16. Save it as UTF-8."),
        ("a: 1\nb: x\x00", "line 2: a control character that YAML does not allow. Remove it."),
        ("a:\n\t- x", "line 2: a tab where YAML needs spaces. Replace it by spaces."),
        ("a: 1\nb: 2\na: 3", "line 3, a: given twice; the first is in line 1. Keep one."),
        ("a: {b: 1, c: 2, b: 3}", "line 1, a.b: given twice; the first is in line 1. Keep one."),
        ("a:\n  - {b: 1}\n  - {b: 1,\n     'b': 2}", "line 4, a.1.b: given twice; the first is in line 3. Keep one."),
        ("a: 1\non: 2", f"line 2: a key that YAML does not read as text. {QUOTE}"),
        ("7: 2", f"line 1: a key that YAML does not read as text. {QUOTE}"),
        ("? [a]\n: 2", "line 1: a key that is a list or a mapping. Write a name."),
        ("a: " + "[" * 20_000, DEEP),
        ("a: " + "{a: " * 20_000, DEEP),
        ("- " * 20_000, DEEP),
        (BOMB, "line 5: more than 50,000 values with aliases expanded. Check that it is the right file."),
        ("a: &a\n  - *a", "line 2: an alias that contains itself. Write the value out."),
        ("a: !!python/name:os.system", "line 1: a tag, which begins with an exclamation mark. Write the plain value."),
        ("a: !env HOME", "line 1: a tag, which begins with an exclamation mark. Write the plain value."),
        ("a: &a {b: 1}\nc: {<<: *a, d: 2}", "line 2, c: keys merged from elsewhere (<<). Write the values out."),
        ("a: &a {b: 1}\n<<: [*a, *a]", "line 2: keys merged from elsewhere (<<). Write the values out."),
        ("a: 1\n---\nb: 1", "line 2: a second document begins. Keep one, without lines of ---."),
        ("a: 030", f"line 1, a: {NUMBER}"),
        ("a: 1:30", f"line 1, a: {NUMBER}"),
        ("a: 0x1F", f"line 1, a: {NUMBER}"),
        ("a: [1, .nan]", f"line 1, a.1: {NUMBER}"),
        ("a: -.inf", f"line 1, a: {NUMBER}"),
        ("a: " + "9" * 5_000, "line 1, a: a number of more than 18 digits. Write a smaller one."),
        ("x" * (1 << 21), "it is larger than 1 MB. Check that it is the right file."),
        (
            "a: [",
            "line 1: it is not YAML: while parsing a flow node, expected the node content, but found '<stream end>'. "
            "Check brackets, quotes, colons and indentation here and in the line above.",
        ),
        (
            "a: b: c",
            "line 1: it is not YAML: mapping values are not allowed here. "
            "Check brackets, quotes, colons and indentation here and in the line above.",
        ),
    ],
    ids=lambda value: repr(value[:24]),
)
def test_what_yaml_would_take_for_something_else_is_refused(
    tmp_path: Path, name: str, content: str | bytes, sentence: str
) -> None:
    assert refusal(tmp_path, name, content).split(": ", 1)[1] == sentence


@every_file
def test_what_is_no_file_is_refused_with_its_name(tmp_path: Path, name: str) -> None:
    (tmp_path / name).mkdir()
    with pytest.raises(ContractError, match=rf"{name} is not a valid .*: it is a folder\. Put a file in its place\."):
        LOADERS[name](tmp_path / name)


@every_file
def test_a_byte_order_mark_changes_nothing(tmp_path: Path, name: str) -> None:
    shipped = Path(__file__).parents[2] / "config" / name
    (tmp_path / name).write_bytes(b"\xef\xbb\xbf" + shipped.read_bytes().replace(b"\n", b"\r\n"))
    assert LOADERS[name](tmp_path / name) == LOADERS[name](shipped)


FUNNEL = "completion_events: [a]\n"
PLAIN = "{name: seen, type: number, range: [0, 1], low: seen}"


@pytest.mark.parametrize(
    ("name", "content", "sentence"),
    [
        (
            "funnel.yml",
            "completion_events: [yes]",
            f"line 1, completion_events.0: YAML reads it as true or false, and text is needed. {QUOTE}",
        ),
        (
            "funnel.yml",
            FUNNEL + "steps:\n  - a\n  - 7",
            f"line 4, steps.1: is a number, and text is needed. {QUOTE}",
        ),
        ("funnel.yml", FUNNEL + "steps: [~]", f"line 2, steps.0: is empty, and text is needed. {QUOTE}"),
        ("funnel.yml", FUNNEL + "steps: [a, b, a]", "line 2, steps.2: given more than once: a. Keep one of each."),
        (
            "funnel.yml",
            "completion_events: [a, b]\nclosing_events: [c, a]",
            "line 2, closing_events.1: given as more than one outcome: a. Keep one of each.",
        ),
        (
            "funnel.yml",
            FUNNEL + "event_kinds:\n  input: [x, y]\n  error: [z, x]",
            "line 4, event_kinds.error.1: given more than one kind, or one twice: x. Keep one of each.",
        ),
        (
            "funnel.yml",
            FUNNEL + "session_gap_minutes: true",
            f"line 2, session_gap_minutes: is true or false, and a whole number is needed. {DIGITS}",
        ),
        (
            "funnel.yml",
            FUNNEL + "session_gap_minutes: '30'",
            f"line 2, session_gap_minutes: is text, and a whole number is needed. {DIGITS}",
        ),
        ("funnel.yml", FUNNEL + "pause_seconds: 86401", "line 2, pause_seconds: must be 86400 or less. Correct it."),
        (
            "funnel.yml",
            FUNNEL + "sesion_gap_minutes: 30",
            "line 2, sesion_gap_minutes: this key does not exist; did you mean session_gap_minutes?",
        ),
        ("vouchers.yml", "voucher: {valid_days: 3000000}", "line 1, voucher.valid_days: must be 3650 or less. Correct it."),
        (
            "vouchers.yml",
            "voucher: {budget_per_day: yes}",
            f"line 1, voucher.budget_per_day: is true or false, and a whole number is needed. {DIGITS}",
        ),
        (
            "vouchers.yml",
            "experiment: {holdout_ratio: true}",
            "line 1, experiment.holdout_ratio: is true or false, and a number is needed. "
            "Write digits and a decimal point, without quotes.",
        ),
        ("crm_fields.yml", "tell_holdout: 1", "line 1, tell_holdout: is a number, and true or false is needed. "
            "Write true or false, without quotes."),
        ("crm.yml", "braze: {max_batch: 1000000000000}", "line 1, braze.max_batch: must be 75 or less. Correct it."),
        ("crm.yml", "braze:", "line 1, braze: is empty, and names with values is needed. Write each as `name: value`."),
        ("training.yml", "seed: 4294967296", "line 1, seed: must be less than 4294967296. Correct it."),
        (
            "features.yml",
            "features:\n  - {name: age, type: number, range: [9, 1]}",
            "line 2, features.0: feature age: the first number of its range must not be above the second",
        ),
        *[("features.yml", f"features:\n- {PLAIN}\n- name: age\n  type: {content}", sentence) for content, sentence in {
            "number\n  range: [0, 1]\n  low: 'a; b'": "line 6, features.1.low: feature age: a phrase holds a semicolon, "
                "which separates reasons. Use a comma.",
            "number\n  range: [0, 1]\n  low: seen": "line 6, features.1.low: phrase given twice: seen. Keep one.",
            "number\n  range: [0, 1]\n  median: 3":
                "line 6, features.1.median: feature age: median is set by training. Remove it.",
            "category\n  categories: [a]":
                "line 5, features.1.categories: feature age: categories is set by training. Remove it.",
            "category\n  levels: []": "line 5, features.1.levels: feature age: no level is allowed. Name some, or remove levels.",
            "category\n  levels: [a,\n    b, a]": "line 6, features.1.levels.2: feature age: a level is given twice. Keep one.",
            "category\n  levels: [other]":
                "line 5, features.1.levels.0: feature age: other stands for all other levels. Remove it.",
        }.items()],
        (
            "features.yml",
            f"features:\n- {PLAIN}\n- {PLAIN}",
            "line 3, features.1.name: feature given twice: seen. Keep one.",
        ),
    ],
)  # fmt: skip
def test_a_wrong_value_is_told_with_its_line_and_what_to_write(
    tmp_path: Path, name: str, content: str, sentence: str
) -> None:
    assert f"  {sentence}" in refusal(tmp_path, name, content).split("\n")


def test_a_date_is_text_as_it_is_written(tmp_path: Path) -> None:
    (tmp_path / "funnel.yml").write_text("completion_events: [2026-01-31]")
    assert load_funnel(tmp_path / "funnel.yml").completion_events == ["2026-01-31"]


def test_aliases_may_be_used(tmp_path: Path) -> None:
    (tmp_path / "crm.yml").write_text("braze: &same {max_batch: 7}\nhubspot: *same")
    assert load_options(tmp_path / "crm.yml").hubspot.max_batch == 7  # type: ignore[attr-defined]


@pytest.mark.parametrize("name", ["<<", "=", "2026-01-31", "a b", "naïve 😀", "a\u200cb", "👩\u200d💻", "x" * 1000])
def test_an_event_may_have_any_name_that_can_be_seen(tmp_path: Path, name: str) -> None:
    (tmp_path / "funnel.yml").write_text(f"completion_events: [{name}]")
    assert load_funnel(tmp_path / "funnel.yml").completion_events == [name]


AROUND = "has blanks or invisible characters around it. Remove them."
WITHIN = "holds a control or invisible character. Type it again."


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("", "is empty or invisible. Write a name."),
        *[
            (name, "is empty or invisible. Write a name.")
            for name in (" ", "\\u200b", "\\u00a0\\u3164", "\\u2800", "\\0")
        ],
        *[(name, AROUND) for name in (" done", "done ", "done\\n", "\\tdone", "\\ufeffdone", "done\\u200b", "\\0done")],
        *[(name, WITHIN) for name in ("do\\0ne", "do\\nne", "do\\u200bne", "do\\u00adne", "do\\u202ene", "do\\x9fne")],
        ("x" * 1001, "is longer than 1,000 characters. Correct it."),
    ],
)
def test_a_name_that_does_not_show_is_refused(tmp_path: Path, name: str, told: str) -> None:
    assert f"  line 2, steps.1: {told}" in refusal(tmp_path, "funnel.yml", f'{FUNNEL}steps: [a, "{name}"]').split("\n")
    features = f'features:\n- {{name: x, type: category,\n   levels: [a, "{name}"]}}'
    assert refusal(tmp_path, "features.yml", features).endswith(
        f"line 3, features.0.levels.1: feature x: a level {told}"
    )


@pytest.mark.parametrize("name", ["crm.yml", "training.yml"])
def test_an_optional_file_with_the_other_ending_is_not_left_unread_in_silence(tmp_path: Path, name: str) -> None:
    other = name.replace("yml", "yaml")
    assert load_training(tmp_path / "training.yml") == TrainingRules()
    (tmp_path / other).write_text("a: 1")
    with pytest.raises(ContractError, match=f"{other} is not read: the file is called {name}. Rename it."):
        LOADERS[name](tmp_path / name)


@pytest.mark.parametrize("name", ["crm.yml", "training.yml"])
def test_an_optional_file_whose_link_leads_nowhere_is_refused(tmp_path: Path, name: str) -> None:
    (tmp_path / name).symlink_to(tmp_path / "gone")
    with pytest.raises(ContractError, match=f"{name} does not exist in"):
        LOADERS[name](tmp_path / name)
