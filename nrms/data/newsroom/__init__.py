"""Where do data with a known truth come from? The demo world: its stories and clicks (world), its titles (headlines), its pictures."""

from nrms.data.newsroom.world import QUANTILES, REAL_MIND, generate

__all__ = ["QUANTILES", "REAL_MIND", "generate"]
