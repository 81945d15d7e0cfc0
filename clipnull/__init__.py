"""clipnull: learn, see and measure how a pretrained CLIP can be made to forget, without training and without data.

The names below are loaded when they are first used (__init__.pyi says from where); all else is imported by module:
`from clipnull.subspace import principal_angles`, `from clipnull import plots`.
"""

import lazy_loader

__version__ = "0.2.0"

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
