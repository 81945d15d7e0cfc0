"""clipnull makes a pretrained CLIP forget, without training and without data, and measures what it forgot.

The public names load on first use, from the modules that __init__.pyi lists. Import everything else from its module,
as in `from clipnull.subspace import principal_angles`.
"""

import lazy_loader

__version__ = "0.2.0"

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
