"""Forecast what an edit will do before any picture is seen, and choose a method and a strength by the forecast."""
