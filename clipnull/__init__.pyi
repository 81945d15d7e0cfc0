from .audits import audit as audit
from .bench.cards import release as release
from .course.checking import check as check
from .course.metrics import record as record
from .datasets.loading import load_images as load_images
from .edit import Edit as Edit
from .embedding import embed as embed
from .evaluate import compare as compare
from .evaluate import zero_shot as zero_shot
from .forecasting.choosing import forecast as forecast
from .from_names import embed_vocabulary as embed_vocabulary
from .interop.exporting import export as export
from .interop.exporting import fuse as fuse
from .interop.transformers import wrap as wrap
from .methods import METHODS as METHODS
from .methods import solve as solve
from .models import load as load
from .unlearning import unlearn as unlearn
from .vocabulary import Forget as Forget
from .vocabulary import Vocabulary as Vocabulary

__version__: str
