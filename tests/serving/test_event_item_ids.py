"""Which ids of items events may name: shops name items by numbers, and the masks of queries look for numbers."""

from __future__ import annotations

import pytest

from smar_model.data.query_text import maskable_numbers
from smar_model.serving.event_item_ids import HeldIds, masked_ids, why_no_id

NUMBERED = [
    "40123455",
    "036000291452",
    "4006381333931",
    "0012345678905",
    "10012345678902",
    "00123456789012",
    "2125550187",
    "01712345678",
    "4111111111111111",
    "001234567890123",
    "555-123-4567",
    "AB-0171-2345678",
]


def held(*item_ids: str, trained_on: tuple[str, ...] = ()) -> HeldIds:
    numbers = maskable_numbers(trained_on)
    return HeldIds(numbers, masked_ids(item_ids, numbers))


@pytest.mark.parametrize("item_id", NUMBERED)
def test_an_id_of_the_index_is_an_id_whatever_it_looks_like(item_id: str) -> None:
    assert why_no_id(item_id, [held(*NUMBERED, trained_on=tuple(NUMBERED))]) is None
    assert why_no_id(item_id, [held(item_id)]) is None, "it came after the model was trained"
    assert why_no_id(item_id, [held("other"), held(item_id)]) is None, "another version that is open holds it"


@pytest.mark.parametrize("item_id", ["40123455", "036000291452", "4006381333931", "10012345678902", "SKU-1234567", "a"])
def test_what_no_mask_takes_needs_no_index(item_id: str) -> None:
    assert why_no_id(item_id, [held()]) is None
    assert why_no_id(item_id, []) is None


@pytest.mark.parametrize(
    "item_id", ["2125550187", "01712345678", "4111111111111111", "004917123456789", "４１１１１１１１１１１１１１１１"]
)
def test_digits_alone_are_an_id_where_no_catalogue_is_known(item_id: str) -> None:
    assert why_no_id(item_id, []) is None
    assert "phone or card number" in (why_no_id(item_id, [held("1", "2")]) or "")


@pytest.mark.parametrize(
    "item_id",
    [
        "ann＠example.com",
        "+49 171 2345678",
        "4111 1111 1111 1111",
        "４１１１ １１１１ １１１１ １１１１",
        "Ann@Example.com",
    ],
)
def test_what_is_typed_as_personal_data_is_none_anywhere(item_id: str) -> None:
    for known in ([], [held("1")]):
        assert "looks like" in (why_no_id(item_id, known) or "")
