"""Classes by name, number and position."""

import re
from typing import Any

import numpy as np
import pytest

from pfm.classes import ClassList, Typed, check_removal, check_unknown, class_keys, listed, names_meant, split_names
from pfm.errors import ClassNameError

ANIMALS = ClassList.from_names(["cat", "dog", "horse", "mouse"])


def test_classes_from_names_are_counted_from_zero() -> None:
    assert ANIMALS.ids == (0, 1, 2, 3)
    assert len(ANIMALS) == 4


def test_a_string_is_a_name_and_an_int_a_number() -> None:
    assert ANIMALS.position("dog") == 1
    assert ANIMALS.position(1) == ANIMALS.position(np.int64(1)) == 1  # type: ignore[arg-type]  # numpy's count too
    with pytest.raises(ClassNameError, match="no class '1'; a string is a name, so give a number as an int, 1"):
        ANIMALS.position("1")
    numbered = ClassList.from_names(["2", "0", "1"])
    assert [numbered.position(key) for key in ("0", "1", "2", 0, 1, 2)] == [1, 2, 0, 0, 1, 2]


def test_a_bare_string_is_one_class_and_not_its_letters() -> None:
    digits = ClassList.from_names([str(digit) for digit in range(12)])
    assert digits.positions("10") == digits.positions(["10"]) == digits.positions(10) == [10]
    assert digits.split_erased("10", ()) == ([10], [])
    assert class_keys("a,b") == ("a,b",)


@pytest.mark.parametrize("keys", [b"10", [b"1"], 1.0, [None], True, [True], None])
def test_what_is_neither_a_name_nor_a_number_is_refused(keys: Any) -> None:
    with pytest.raises(ClassNameError, match="names no class"):
        ANIMALS.positions(keys)


def test_blanks_belong_to_a_name() -> None:
    classes = ClassList.from_names(["cat", " cat", "cat "])
    assert [classes.position(name) for name in classes.names] == [0, 1, 2]
    with pytest.raises(ClassNameError, match="no class ' horse '; did you mean 'horse'"):
        ANIMALS.position(" horse ")


def test_a_number_is_that_of_the_class_and_not_its_place() -> None:
    left = ANIMALS.without([1])
    assert left.ids == (0, 2, 3)
    assert left.position(3) == 2
    with pytest.raises(ClassNameError, match="no class 1 "):
        left.position(1)


@pytest.mark.parametrize("key", ["-1", "1.0", "", "²", "4", "٤", -1, 4])
def test_what_is_no_class_is_refused(key: str | int) -> None:
    with pytest.raises(ClassNameError, match=re.escape(f"no class {key!r}")):
        ANIMALS.position(key)


def test_a_misspelt_name_gets_a_suggestion() -> None:
    with pytest.raises(ClassNameError, match=r"no class 'hosre'; did you mean 'horse'\? \(classes: 0 cat, 1 dog"):
        ANIMALS.position("hosre")
    with pytest.raises(ClassNameError, match="no class 'zzz' "):
        ANIMALS.position("zzz")


def test_a_name_of_another_case_gets_a_suggestion() -> None:
    with pytest.raises(ClassNameError, match="did you mean 'dog'"):
        ANIMALS.position("DOG")


def test_several_classes_come_in_order_and_once() -> None:
    assert ANIMALS.positions(["mouse", 0, "cat", 3]) == [0, 3]
    assert ANIMALS.positions([]) == []


# --- on the command line ----------------------------------------------------------------------------


def meant(*texts: str, literal: bool = False, **known: ClassList) -> list[str]:
    return names_meant([Typed(text, is_literal=literal) for text in texts], known or {"it": ANIMALS})


def test_a_name_wins_and_a_number_counts_where_no_name_is_one() -> None:
    assert meant("dog", "0", "cat") == ["dog", "cat"]
    assert meant("1", it=ClassList.from_names(["2", "0", "1"])) == ["1"]
    assert meant("3", it=ANIMALS.without([1])) == ["mouse"]


@pytest.mark.parametrize("names", [("2", "3", "5"), ("a", "b", "7"), ("1", "cat")])
def test_a_number_among_names_that_are_numbers_is_never_a_position(names: tuple[str, ...]) -> None:
    """`--classes 0` erased the class called 2."""
    with pytest.raises(ClassNameError, match=r"no class is called '0'.*a number is only ever a name"):
        meant("0", it=ClassList.from_names(names))


@pytest.mark.parametrize("text", ["4", "01", "+1", "1.0", "-1", "٤", "²", "9" * 5000, ""])
def test_what_stands_for_no_class_is_refused(text: str) -> None:
    with pytest.raises(ClassNameError, match="no class"):
        meant(text)


