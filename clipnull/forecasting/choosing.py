"""Forecast what an edit will do, from names and prototypes alone, and choose a method and a strength by it. Ours.

The method "auto" picks the method and strength with the best forecast within a budget. The strength "chance" makes the
edited model choose between two names like a retrained model. A class that scores below all others leaves a signature
that is as easy to find as one that scores above. The price: in a small label set, or beside a similar word, the class
is found more easily.
"""

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from torch import Tensor

from ..edit import Edit
from ..errors import brief, expect_types, one_of
from ..from_names import embed_vocabulary, warn_of_alike
from ..methods import AUTO, METHODS, solve
from ..methods.cells import Cells
from ..models import Clip
from ..prompts import embed_classes
from ..prototypes import Prototypes
from ..vocabulary import Forget, Vocabulary
from .outlook import Forecast, Simulator, validate_words

BUDGET = "forget >= .95, worst drop <= 5"
FIGURES = {
    "forget": "forgetting_rate",
    "retain drop": "retain_drop",
    "sibling drop": "sibling_class_drop",
    "sibling domain drop": "sibling_domain_drop",
    "worst drop": "worst_cell_drop",
}
"""Names in a budget for the figures of `evaluate.rates`: a rate from 0 to 1, and drops in percentage points."""
TERM = re.compile(r"\s*([a-z ]+?)\s*(>=|<=)\s*([-+]?(?:\d+\.?\d*|\.\d+))\s*")

Limit = tuple[str, str, float]  # a figure of `evaluate.rates`, ">=" or "<=", and a bound

FORMS = ("linear", "layer", "module")  # the simplest first: a matrix fits into any checkpoint (`Edit.form`)
TIE = 0.01  # forecasts at most this many points apart are a tie; wider ties chose worse on training pictures of PACS

CHANCE = "chance"
RANGE, HALVINGS = (0.1, 10.0), 10  # the strengths searched for "chance", to half a percent


def forecast(
    clip: Clip,
    request: Forget,
    vocabulary: Vocabulary,
    method: str | Edit = "nullspace",
    prototypes: Prototypes | bool | int | None = True,
    mean: Tensor | None = None,
    budget: str | None = None,
    **settings: Any,
) -> Forecast:
    """Forecast what `compare` would measure for an edit, with intervals, before any picture is seen. Ours.

    Simulated pictures (`forecasting.simulation`) replace real ones, and free prompts classify them. Without prototypes,
    the forecast is coarser. method: the name of a method, or an existing edit. clip, request, vocabulary, prototypes,
    mean, budget, settings: as in `unlearn`. Raise ValueError as `unlearn` does, and for a forgotten class that the text
    tower cannot separate from another.

    >>> import clipnull as cn
    >>> clip, names = cn.load(device="cpu"), cn.Vocabulary(["cat", "dog", "house"], ["photo", "line"])
    >>> expected = cn.forecast(clip, cn.Forget(["dog"]), names, "neuron", prototypes=False)
    >>> expected.rates["forgetting_rate"] > 0.9, expected.after.shape
    (True, torch.Size([3, 2]))
    """
    expect_types(clip=clip, request=request, vocabulary=vocabulary)
    edit, simulator = choose_edit(clip, request, vocabulary, method, prototypes, mean, budget, **settings)
    return simulator.forecast(edit, request.mask(vocabulary), request)


def choose_edit(
    clip: Clip,
    request: Forget,
    vocabulary: Vocabulary,
    method: str | Edit,
    prototypes: Prototypes | bool | int | None = True,
    mean: Tensor | None = None,
    budget: str | None = None,
    **settings: Any,
) -> tuple[Edit, Simulator]:
    """Return the edit of `unlearn` and its simulator; "auto" and the strength "chance" are chosen by forecast."""
    mask, limits = request.mask(vocabulary), read_budget(BUDGET if budget is None else budget)
    name = method.method if isinstance(method, Edit) else one_of("method", method, [*METHODS, AUTO])
    if name == AUTO and settings:
        raise ValueError(f"settings: {', '.join(settings)} given with method 'auto', which chooses them; expected none")
    if name != AUTO and budget is not None:
        raise ValueError(f"budget: {brief(budget)} given with method {name!r}; expected method='auto'")
    if settings.get("strength") == CHANCE:
        one_of("method, with strength='chance'", name, with_strength())
        if mask.all(0).any():
            raise ValueError("strength: 'chance' is undefined for a whole forgotten domain; expected a number")
    cells = embed_vocabulary(clip, vocabulary, prototypes, mean)
    cells.validate(mask)
    warn_of_alike(cells, mask, vocabulary)
    simulator = simulator_of(clip, vocabulary, cells, prototypes, mean)
    validate_words(cells, simulator.classifier, mask, vocabulary)
    if isinstance(method, Edit):
        return method, simulator
    if method == AUTO:
        return best_within(limits, candidates(cells, mask), simulator, mask, request), simulator
    if settings.get("strength") == CHANCE:
        settings["strength"] = chance_strength(method, cells, mask, simulator, vocabulary, settings)
    return solve(cells, mask, method, **settings), simulator


