"""Classes by name, number and position."""

import re

import pytest

from pfm.classes import ClassList, check_removal, split_names
from pfm.errors import ClassNameError

ANIMALS = ClassList.from_names(["cat", "dog", "horse", "mouse"])


def test_classes_from_names_are_counted_from_zero() -> None:
    assert ANIMALS.ids == (0, 1, 2, 3)
    assert len(ANIMALS) == 4


def test_a_class_is_found_by_name_and_by_number() -> None:
    assert ANIMALS.position("dog") == 1
    assert ANIMALS.position("1") == ANIMALS.position(1) == 1
    assert ANIMALS.position("  horse ") == 2


def test_a_name_wins_over_a_number() -> None:
    classes = ClassList.from_names(["2", "0", "1"])
    assert [classes.position(key) for key in ("0", "1", "2")] == [1, 2, 0]


def test_a_number_is_that_of_the_class_and_not_its_place() -> None:
    left = ANIMALS.without([1])
    assert left.ids == (0, 2, 3)
    assert left.position("3") == 2
    with pytest.raises(ClassNameError, match="no class '1'"):
        left.position(1)


@pytest.mark.parametrize("key", ["-1", "1.0", "", "²", "4", "٤"])
def test_what_is_no_class_is_refused(key: str) -> None:
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
    assert ANIMALS.positions(["mouse", "0", "cat", 3]) == [0, 3]
    assert ANIMALS.positions([]) == []


def test_a_name_that_holds_commas_can_be_given_on_the_command_line() -> None:
    """bloodmnist, the paper's first data set, has such a class."""
    name = "immature granulocytes(myelocytes, metamyelocytes and promyelocytes)"
    classes = ClassList.from_names(["basophil", name, "platelet", "a,b,c"])
    assert classes.positions(split_names(name)) == [1]
    assert classes.positions(split_names(f"platelet, {name}, 0,a,b,c")) == [0, 1, 2, 3]
    with pytest.raises(ClassNameError, match=r"no class 'immature granulocytes\(myelocytes'; did you mean"):
        classes.positions(["immature granulocytes(myelocytes", "platelet"])


def test_a_class_whose_name_is_part_of_another_is_found_first() -> None:
    classes = ClassList.from_names(["a", "b", "a, b"])
    assert classes.positions(split_names("a, b")) == [0, 1]


def test_keeping_and_removing_are_complements() -> None:
    kept = ANIMALS.keep([3, 0, 3])
    assert (kept.ids, kept.names) == ((0, 3), ("cat", "mouse"))
    assert ANIMALS.without([1, 2]) == kept
    assert ANIMALS.without([]) == ANIMALS


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