def test_a_number_that_is_not_the_same_class_everywhere_is_refused() -> None:
    pets, insects = ClassList.from_names(["cat", "dog"]), ClassList.from_names(["ant", "bee", "fly"])
    with pytest.raises(ClassNameError, match=r"number 1 is not the same class everywhere \('dog' in p; 'bee' in q\)"):
        meant("1", p=pets, q=insects)
    with pytest.raises(ClassNameError, match="nothing in p; 'fly' in q"):
        meant("2", p=pets, q=insects)
    assert meant("1", p=pets, q=ANIMALS) == ["dog"]
    assert meant("bee", p=pets, q=insects) == ["bee"]


def test_the_same_number_is_the_same_class_after_an_erasure() -> None:
    """Or the command given twice would erase another one."""
    left = ANIMALS.without([1])
    assert meant("1", it=left.with_erased([(1, "dog")])) == ["dog"]
    assert meant("1", p=left.with_erased([(1, "dog")]), q=ANIMALS) == ["dog"]
    with pytest.raises(ClassNameError, match="no class '1'"):
        meant("1", it=left)


@pytest.mark.parametrize("name", ["a, b", "immature granulocytes(myelocytes, metamyelocytes)", " x", "x ", "1", ","])
def test_a_literal_name_is_taken_as_it_is(name: str) -> None:
    classes = ClassList.from_names(["a", "b", "x", name])
    assert meant(name, literal=True, it=classes) == [name]
    with pytest.raises(ClassNameError, match="no class '0'"):
        meant("0", literal=True, it=classes)


def test_only_a_model_without_the_answer_unknown_has_a_class_of_that_name() -> None:
    classes = ClassList.from_names(["known", "unknown"])
    check_unknown(classes, has_answer=False)
    check_unknown(ANIMALS, has_answer=True)
    with pytest.raises(ClassNameError, match="also what this model answers"):
        check_unknown(classes, has_answer=True)


def test_keeping_and_removing_are_complements() -> None:
    kept = ANIMALS.keep([3, 0, 3])
    assert (kept.ids, kept.names) == ((0, 3), ("cat", "mouse"))
    assert ANIMALS.without([1, 2]) == kept
    assert ANIMALS.without([]) == ANIMALS


@pytest.mark.parametrize("text", ["1,2", "1, 2", "x,1,2", "atypical,small", "x,atypical, small"])
def test_a_name_that_a_list_would_take_apart_is_refused(text: str) -> None:
    classes = ClassList.from_names(["x", "y", "small", "1,2", "atypical, small"])
    with pytest.raises(ClassNameError, match="is the name of one class, and a list of classes is split at commas"):
        meant(*split_names(text), it=classes)
    assert meant("2", "1", it=classes) == ["small", "y"]
    assert meant("1", "x", it=classes) == ["y", "x"]


def test_names_with_commas_are_told_apart_in_a_row() -> None:
    assert listed(["a", "1,2", " x", "it's"]) == "a, '1,2', ' x', it's"
    assert ClassList((0, 1), ("1,2", "b")).describe() == "0 '1,2', 1 b"


def test_a_description_says_a_number_only_once() -> None:
    assert ClassList((0, 4), ("0", "dog")).describe() == "0, 4 dog"


@pytest.mark.parametrize(
    ("ids", "names", "message"),
    [
        ((0, 1), ("a", "a"), "the class name 'a' occurs twice"),
        ((1, 1), ("a", "b"), "the class number 1 occurs twice"),
        ((0,), ("a", "b"), "1 class numbers but 2 names"),
    ],
)
def test_classes_that_are_not_told_apart_are_refused(ids: tuple[int], names: tuple[str], message: str) -> None:
    with pytest.raises(ClassNameError, match=message):
        ClassList(ids, names)


def test_names_are_split_at_commas() -> None:
    assert split_names(" a, 3 ,,b c,") == ["a", "3", "b c"]


@pytest.mark.parametrize("text", ["", "  ", ",", " , ,"])
def test_naming_nothing_is_refused(text: str) -> None:
    with pytest.raises(ClassNameError, match="no class is named"):
        split_names(text)


def test_removing_nothing_or_everything_is_refused() -> None:
    with pytest.raises(ClassNameError, match="no class is named"):
        check_removal(ANIMALS, [])
    with pytest.raises(ClassNameError, match="cat, dog, horse, mouse would leave no class"):
        check_removal(ANIMALS, [0, 1, 2, 3])
    check_removal(ANIMALS, [0, 1, 2])