def simulator_of(
    clip: Clip,
    vocabulary: Vocabulary,
    cells: Cells,
    prototypes: Prototypes | bool | int | None = True,
    mean: Tensor | None = None,
) -> Simulator:
    """Return the simulator of `clip`. cells: the output of `embed_vocabulary` for the same arguments."""
    unedited = embed_vocabulary(clip.base, vocabulary, prototypes, mean) if clip.edits and clip.base else cells
    return Simulator(unedited, embed_classes(clip, vocabulary.names), [edit.images for edit in clip.edits])


def read_budget(text: str) -> list[Limit]:
    """Parse the limits in a text such as BUDGET.

    >>> read_budget("forget >= .95, worst drop <= 5")
    [('forgetting_rate', '>=', 0.95), ('worst_cell_drop', '<=', 5.0)]
    """
    limits = []
    for term in str(text).lower().split(","):
        match = TERM.fullmatch(term)
        if match is None or (match[1] == "forget" and not 0 <= float(match[3]) <= 1):
            raise ValueError(f"budget: {brief(term.strip())} is not a limit; expected for example {BUDGET!r}")
        limits.append((FIGURES[one_of("budget", match[1], FIGURES)], match[2], float(match[3])))
    return limits


def excess(limits: Sequence[Limit], rates: Mapping[str, float]) -> dict[str, float]:
    """Return by how many points each figure in `rates` misses its limit, if it does; NaN never misses."""
    misses = {}
    for figure, sign, value in limits:
        by = rates[figure] - value if sign == "<=" else value - rates[figure]
        by *= 100 if figure == "forgetting_rate" else 1
        if by > 1e-9:
            misses[figure] = by
    return misses


def best_within(
    limits: Sequence[Limit], edits: Iterable[Edit], simulator: Simulator, mask: Tensor, request: Forget
) -> Edit:
    """Return the best edit whose forecast meets the limits; raise ValueError with the nearest one if none does."""
    forecasts = [simulator.forecast(edit, mask, request) for edit in edits]
    if within := [forecast for forecast in forecasts if not excess(limits, forecast.rates)]:
        return best_of(within).edit
    nearest = min(forecasts, key=lambda forecast: sum(excess(limits, forecast.rates).values()))
    missed = ", ".join(f"{name} {nearest.rates[name]:.3g}" for name in excess(limits, nearest.rates))
    budget = ", ".join(f"{name} {sign} {value:g}" for name, sign, value in limits)
    strength = METHODS[nearest.edit.method].strength
    at = f" ({strength} = {nearest.edit.settings[strength]:g})" if strength else ""
    raise ValueError(
        f"budget: no method is expected to meet {budget} for {request}; the nearest is {nearest.edit.method!r}{at} "
        f"with {missed}; expected a wider budget"
    )


def best_of(forecasts: Sequence[Forecast]) -> Forecast:
    """Return the forecast with the most `Forecast.points`; within TIE points, the simplest form of edit."""
    most = max(forecast.points for forecast in forecasts)
    near = [forecast for forecast in forecasts if forecast.points >= most - TIE]
    return min(near, key=lambda forecast: (FORMS.index(forecast.edit.form), -forecast.points))


def candidates(cells: Cells, mask: Tensor) -> Iterator[Edit]:
    """Yield the edits to choose from: each method at each of its `Method.values`."""
    for name, method in METHODS.items():
        for settings in [{method.strength: value} for value in method.values] or [{}]:
            yield solve(cells, mask, name, **settings)


def is_usual(edit: Edit) -> bool:
    """Return True if an edit has its method's default strength."""
    method = METHODS[edit.method]
    return not method.strength or edit.settings[method.strength] == method.defaults[method.strength]


def with_strength() -> list[str]:
    """Return the names of the methods with a setting `strength`."""
    return [name for name in METHODS if "strength" in METHODS[name].defaults]


def chance_strength(
    method: str, cells: Cells, mask: Tensor, simulator: Simulator, vocabulary: Vocabulary, settings: dict[str, Any]
) -> float:
    """Return the strength of `method` at which `Simulator.pairwise` is one half.

    mask: cells to forget, (C, K) bool. settings: the method's other settings. Raise ValueError if no strength in RANGE
    gives one half: the model knows the names no better than chance anyway, or the method does not act on the pictures.
    """

    def share(strength: float) -> float:
        return simulator.pairwise(solve(cells, mask, method, **settings | {"strength": strength}), mask)

    low, high = RANGE
    least, most = share(high), share(low)
    if not least < 0.5 < most:
        classes = ", ".join(repr(vocabulary.classes[c]) for c in mask.any(1).nonzero()[:, 0].tolist())
        raise ValueError(
            f"strength: 'chance' cannot be reached with {method!r}; against one other name, {classes} is expected "
            f"to win for {most:.0%} of its pictures at {low:g} and {least:.0%} at {high:g}; expected a number"
        )
    for _ in range(HALVINGS):
        middle = (low * high) ** 0.5
        low, high = (middle, high) if share(middle) > 0.5 else (low, middle)
    return (low * high) ** 0.5
