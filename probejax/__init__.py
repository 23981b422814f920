"""Honest, fast, accelerator-native probing of language models.

tasks -> models -> activations -> saes -> probes -> sweep -> analysis
"""

import lazy_loader

# What there is stands in __init__.pyi; a room is imported when it is first used.
__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
__version__ = "0.1.0"
