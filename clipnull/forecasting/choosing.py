"""A forecast of what `compare` will measure, from names and prototypes alone; and how good such forecasts are."""

from typing import Any

from torch import Tensor

from ..edit import Edit
from ..methods import solve
from ..models import Clip
from ..prototypes import Prototypes
from ..unlearning import embed_vocabulary, outlook_of, validate_choice, warn_of_alike
from ..vocabulary import Forget, Vocabulary
from .calibration import aims, at_chance
from .outlook import Forecast, choose, validate_words


def forecast(
    clip: Clip,
    request: Forget,
    vocabulary: Vocabulary,
    method: str | Edit = "nullspace",
    prototypes: Prototypes | bool | int | None = True,
    mean: Tensor | None = None,
    budget: str | None = None,
    prompts: str = "free",
    **settings: Any,
) -> Forecast:
    """What an edit is expected to do, before any picture is seen: what `compare` returns, with intervals.

    Real pictures are replaced by pseudo-pictures, drawn around the texts and prototypes of the cells (see
    `clipnull.forecasting.simulation`); the edit is made and measured on them. Ours.

    Parameters
    ----------
    clip : Clip
    request : Forget
        Of names in `vocabulary`.
    vocabulary : Vocabulary
    method : str or Edit
        As in `unlearn`, "auto" with its `budget` among them; or an edit that is there already.
    prototypes : bool, int or Prototypes
        As in `unlearn`. Without prototypes, texts alone are carried across the modality gap: a coarser guess.
    mean : (d,), optional
        As in `unlearn`.
    budget : str, optional
        As in `unlearn`.
    prompts : str
        What is asked with, see `zero_shot`.
    **settings
        Those of the method.

    Returns
    -------
    Forecast
        `before`, `after`: expected accuracy (C, K); `rates`: as those of `compare`; `intervals`; `method` and
        `settings`, which "auto" has chosen. Printed, it tells means and intervals.

    Raises
    ------
    ValueError
        As `unlearn`; and for a forgotten class that the text tower does not tell from another.

    Notes
    -----
    How far forecasts are from the truth: `clipnull bench --forecast`, and RESULTS.md. The forgetting rate and the order
    of methods can be relied on more than the drop in one cell.

    Examples
    --------
    >>> import clipnull as cn
    >>> clip, names = cn.load(device="cpu"), cn.Vocabulary(["cat", "dog", "house"], ["photo", "line"])
    >>> found = cn.forecast(clip, cn.Forget(["dog"]), names, "neuron", prototypes=False)
    >>> found.rates["forgetting_rate"] > 0.9, found.after.shape
    (True, torch.Size([3, 2]))
    """
    mask = request.mask(vocabulary)
    made = method if isinstance(method, Edit) else None
    within = None if made else validate_choice(str(method), budget, settings)
    cells = embed_vocabulary(clip, vocabulary, prototypes, mean)
    cells.validate(mask)
    warn_of_alike(cells, mask, vocabulary)
    outlook = outlook_of(clip, vocabulary, cells, prototypes, mean, prompts)
    validate_words(cells, outlook.classifiers.mean(0), mask, vocabulary)
    if within:
        return choose(cells, mask, request, within, outlook)[1]
    if made is None and aims(settings):
        settings = at_chance(str(method), cells, mask, outlook, vocabulary, settings)
    return outlook.forecast(made or solve(cells, mask, str(method), **settings), mask, request)
