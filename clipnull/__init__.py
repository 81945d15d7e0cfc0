"""clipnull: learn, see and measure how a pretrained CLIP can be made to forget, without training and without data."""
from . import plots
from .auditing import (
    Probe,
    confusion,
    linear_probe,
    paraphrases,
    projection_matrix,
    retrieval_precision,
    tower,
    weight_difference,
)
from .cards import card, release
from .course.run import record
from .data import World, load_images
from .edit import Edit, Gate, export, fuse
from .errors import expect
from .evaluate import (
    Comparison,
    accuracy_matrix,
    compare,
    domain_accuracy,
    embed,
    macro,
    predict,
    rates,
    wilson,
    zero_shot,
)
from .course.exercises import check
from .course.panel import live
from .models import Clip, find_projection, load
from .prompts import Vocabulary, embed_cells, embed_classes, embed_domains, say
from .prototypes import Prototypes, cell_prototypes, synthesize
from .subspace import basis, energy_inside, principal_angles
from .unlearning import (
    METHODS,
    Concepts,
    Forget,
    concepts,
    detector,
    detectors,
    gated,
    nullspace,
    oblique,
    residual,
    ridge,
    solve,
    special,
    unlearn,
)

__version__ = "0.1.0"
__all__ = ["Clip", "Comparison", "Concepts", "Edit", "Forget", "Gate", "METHODS", "Probe", "Prototypes", "Vocabulary",
           "World", "accuracy_matrix", "basis", "card", "cell_prototypes", "check", "compare", "concepts", "confusion",
           "detector", "detectors", "domain_accuracy", "embed", "embed_cells", "embed_classes", "embed_domains",
           "energy_inside", "expect", "export", "find_projection", "fuse", "gated", "linear_probe", "live", "load",
           "load_images", "macro", "nullspace", "oblique", "paraphrases", "plots", "predict", "principal_angles",
           "projection_matrix", "rates", "record", "release", "residual", "retrieval_precision", "ridge", "say",
           "solve", "special", "synthesize", "tower", "unlearn", "weight_difference", "wilson", "zero_shot"]
