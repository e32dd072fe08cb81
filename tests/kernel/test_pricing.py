"""Prices: integer micros, rounded up, from the installed table; what has no price is refused."""

from __future__ import annotations

from importlib.metadata import version

import pytest
from hypothesis import given
from hypothesis import strategies as st

from activities.kernel.pricing import Prices
from schemas.error import Refused
from schemas.ledger import Usage
from schemas.tariff import Bounds, Tariff, upper_bound

TARIFF = Tariff(number=7, cpu_micros_per_s=11, wall_micros_per_s=3, egress_micros_per_mib=88, tool_call_micros=10)
PRICES = Prices(TARIFF)
MODEL = "openai:gpt-4o"


def test_use_of_the_sandbox_is_priced_by_the_tariff_and_rounded_up() -> None:
    cost = PRICES.price(Usage(cpu_ms=1_001, wall_ms=1, egress_bytes=1, tool_calls=2))
    assert (cost.token_micros, cost.tool_micros, cost.duration_micros, cost.total_micros) == (0, 20, 12 + 1 + 1, 34)
    assert cost == TARIFF.price(Usage(cpu_ms=1_001, wall_ms=1, egress_bytes=1, tool_calls=2))


def test_nothing_costs_nothing() -> None:
    assert PRICES.price(Usage()).total_micros == 0


def test_tokens_are_priced_by_their_model() -> None:
    assert PRICES.price(Usage(prompt_tokens=1_000, completion_tokens=100, model=MODEL)).token_micros == 3_500
    cached = PRICES.price(Usage(prompt_tokens=1_000, completion_tokens=100, cached_tokens=500, model=MODEL)).token_micros
    assert 0 < cached < 3_500


def test_the_table_and_the_tariff_are_named() -> None:
    assert PRICES.version == f"genai-prices/{version('genai-prices')}+tariff/7"
    assert len(PRICES.version) <= 64  # as wide as its column


@pytest.mark.parametrize("model", ["unheard-of", "openai:unheard-of", "nobody:gpt-4o", "", None])
def test_an_unknown_model_has_no_price(model: str | None) -> None:
    with pytest.raises(Refused, match="PRICE_UNKNOWN"):
        PRICES.price(Usage(prompt_tokens=1, model=model))
    with pytest.raises(Refused, match="PRICE_UNKNOWN"):
        upper_bound(PRICES, Bounds(max_tokens=1, model=model))


def test_the_tariff_alone_knows_no_tokens() -> None:
    with pytest.raises(Refused, match="PRICE_UNKNOWN"):
        TARIFF.price(Usage(completion_tokens=1, model=MODEL))
    with pytest.raises(Refused, match="PRICE_UNKNOWN"):
        upper_bound(TARIFF, Bounds(max_tokens=1, model=MODEL))


@given(
    bounds=st.builds(
        Bounds, wall_ms=st.integers(0, 10**7), cpu_percent=st.integers(0, 1_600), tool_calls=st.integers(0, 100),
        egress_bytes=st.integers(0, 10**9), max_tokens=st.integers(0, 300_000), model=st.sampled_from([MODEL, "gemini-2.5-pro"]),
    ),
    data=st.data(),
)  # fmt: skip
def test_no_call_within_its_limits_costs_more_than_its_bound(bounds: Bounds, data: st.DataObject) -> None:
    draw = data.draw
    prompt = draw(st.integers(0, bounds.max_tokens))
    usage = Usage(
        prompt_tokens=prompt, completion_tokens=draw(st.integers(0, bounds.max_tokens - prompt)), model=bounds.model,
        cached_tokens=draw(st.integers(0, prompt)), tool_calls=draw(st.integers(0, bounds.tool_calls)),
        cpu_ms=draw(st.integers(0, bounds.wall_ms * bounds.cpu_percent // 100)), wall_ms=draw(st.integers(0, bounds.wall_ms)),
        egress_bytes=draw(st.integers(0, bounds.egress_bytes)),
    )  # fmt: skip
    assert PRICES.price(usage).total_micros <= upper_bound(PRICES, bounds)["micros"]
