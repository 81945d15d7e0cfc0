from .adapters import wrap as wrap
from .audits import audit as audit
from .cards import release as release
from .course.checking import check as check
from .course.metrics import record as record
from .data import Images as Images
from .data import load_images as load_images
from .edit import Edit as Edit
from .embedding import embed as embed
from .evaluate import compare as compare
from .evaluate import zero_shot as zero_shot
from .exporting import export as export
from .exporting import fuse as fuse
from .forecasting import forecast as forecast
from .methods import METHODS as METHODS
from .methods import solve as solve
from .models import Clip as Clip
from .models import load as load
from .prompts import near as near
from .requests import Forget as Forget
from .unlearning import embed_vocabulary as embed_vocabulary
from .unlearning import unlearn as unlearn
from .wording import Vocabulary as Vocabulary

__version__: str
