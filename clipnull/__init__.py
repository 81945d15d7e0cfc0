"""clipnull: learn, see and measure how a pretrained CLIP can be made to forget, without training and without data."""
from . import plots
from .course import record
from .data import World, load_images
from .edit import Edit
from .evaluate import (
    Comparison,
    accuracy_matrix,
    compare,
    domain_accuracy,
    embed,
    macro,
    predict,
    rates,
    zero_shot,
)
from .models import Clip, find_projection, load
from .prompts import Vocabulary, embed_cells, embed_classes, embed_domains, say
from .prototypes import Prototypes, cell_prototypes, synthesize
from .subspace import basis, energy_inside, principal_angles
from .unlearn import Forget, nullspace, special, unlearn

__version__ = "0.1.0"
__all__ = ["Clip", "Comparison", "Edit", "Forget", "Prototypes", "Vocabulary", "World", "accuracy_matrix", "basis",
           "cell_prototypes", "compare", "domain_accuracy", "embed", "embed_cells", "embed_classes", "embed_domains",
           "energy_inside", "find_projection", "load", "load_images", "macro", "nullspace", "plots", "predict",
           "principal_angles", "rates", "record", "say", "special", "synthesize", "unlearn", "zero_shot"]
