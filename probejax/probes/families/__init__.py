"""What a fitted probe is: a pytree that can be called, one family per file."""

from probejax.probes.families.by_position import ByPosition as ByPosition
from probejax.probes.families.linear import Linear as Linear
from probejax.probes.families.neighbours import Neighbours as Neighbours
from probejax.probes.families.network import Network as Network
from probejax.probes.families.on_latents import OnLatents as OnLatents
from probejax.probes.families.pooled import Pooled as Pooled
from probejax.probes.families.probe import Probe as Probe
from probejax.probes.families.trees import Trees as Trees

FAMILIES = (Linear, OnLatents, Neighbours, Network, Trees, Pooled, ByPosition)
