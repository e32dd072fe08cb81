"""What tokens cost: by the price table that is installed, never one that is fetched; an unknown model has no price."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from decimal import ROUND_CEILING, Decimal
from importlib.metadata import version

from genai_prices import Usage as Tokens
from genai_prices import calc_price
from genai_prices.types import ModelPrice, TieredPrices

from schemas.ledger import Usage
from schemas.tariff import Cost, Tariff, unknown_price

_MICROS = 1_000_000
_PRICE_SUFFIX = "_mtok"
"""Names of prices per million tokens end so; dollars per million tokens are micros per token."""


@dataclass(frozen=True)
class Prices:
    """A tariff, and the prices of tokens beside it.

    A model is named ``provider:model``, or ``model`` where only one provider has it.
    """

    tariff: Tariff

    @property
    def version(self) -> str:
        return f"genai-prices/{version('genai-prices')}+{self.tariff.version}"

    def price(self, usage: Usage) -> Cost:
        """Raises Refused: PRICE_UNKNOWN."""
        cost = self.tariff.without_tokens(usage)
        if not usage.prompt_tokens and not usage.completion_tokens:
            return cost
        tokens = Tokens(
            input_tokens=usage.prompt_tokens, output_tokens=usage.completion_tokens,
            cache_read_tokens=usage.cached_tokens or None,
        )  # fmt: skip
        provider, model = _named(usage.model)
        try:
            dollars = calc_price(tokens, model, provider_id=provider).total_price
        except (LookupError, ValueError) as error:
            raise unknown_price(usage.model) from error
        return cost.model_copy(update={"token_micros": _up(dollars * _MICROS)})

    def highest_token_micros(self, model: str, tokens: int) -> int:
        """The most that ``tokens`` of ``model`` can cost: all of them at its highest price of any kind and tier.

        Raises:
            Refused: PRICE_UNKNOWN.
        """
        provider, name = _named(model)
        try:
            prices = calc_price(Tokens(input_tokens=1), name, provider_id=provider).model.prices
        except (LookupError, ValueError) as error:
            raise unknown_price(model) from error
        # A model may cost more at another hour of the day.
        always = [prices] if isinstance(prices, ModelPrice) else [conditional.prices for conditional in prices]
        highest = max((price for one in always for price in _token_prices(one)), default=None)
        if highest is None:
            raise unknown_price(model)
        return _up(highest * tokens)


def _named(model: str | None) -> tuple[str | None, str]:
    provider, separator, name = (model or "").partition(":")
    return (provider, name) if separator else (None, provider)


def _token_prices(model: ModelPrice) -> Iterator[Decimal]:
    for name, price in vars(model).items():
        if not name.endswith(_PRICE_SUFFIX) or price is None:
            continue
        if isinstance(price, TieredPrices):
            yield price.base
            yield from (tier.price for tier in price.tiers)
        else:
            yield price


def _up(amount: Decimal) -> int:
    return int(amount.to_integral_value(ROUND_CEILING))
